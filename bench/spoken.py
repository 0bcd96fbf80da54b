"""What the voice benchmarks say, and Kokoro saying it in any style."""

from __future__ import annotations

import numpy as np

from audio_utils import Audio
from speech.engines import embedded
from speech.engines.base import Line
from speech.engines.kokoro.engine import KokoroEngine, KokoroVoice

STOCK_TEXTS = (
    "Good morning, how did you sleep last night?",
    "I think we should go there before it gets dark.",
    "That sounds wonderful, thank you very much.",
    "The second answer is usually the right one.",
    "My brother works at the hospital in town.",
    "Well, it depends on what you mean by cheap.",
    "Let me check the calendar for next week.",
    "Nothing has changed since we last spoke.",
    "Are you sure that this is the right address?",
    "He bought a pair of shoes and a green hat.",
    "Yes, of course, I would be happy to help you.",
    "The meeting has been moved to Friday afternoon.",
    "We could try again with a smaller group.",
    "Please turn the volume down a little bit.",
    "It took them almost an hour to find the keys.",
    "What a beautiful view from up here, isn't it?",
)
"""Two to four seconds each; the stock voices are learnt from these."""

TEXTS = (
    *STOCK_TEXTS,
    "The train to Bristol leaves from platform nine at half past four.",
    "I never thought the garden would look this green in October.",
    "Please leave the parcel with my neighbour if nobody answers the door.",
    "We measured the temperature twice, and both times it was far too high.",
    "Could you pass me the blue folder from the top shelf, please?",
    "She laughed so hard that the whole room turned around to look.",
    "Every morning he walks the dog along the river before breakfast.",
    "The committee will publish its final report early next year.",
    "What would you do if the bridge was closed for the whole summer?",
    "They built the house out of stone, oak, and a great deal of patience.",
    "My favourite part of the journey was the quiet road over the hills.",
    "Just before midnight the storm moved out to sea and the wind dropped.",
    "You should have told me earlier that the kitchen was already booked.",
    "A small boat drifted slowly under the old wooden pier.",
)
"""What the drawn styles say; some are longer."""

HELD_OUT_TEXTS = (
    "You can pick up the tickets at the front desk.",
    "Honestly, I did not see that one coming.",
    "The weather should be much better by Sunday.",
    "Where did you put the charger for the camera?",
    "I have been reading about the history of glass.",
    "Call me back whenever you have a spare moment.",
)
"""Never used in the fit."""


class Speaker:
    """Kokoro with any style. threads: processor threads."""

    def __init__(self, threads: int = 1) -> None:
        self._engine = KokoroEngine(threads)
        self._engine.start()

    def say(self, text: str, table: np.ndarray, british: bool) -> Audio:
        """`text` in the style of `table`, float32[510, 256]."""
        line, voice = Line(text), KokoroVoice("bench", table, british)
        return Audio.join(list(self._engine._chunks(embedded.phonemes(line, british=british), voice, line)))
