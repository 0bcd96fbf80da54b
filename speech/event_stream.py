"""POST /stream_speak as text, event by event, for a face that can send nothing else.

What is wrong before the first sound is raised; afterwards nothing is: who reads the events has begun to listen, and
a platform that saw its instance fail would speak the request again, from the start, into the same ear.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from typing import Any

from loguru import logger

import schemas
from audio_utils import Format
from speech.caller import Caller
from speech.errors import InvalidInput
from speech.operations import STREAM_SPEAK
from speech.service import Service
from speech.streaming import Speaking, events

BROKE_OFF = {
    "type": "error",
    "detail": "something failed on the server; its log says what",
    "code": "internal",
    "field": None,
}


def opened(service: Service, raw: Any, caller: Caller) -> Generator[str]:
    """The answer to the raw JSON body `raw`, once its first sound is there: at most MAX_EVENTS server-sent events.
    Raises SpeechError."""
    wanted = schemas.parse(schemas.StreamSpeakRequest, raw)
    if wanted.stream_format != "sse":
        cure = 'send "sse", whose events carry the sound in base64, or ask a self-hosted server'
        raise InvalidInput("stream_format", "is not to be had on Chutes: its gateway passes on text alone", cure)
    return _told(STREAM_SPEAK.run(service, wanted, caller), wanted.response_format)


def _told(speaking: Speaking, response_format: Format) -> Generator[str]:
    with closing(speaking):
        try:
            for event in events(speaking, response_format):
                yield server_sent(event)
        except Exception:
            logger.exception("a stream broke off")
            yield server_sent(BROKE_OFF)


def server_sent(event: dict[str, Any]) -> str:
    """`event` as one server-sent event."""
    return "data: " + json.dumps(event, separators=(",", ":")) + "\n\n"
