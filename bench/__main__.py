"""`make bench`: what this machine does, one script after the other. Each prints a table and, last, one JSON line."""

from __future__ import annotations

import runpy

SCRIPTS = ("bench.service", "bench.first_audio", "bench.load", "bench.voice_match", "bench.csm_engine")

for script in SCRIPTS:
    print(f"\n== {script}", flush=True)
    runpy.run_module(script, run_name="__main__")
