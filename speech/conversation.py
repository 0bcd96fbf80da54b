"""Several turns as one recording: who hears what, how long each may be, and the silence between."""

from __future__ import annotations

from dataclasses import dataclass, replace

from audio_utils import Audio, trim_silence
from speech.engines.base import Line, Segment
from speech.errors import InvalidInput
from speech.service import Service, Take

MS_PER_CHAR = 65
"""English read aloud: about 15 characters a second."""

MS_PER_TURN = 400
"""What a turn takes beside its characters."""

MIN_TURN_MS = 500
"""No turn is worth starting with less."""

EDGE_MS = 5
EDGE_DB = -40.0
"""A turn's edges are cut this close to its speech, so that a pause is heard as long as it was asked to be."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: what is said by whom, and the silence after it, in milliseconds. voice: by name, or the speaker's."""

    text: str
    speaker: int
    pause_ms: int
    voice: str | None = None


def expected_ms(text: str) -> float:
    """About how long `text` takes to say."""
    return MS_PER_TURN + MS_PER_CHAR * len(text)


def speak_turns(service: Service, turns: list[Turn], line: Line) -> Take:
    """Say `turns` one after the other, drawn and limited in all as `line` says, each after everything before it.

    The time allowed, less the pauses, is divided by the work that is left: a long turn is not starved by short ones,
    what a turn leaves over goes to those after it, and none gets less than MIN_TURN_MS. Raises InvalidInput
    where the pauses leave no time to speak.
    """
    pauses_ms = sum(turn.pause_ms for turn in turns[:-1])
    left_ms = float(line.max_duration_ms - pauses_ms)
    if left_ms < MIN_TURN_MS * len(turns):
        raise InvalidInput(
            "turns",
            f"{len(turns)} turns with {pauses_ms} ms of pauses do not fit into {line.max_duration_ms} ms",
            "send fewer turns, shorter pauses or a larger max_total_duration_ms",
        )
    context, sounds, truncated = line.context, [], False
    voices: dict[str, None] = {}
    for index, turn in enumerate(turns):
        work_ms = [expected_ms(later.text) for later in turns[index:]]
        share_ms = left_ms * work_ms[0] / sum(work_ms)
        allowed_ms = int(min(max(share_ms, MIN_TURN_MS), left_ms - MIN_TURN_MS * (len(work_ms) - 1)))
        said = replace(line, text=turn.text, field=f"turns[{index}].text", speaker=turn.speaker)
        said = replace(said, context=context, max_duration_ms=allowed_ms)
        if turn.voice:
            said = service.in_voice(said, turn.voice, f"turns[{index}].voice")
        take = service.take(said)
        audio = trim_silence(take.audio, keep_ms=EDGE_MS, threshold_db=EDGE_DB)
        left_ms -= audio.duration_ms
        truncated |= take.truncated
        voices |= dict.fromkeys(take.voices)
        context = (*context, Segment(turn.text, turn.speaker, audio, *take.voices))
        sounds.append(audio)
        if turn is not turns[-1]:
            sounds.append(Audio.silence(turn.pause_ms, audio.sample_rate_hz))
    return Take(Audio.join(sounds), truncated, tuple(voices))
