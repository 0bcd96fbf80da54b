"""Recordings come in from every common container, and a bad one is refused in words that help."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import schemas
from audio_utils import Audio, DecodeLimits, decode, decode_b64, encode
from speech import decoding
from speech.errors import InvalidInput
from tests.audio import sounds

FIELD = "context[1].audio_b64"
VOICE = Audio(sounds.voice(), sounds.RATE_HZ)
GOOD_WAV = sounds.wav(VOICE.samples, subtype="PCM_16")


@pytest.mark.parametrize("name", sounds.FILES)
def test_every_container_gives_back_its_sound(name: str) -> None:
    _, off_ms, exact = sounds.FILES[name]
    heard = decode(sounds.made(name), field=FIELD)
    rate_hz = 48_000 if "opus" in name or "attachment" in name else sounds.RATE_HZ  # Opus always decodes at 48 kHz
    rate_hz = {"wav 192 kHz": 192_000, "mp3 stereo 44.1 kHz": 44_100}.get(name, rate_hz)
    said = Audio(sounds.voice(rate_hz=rate_hz), rate_hz)
    assert heard.sample_rate_hz == rate_hz
    assert heard.samples.dtype == np.float32
    assert heard.samples.ndim == 1
    assert abs(heard.duration_ms - 1500) <= off_ms
    if exact:
        np.testing.assert_allclose(heard.samples, said.samples, atol=1.01 / 2**15)
    else:
        assert sounds.likeness(heard, said) > 0.98
        assert sounds.level(heard) == pytest.approx(sounds.level(said), rel=0.1)
        assert heard.samples.mean() == pytest.approx(said.samples.mean(), abs=0.002)


def test_channels_are_averaged() -> None:
    left, right = VOICE.samples, np.roll(VOICE.samples, 1000) / 3
    heard = decode(sounds.wav(np.stack([left, right], 1)), field=FIELD)
    np.testing.assert_allclose(heard.samples, (left + right) / 2, atol=1e-6)


def test_what_comes_in_can_be_written_to() -> None:
    decode(GOOD_WAV, field=FIELD).samples[0] = 0.5


def test_a_streamed_wav_that_does_not_know_its_size_is_read() -> None:
    streamed = GOOD_WAV[:4] + b"\xff" * 4 + GOOD_WAV[8:40] + b"\xff" * 4 + GOOD_WAV[44:]
    assert decode(streamed, field=FIELD).duration_ms == 1500


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(GOOD_WAV).decode(),
        base64.encodebytes(GOOD_WAV).decode(),  # lines of 76, as the base64 command prints them
        "  " + base64.b64encode(GOOD_WAV).decode() + "\r\n",
        "data:audio/wav;base64," + base64.b64encode(GOOD_WAV).decode(),
        "Data:audio/mpeg;name=a.mp3;BASE64,"
        + base64.b64encode(GOOD_WAV).decode(),  # the content decides, not the label
    ],
    ids=["bare", "wrapped", "blanks around", "data URL", "data URL, oddly written"],
)
def test_base64_as_people_send_it(text: str) -> None:
    assert decode_b64(text, field=FIELD).duration_ms == 1500


@pytest.mark.parametrize(
    "text",
    ["not base64!", base64.b64encode(GOOD_WAV).decode().rstrip("="), "AAA", "UklGR…", "_-_-", "AA==AAAA", "\x00" * 8],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"^context\[1\]\.audio_b64: is not base64; send .*standard base64.* = padding"
    ):
        decode_b64(text, field=FIELD)


def test_a_data_url_without_base64_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"is a data URL without base64; send data:audio/wav;base64,"):
        decode_b64("data:audio/wav,RIFF", field=FIELD)


def test_too_many_bytes_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audio_utils.read", None)
    monkeypatch.setattr("audio_utils.pybase64", None)
    limits = DecodeLimits(max_bytes=1000)
    with pytest.raises(InvalidInput, match=r"is larger than 0.001 MB; send a shorter recording, or a compressed one"):
        decode(GOOD_WAV, field=FIELD, limits=limits)
    with pytest.raises(InvalidInput, match="is larger than"):
        decode_b64(base64.b64encode(GOOD_WAV).decode(), field=FIELD, limits=limits)


def tone(seconds: float, level: float = 0.5, rate_hz: int = sounds.RATE_HZ) -> np.ndarray:
    return (level * np.sin(np.arange(round(seconds * rate_hz)) * 0.1)).astype(np.float32)


def spoilt(value: float) -> bytes:
    samples = VOICE.samples.copy()
    samples[12_345] = value
    return sounds.wav(samples)


CONTAINERS = "send WAV, FLAC, OGG (Vorbis or Opus), MP3, M4A, AAC or WebM"
BAD = {
    "empty": (b"", "is empty", CONTAINERS),
    "text": (b"hello there" * 100, "is not a recording of a kind that is read here", CONTAINERS),
    "a playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is not a recording of a kind", CONTAINERS),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is not a recording of a kind", CONTAINERS),
    "one byte": (b"\xff", "is not a recording of a kind", CONTAINERS),
    "only a header": (GOOD_WAV[:44], "holds no sound", "plays in an ordinary player"),
    "only a film": (sounds.film("mp4", None, "mpeg4"), "holds no sound in a codec", CONTAINERS),
    "half an m4a": (sounds.made("m4a")[: len(sounds.made("m4a")) // 2], "is damaged or cut short", "ordinary player"),
    "another codec": (sounds.through_soundfile("WAV", "GSM610"), "holds no sound in a codec", CONTAINERS),
    "too short": (sounds.wav(tone(0.49)), "is only 0.49 s long", "send 0.5 to 60 s of speech"),
    "too long": (
        sounds.wav(tone(60.1, rate_hz=8000), 8000, "PCM_U8"),
        "is longer than 60 s",
        "send 0.5 to 60 s of speech",
    ),
    "silent": (sounds.wav(tone(1, 0.0009)), "is silent (below -60 dB of full scale)", "send a recording with speech"),
    "a constant": (sounds.wav(np.full(24_000, 0.5)), "is silent", "send a recording with speech in it"),
    "NaN": (spoilt(np.nan), "holds samples that are not numbers", "send samples within ±1"),
    "infinite": (spoilt(-np.inf), "holds samples that are not numbers", "send samples within ±1"),
    "huge": (spoilt(3e38), "reaches 3e+38 times full scale", "scale float samples to ±1"),
    "floats of 16 bit": (
        sounds.wav(VOICE.samples * 32767),
        "times full scale",
        "scale float samples to ±1, or send 16-bit",
    ),
    "a slow rate": (sounds.wav(tone(1), 3999), "has a sample rate of 3999 Hz", "send 4000 to 192000 Hz"),
    "a fast rate": (sounds.wav(tone(9), 192_001), "has a sample rate of 192001 Hz", "send 4000 to 192000 Hz"),
    "9 channels": (sounds.wav(np.stack([tone(1)] * 9, 1)), "has 9 channels", "send mono, or at most 8 channels"),
    "two rates": (
        encode(Audio(tone(1), 24_000), "aac") + encode(Audio(tone(1), 16_000), "aac"),
        "changes its sample rate on the way",
        "send a recording of one sample rate",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recording_is_told_what_and_how(name: str) -> None:
    data, problem, cure = BAD[name]
    with pytest.raises(InvalidInput) as refused:
        decode(data, field=FIELD)
    assert refused.value.field == FIELD
    told, _, advice = refused.value.message.partition("; ")
    assert told.startswith(f"{FIELD}: {problem}") or problem in told
    assert cure in advice


@pytest.mark.parametrize("seconds", [0.5, 60])
def test_the_limits_themselves_are_allowed(seconds: float) -> None:
    assert decode(sounds.wav(tone(seconds, rate_hz=8000), 8000), field=FIELD).duration_ms == seconds * 1000


def test_limits_can_be_others() -> None:
    limits = DecodeLimits(min_ms=2000, max_ms=3000)
    with pytest.raises(InvalidInput, match=r"is only 1.50 s long; send 2 to 3 s"):
        decode(GOOD_WAV, field=FIELD, limits=limits)
    with pytest.raises(InvalidInput, match=r"is longer than 1 s; send 0.5 to 1 s"):
        decode(GOOD_WAV, field=FIELD, limits=DecodeLimits(max_ms=1000))


def test_the_size_limit_is_the_one_of_the_wire() -> None:
    assert 4 * -(-DecodeLimits().max_bytes // 3) == schemas.MAX_AUDIO_B64_CHARS


def test_a_decoder_that_died_while_idle_is_not_the_next_callers_fault() -> None:
    decode(GOOD_WAV, field=FIELD)
    process = decoding._idle[-1]._popen
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert decode(GOOD_WAV, field=FIELD).duration_ms == 1500


def test_the_decoder_is_told_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding.close()
    monkeypatch.setenv("DUOLOGUE_TEST_SECRET", "hush")
    decode(GOOD_WAV, field=FIELD)
    environment = Path(f"/proc/{decoding._idle[-1]._popen.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" in environment
    assert b"hush" not in environment
