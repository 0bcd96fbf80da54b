"""What a caller of the load bench does, as Locust wants it told (`bench/load.py` runs it)."""

from __future__ import annotations

import itertools
import time

from locust import FastHttpUser, events, task

TEXTS = (
    "Hello. Nice to meet you.",
    "The weather is lovely today, so we went outside.",
    "It was a bright morning in April. The clocks had just struck nine, and nobody in the house was awake yet.",
)
VOICE = "af_heart"  # every server has it


class Caller(FastHttpUser):
    """Asks for speech, listens to all of it at once, asks again; comes back a second after it was told to."""

    network_timeout = 120.0
    callers = itertools.count()

    def on_start(self) -> None:
        begins = next(self.callers) % len(TEXTS)
        self.texts = itertools.cycle(TEXTS[begins:] + TEXTS[:begins])

    @task
    def speak(self) -> None:
        body = {"model": "tts-1", "voice": VOICE, "response_format": "pcm", "input": next(self.texts)}
        began_s = time.perf_counter()
        with self.client.post(
            "/v1/audio/speech", json=body, stream=True, catch_response=True, name="asked"
        ) as response:
            if response.status_code == 429:
                events.request.fire(request_type="", name="refused", response_time=_ms(began_s), response_length=0)
                response.success()
                time.sleep(1)
                return
            if response.status_code != 200:
                response.failure(f"answered with {response.status_code}")
                return
            first = response.stream.read(1)
            events.request.fire(request_type="", name="first", response_time=_ms(began_s), response_length=1)
            rest = response.stream.read()
            audio_ms = (len(first) + len(rest)) / 2 / 24
            events.request.fire(request_type="", name="whole", response_time=_ms(began_s), response_length=0)
            events.request.fire(request_type="", name="audio", response_time=audio_ms, response_length=len(rest))
            response.success()


def _ms(began_s: float) -> float:
    return 1000 * (time.perf_counter() - began_s)
