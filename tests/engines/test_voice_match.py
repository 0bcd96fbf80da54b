"""A recording becomes a Kokoro style: the embedder is Resemblyzer's, own voices come back, people come nearer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_utils import Audio, encode, peak
from speech.engines import embedded
from speech.engines.base import Line, Segment
from speech.engines.kokoro import speaker_embedding
from speech.engines.kokoro.engine import KokoroEngine
from speech.engines.kokoro.match import VoiceMatch
from speech.engines.kokoro.voices import style_table
from tests import ears

RECORDINGS = Path(__file__).parent.parent / "data" / "recordings"
SAYING = "You can pick up the tickets at the front desk, but honestly, I did not see that one coming."
OWN_TO_TRY = ("af_heart", "am_michael", "bf_emma", "bm_george")
"""Both accents and genders; bench/voice_match.py tries all 28."""

NOTHING = Audio(np.zeros(0, np.float32), 24_000)


def recording(name: str) -> Audio:
    samples, rate_hz = soundfile.read(RECORDINGS / f"{name}.wav", dtype="float32")
    return Audio(samples, rate_hz)


@pytest.fixture(scope="module")
def engine() -> Iterator[KokoroEngine]:
    engine = KokoroEngine(threads=1)
    engine.start()
    yield engine
    engine.close()


def said(engine: KokoroEngine, voice: str | None, audio: Audio, text: str = SAYING) -> Audio:
    """`text` in a stock voice, or where `voice` is None in the voice matched to `audio`."""
    line = Line(text, speaker=0, context=(Segment("", 0, audio, voice),))
    return Audio.join(list(engine.speak(line)))


def test_embedder_is_resemblyzers() -> None:
    import torch
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import wav_to_mel_spectrogram

    wav = recording("psx__cards_m").samples
    mel = speaker_embedding.mel_powers(wav)
    assert np.allclose(mel, wav_to_mel_spectrogram(wav), rtol=1e-4, atol=1e-6)
    partials = speaker_embedding.partials(mel)
    with torch.no_grad():
        original = VoiceEncoder("cpu", verbose=False)(torch.from_numpy(partials)).numpy()
    assert np.sum(original * speaker_embedding.network(partials), axis=1).min() > 0.9999


def test_whole_embedding_is_near_resemblyzers() -> None:
    """Silences are found in another way and the level is always set, so the same person is only nearly the same."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    audio = recording("psx__cards_m")
    original = VoiceEncoder("cpu", verbose=False).embed_utterance(preprocess_wav(audio.samples, source_sr=16_000))
    assert speaker_embedding.embed(audio) @ original > 0.95


def test_embedding_ignores_level_and_rate() -> None:
    audio = recording("psx__cards_m")
    embedding = speaker_embedding.embed(audio)
    assert speaker_embedding.embed(Audio(audio.samples * 0.05, 16_000)) @ embedding > 0.999
    assert speaker_embedding.embed(audio.resampled(44_100)) @ embedding > 0.99


@pytest.mark.parametrize("samples", [0, 100, 8_000])
def test_too_little_or_silent_is_the_default_voice(samples: int) -> None:
    match = VoiceMatch().match(Audio(np.zeros(samples, np.float32), 16_000))
    assert (match.nearest_voice, match.is_stock, match.similarity) == ("af_heart", True, 0.0)


@pytest.mark.parametrize("voice", OWN_TO_TRY)
def test_own_voice_comes_back(engine: KokoroEngine, voice: str) -> None:
    audio = said(engine, voice, NOTHING, "You can pick up the tickets at the front desk.")
    for heard in (audio, audio.cut(2000), ears.sound(encode(audio, "mp3"))):
        match = VoiceMatch().match(heard)
        assert match.is_stock
        assert match.nearest_voice == voice
        assert np.array_equal(match.style, style_table(voice))


def test_a_person_comes_nearer(engine: KokoroEngine) -> None:
    """The match is more like the person than the voices that speak without one, and its words are understood."""
    unmatched = [said(engine, voice, NOTHING) for voice in embedded.SPEAKERS]
    for person in (recording("psx__cards_m"), recording("psx__austen_f")):
        matched = said(engine, None, person)
        near = ears.similarity(matched, person)
        assert all(near > ears.similarity(other, person) + 0.05 for other in unmatched)
        assert ears.word_error_rate(SAYING, matched) < 0.1
        assert 0.1 < peak(matched) < 1


def test_same_recording_same_match_from_any_thread() -> None:
    audio = recording("psx__austen_f")
    matcher = VoiceMatch()
    with ThreadPoolExecutor(4) as pool:
        matches = list(pool.map(lambda _: matcher.match(audio), range(8)))
    first = matches[0]
    assert first.style.shape == (510, 256)
    assert first.style.dtype == np.float32
    assert not first.is_stock
    for match in matches:
        assert np.array_equal(match.style, first.style)
        assert (match.nearest_voice, match.similarity) == (first.nearest_voice, first.similarity)
