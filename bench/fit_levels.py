"""Makes speech/engines/kokoro/data/levels.npz, the levels of the stock voices: `python -m bench.fit_levels`."""

from __future__ import annotations

import numpy as np

from speech.caller import Caller
from speech.engines.kokoro import levels
from speech.engines.kokoro.model import loaded
from speech.engines.kokoro.voices import VOICES, style_table


def main() -> None:
    (model,) = loaded([2])
    found = []
    for voice in VOICES.values():
        found.append(levels.taken(model, style_table(voice.id), voice.british, Caller()))
        print(voice.id, flush=True)
    np.savez_compressed(levels.STORED, **levels.packed(found))
    print(f"{levels.STORED.stat().st_size / 1e6:.2f} MB in {levels.STORED}")


if __name__ == "__main__":
    main()
