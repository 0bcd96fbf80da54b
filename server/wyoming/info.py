"""What this server tells Home Assistant that it is: a program, and every voice it has."""

from __future__ import annotations

from wyoming.info import Attribution, Info, TtsProgram, TtsVoice

from speech.engines.base import EngineInfo
from speech.release import VERSION
from speech.service import Service
from speech.voices.catalogue import Voice

NAME = "Duologue"

MAKERS = {
    "csm": Attribution("Sesame AI Labs", "https://github.com/SesameAILabs/csm"),
    "kokoro": Attribution("hexgrad", "https://huggingface.co/hexgrad/Kokoro-82M"),
    "hibari": Attribution("Maureese Williams", "https://github.com/MMWilliams/hibari"),
}
"""Of the models, by engine."""


def info_of(service: Service) -> Info:
    engine = service.engine.info
    program = TtsProgram(
        name=NAME,
        description=f"{NAME} {VERSION}, speaking with {engine.model}",
        attribution=_maker(engine),
        installed=True,
        version=VERSION,
        voices=[_voice(voice, engine) for voice in service.voices.all()],
        supports_synthesize_streaming=True,
    )
    return Info(tts=[program])


def _voice(voice: Voice, engine: EngineInfo) -> TtsVoice:
    """By its name and not its id: Home Assistant keeps what was chosen, and an added voice may be added again."""
    return TtsVoice(
        name=voice.name,
        description=_description(voice),
        attribution=Attribution("a caller of this server", "") if voice.recording else _maker(engine),
        installed=True,
        version=VERSION,
        languages=list(engine.languages),
    )


def _description(voice: Voice) -> str:
    """What Home Assistant shows in its list, in the order of the letters."""
    if voice.kind == "alias":
        return f"{voice.name} (OpenAI's name{f' for {voice.own}' if voice.own else ''})"
    return f"{voice.name} (added)" if voice.kind == "custom" else voice.name


def _maker(engine: EngineInfo) -> Attribution:
    return MAKERS.get(engine.name) or Attribution(engine.model, "")
