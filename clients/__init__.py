"""Client of a Duologue speech server: text in, sound out.

    with TTSClient("http://127.0.0.1:8000") as client:
        client.speak("Hello.").save("hello.wav")

Stands alone: it needs httpx (and tqdm for `python -m`), and the folder can be copied into another project.
"""

from .client import DEFAULT_TIMEOUT, AsyncTTSClient, TTSClient
from .conversation import AsyncConversation, Conversation
from .errors import (
    APIStatusError,
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    InvalidRequest,
    ServerFailed,
    TimedOut,
    TTSError,
    UnreadableAnswer,
)
from .retries import Retries
from .streaming import AsyncSpeechStream, SpeechStream
from .values import Segment, Speech, Turn

__all__ = [
    "DEFAULT_TIMEOUT",
    "APIStatusError",
    "AsyncConversation",
    "AsyncSpeechStream",
    "AsyncTTSClient",
    "AuthenticationFailed",
    "Busy",
    "ConnectionFailed",
    "Conversation",
    "InvalidRequest",
    "Retries",
    "Segment",
    "ServerFailed",
    "Speech",
    "SpeechStream",
    "TTSClient",
    "TTSError",
    "TimedOut",
    "Turn",
    "UnreadableAnswer",
]
