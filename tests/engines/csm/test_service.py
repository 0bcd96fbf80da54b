"""The whole service on this engine: every operation, through HTTP, both layouts."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from server.app import create_app
from speech.engines.csm.engine import CsmConfig, CsmEngine
from speech.operations import OPERATIONS
from speech.service import Service
from speech.settings import Settings
from tests.engines.csm.tiny import clip


def wav_b64(seconds: float, rate_hz: int = 16_000) -> str:
    file = io.BytesIO()
    soundfile.write(file, clip(seconds)[: int(seconds * rate_hz)], rate_hz, format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def samples(data: bytes) -> np.ndarray:
    read, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate_hz == 24_000
    return read


@pytest.fixture(scope="module", params=["transformers", "original"])
def http(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    codec = str(folder / "mimi") if request.param == "original" else None
    service = Service(CsmEngine(CsmConfig(weights=str(folder), codec=codec, device="cpu", slots=3)), Settings())
    service.start()
    with TestClient(create_app(service, Settings())) as client:
        yield client


BODIES: dict[str, dict[str, object]] = {
    "conversation": {
        "turns": [{"speaker": i % 2, "text": f"This is turn {i}.", "pause_ms": 100} for i in range(3)],
        "max_total_duration_ms": 5000,
    },
    "clone_voice": {"text": "Hello.", "reference_audio_b64": wav_b64(1.5), "reference_text": "I am someone.",
                    "max_duration_ms": 1000},
    "batch_speak": {"texts": ["One.", "Two.", "Three.", "Four."], "max_duration_per_text_ms": 1000},
}  # fmt: skip
PLAIN = {"text": "Hello there.", "max_duration_ms": 1000}
SPEAKING = ["speak", "contextual_speak", "cached_speak", "optimized_speak"]


def test_every_operation_of_the_contract_is_asked_here() -> None:
    assert {*BODIES, *SPEAKING, "quality_speak", "robust_speak"} == set(OPERATIONS)


@pytest.mark.parametrize("name", [*BODIES, *SPEAKING])
def test_the_operation_speaks_and_its_seed_repeats_it(http: TestClient, name: str) -> None:
    made = []
    for session in "ab":
        own = {"session_id": session} if name == "contextual_speak" else {}
        response = http.post(f"/{name}", json={"seed": 3, **BODIES.get(name, PLAIN), **own})
        assert response.status_code == 200, response.text
        made.append(response)
    if name == "batch_speak":
        assert made[0].json() == made[1].json()
    else:
        assert made[0].content == made[1].content
        assert 0.5 < len(samples(made[0].content)) / 24_000 <= 5


@pytest.mark.parametrize("name", ["quality_speak", "robust_speak"])
def test_checked_operations_speak_or_say_what_they_heard(http: TestClient, name: str) -> None:
    """Random weights make noise, which a check may rightly refuse."""
    response = http.post(f"/{name}", json={"seed": 3, **PLAIN})
    assert response.status_code == 200 or response.json()["code"] == "quality_rejected", response.text


def test_what_the_limit_cut_is_told(http: TestClient) -> None:
    long = {"text": "Many words that would take a good while to say. " * 5, "seed": 3, "max_duration_ms": 600}
    response = http.post("/speak", json=long)
    assert response.headers["x-truncated"] == "true"
    assert len(samples(response.content)) <= 0.6 * 24_000


def test_health_tells_no_path(http: TestClient) -> None:
    health = http.get("/health").json()
    assert health["engine"] == "csm"
    assert "/" not in health["model"]


def test_context_is_heard(http: TestClient) -> None:
    context = [{"text": "I am someone.", "speaker": 1, "audio_b64": wav_b64(1.0)}]
    plain = http.post("/speak", json={"seed": 3, **PLAIN})
    after = http.post("/speak", json={"seed": 3, "context": context, **PLAIN})
    assert plain.status_code == after.status_code == 200
    assert plain.content != after.content


def test_callers_at_once_hear_what_each_hears_alone(http: TestClient) -> None:
    bodies = [{"text": f"I am number {i}.", "seed": i, "max_duration_ms": 800} for i in range(5)]
    alone = [http.post("/speak", json=body).content for body in bodies]
    together: dict[int, bytes] = {}

    def ask(index: int) -> None:
        together[index] = http.post("/speak", json=bodies[index]).content

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(len(bodies))] == alone


def test_a_batch_shares_frames(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from speech.engines.csm.frames import Frame, Frames

    together: list[int] = []
    real = Frames.step

    def step(self: Frames, noise: dict) -> Frame:
        together.append(len(noise))
        return real(self, noise)

    monkeypatch.setattr(Frames, "step", step)
    http.post("/batch_speak", json={"texts": ["One.", "Two.", "Three."], "max_duration_per_text_ms": 1000})
    assert max(together) == 3
    assert len(together) < 20  # three times 13 frames, were they made one after another


def test_what_cannot_fit_is_a_400_that_names_it(http: TestClient) -> None:
    response = http.post("/speak", json={"text": "word " * 480, "max_duration_ms": 1000})
    assert response.status_code == 400
    assert response.json()["field"] == "text"


@pytest.mark.parametrize("given", [{}, {"context": [{"text": "Hi.", "speaker": 0, "audio_b64": wav_b64(1.0)}]}])
def test_streamed_sound_is_the_one_shot_sound_sample_for_sample(http: TestClient, given: dict[str, object]) -> None:
    wanted = {**PLAIN, **given, "seed": 11, "response_format": "pcm"}
    whole = http.post("/speak", json=wanted)
    streamed = http.post("/stream_speak", json={**wanted, "stream_format": "audio"})
    events = http.post("/stream_speak", json=wanted)
    assert whole.status_code == streamed.status_code == 200, streamed.text
    assert streamed.content == whole.content
    told = [json.loads(line.removeprefix("data: ")) for line in events.text.split("\n\n") if line]
    assert b"".join(base64.b64decode(each["audio"]) for each in told if "audio" in each) == whole.content
    assert len(told) > 4  # by the frame, not in one go


def test_a_streamed_session_is_heard_by_the_next(http: TestClient) -> None:
    def say(session_id: str, text: str) -> bytes:
        wanted = {"text": text, "seed": 4, "session_id": session_id, "max_duration_ms": 800, "response_format": "pcm"}
        return http.post("/stream_speak", json={**wanted, "stream_format": "audio"}).content

    assert say("one", "First.") == say("two", "First.")
    assert say("one", "Second.") == say("two", "Second.") != say("three", "Second.")


def test_an_utterance_on_a_websocket_hears_those_before_it(http: TestClient) -> None:
    def talk(*texts: str) -> list[bytes]:
        """The sound of each text, said one after the other on one connection."""
        said = []
        with http.websocket_connect("/ws") as socket:
            socket.send_json({"type": "start", "seed": 6, "max_duration_ms": 800})
            for text in texts:
                socket.send_json({"type": "text", "text": text})
                socket.send_json({"type": "end"})
                sound = b""
                while (message := socket.receive()).get("text") is None or '"done"' not in message["text"]:
                    sound += message.get("bytes") or b""
                said.append(sound)
        return said

    texts = "This is the first one.", "And the second."
    first, second = talk(*texts)
    assert talk(*texts) == [first, second]
    assert talk(texts[1]) != [second]
