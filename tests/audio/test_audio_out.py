"""Sound goes out in six formats, piece by piece or whole, and the same sound always as the same bytes."""

from __future__ import annotations

import io
import wave
from typing import get_args

import av
import numpy as np
import pytest
import soundfile

import schemas
from audio_utils import MEDIA_TYPES, Audio, Encoder, Format, decode, encode, padding_ms
from speech.errors import EngineFailed
from tests.audio import sounds

VOICE = Audio(sounds.voice(), sounds.RATE_HZ)
FORMATS = get_args(Format)
IN_A_CONTAINER = [name for name in FORMATS if name != "pcm"]


def streamed(audio: Audio, response_format: Format, piece: int) -> bytes:
    """What an encoder gives for `audio` in pieces of `piece` samples."""
    encoder = Encoder(response_format, audio.sample_rate_hz)
    given = [
        encoder.write(Audio(audio.samples[at : at + piece], audio.sample_rate_hz))
        for at in range(0, len(audio.samples), piece)
    ]
    return b"".join([*given, encoder.close()])


def test_the_formats_are_those_of_the_wire() -> None:
    assert set(FORMATS) == set(MEDIA_TYPES) == set(get_args(schemas.ResponseFormat))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("response_format", IN_A_CONTAINER)
def test_every_format_gives_back_its_sound(response_format: Format, rate_hz: int) -> None:
    said = Audio(sounds.voice(rate_hz=rate_hz), rate_hz)
    whole = decode(encode(said, response_format), field="whole")
    pieces = decode(streamed(said, response_format, 480), field="streamed")
    # Frames of 1024 (aac) and 576 or 1152 samples (mp3), one before the sound and up to two after it.
    added_ms = (
        {"aac": 3 * 1024, "mp3": 3 * 576 if rate_hz < 32_000 else 3 * 1152}.get(response_format, 0) / rate_hz * 1000
    )
    for heard, off_ms in ((whole, 0 if response_format == "mp3" else added_ms), (pieces, added_ms)):
        assert heard.sample_rate_hz == (48_000 if response_format == "opus" else rate_hz)
        assert -0.1 <= heard.duration_ms - said.duration_ms <= off_ms + 0.1
        assert sounds.likeness(heard, said) > 0.98
        assert sounds.level(heard) == pytest.approx(sounds.level(said), rel=0.1)


@pytest.mark.parametrize("response_format", ["wav", "flac", "mp3", "opus"])
def test_no_header_tells_more_than_the_sound_and_its_padding(response_format: Format) -> None:
    with av.open(io.BytesIO(encode(VOICE, response_format))) as file:
        assert file.duration is not None
        assert file.duration / 1000 <= VOICE.duration_ms + padding_ms(response_format, VOICE.sample_rate_hz) + 0.01


@pytest.mark.parametrize("response_format", ["wav", "flac"])
def test_lossless_formats_keep_every_16_bit_sample(response_format: Format) -> None:
    heard, rate_hz = soundfile.read(io.BytesIO(encode(VOICE, response_format)), dtype="int16")
    assert rate_hz == sounds.RATE_HZ
    np.testing.assert_array_equal(heard, np.rint(VOICE.samples * 32767))


@pytest.mark.parametrize("response_format", ["wav", "flac", "mp3", "opus"])
def test_another_library_reads_them_too(response_format: Format) -> None:
    samples, rate_hz = soundfile.read(io.BytesIO(encode(VOICE, response_format)), dtype="float32")
    assert sounds.likeness(Audio(samples, rate_hz), VOICE) > 0.98


def test_pcm_is_16_bit_little_endian_at_the_audios_own_rate() -> None:
    assert encode(Audio(np.array([0, 0.5, -1], np.float32), 8000), "pcm") == bytes.fromhex("000000400180")


@pytest.mark.parametrize("response_format", ["pcm", "wav", "flac"])
def test_what_is_too_loud_is_clipped_and_does_not_wrap(response_format: Format) -> None:
    loud = Audio(np.tile(np.array([1.01, -1.01, 2, -3], np.float32), 4000), 16_000)
    data = encode(loud, response_format)
    samples = (
        np.frombuffer(data, "<i2") if response_format == "pcm" else soundfile.read(io.BytesIO(data), dtype="int16")[0]
    )
    np.testing.assert_array_equal(samples[:4], [32767, -32767, 32767, -32767])


@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac"])
def test_lossy_formats_clip_too(response_format: Format) -> None:
    heard = decode(encode(Audio(VOICE.samples * 3, VOICE.sample_rate_hz), response_format), field="loud")
    clipped = Audio(np.clip(VOICE.samples * 3, -1, 1), VOICE.sample_rate_hz)
    assert sounds.likeness(heard, clipped) > 0.97
    assert sounds.level(heard) == pytest.approx(sounds.level(clipped), rel=0.1)


@pytest.mark.parametrize("rate_hz", [22_050, 24_000])
@pytest.mark.parametrize("response_format", FORMATS)
def test_the_same_sound_gives_the_same_bytes_however_it_is_divided(response_format: Format, rate_hz: int) -> None:
    said = Audio(sounds.voice(rate_hz=rate_hz), rate_hz)
    assert encode(said, response_format) == encode(said, response_format)
    assert (
        streamed(said, response_format, 480)
        == streamed(said, response_format, 777)
        == streamed(said, response_format, 10**6)
    )


@pytest.mark.parametrize("response_format", FORMATS)
def test_a_stream_gives_bytes_from_the_first_100_ms(response_format: Format) -> None:
    encoder = Encoder(response_format, 24_000)
    first = [encoder.write(Audio(VOICE.samples[at : at + 480], 24_000)) for at in range(0, 2400, 480)]
    header = 44 if response_format == "wav" else 0
    assert len(b"".join(first)) > header + 10
    if response_format == "opus":
        assert all(first), "every 20 ms leave at once"


@pytest.mark.parametrize("response_format", FORMATS)
def test_nothing_is_held_back_for_long(response_format: Format) -> None:
    encoder = Encoder(response_format, 24_000)
    given = b"".join(encoder.write(Audio(VOICE.samples[at : at + 480], 24_000)) for at in range(0, 24_000, 480))
    heard_ms = len(given) / 48 if response_format == "pcm" else decode(given, field="so far").duration_ms
    assert heard_ms >= 850, "of the 1000 ms written"


def test_a_whole_wav_states_its_size_and_a_streamed_one_that_it_has_none() -> None:
    whole = encode(VOICE, "wav")
    with wave.open(io.BytesIO(whole)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (
            1,
            2,
            24_000,
            36_000,
        )
    assert int.from_bytes(whole[4:8], "little") == len(whole) - 8
    live = streamed(VOICE, "wav", 480)
    assert live[4:8] == live[40:44] == b"\xff\xff\xff\xff"
    assert live[44:] == whole[44:]


@pytest.mark.parametrize("response_format", ["flac", "mp3"])
def test_a_whole_flac_or_mp3_states_its_length(response_format: Format) -> None:
    assert soundfile.info(io.BytesIO(encode(VOICE, response_format))).frames == len(VOICE.samples)


@pytest.mark.parametrize("response_format", FORMATS)
def test_no_sound_at_all_is_an_empty_file(response_format: Format) -> None:
    nothing = Audio(np.zeros(0, np.float32), 24_000)
    encoder = Encoder(response_format, 24_000)
    assert len(encode(nothing, response_format)) < 1000
    assert len(encoder.write(nothing) + encoder.close()) < 1000


@pytest.mark.parametrize("response_format", FORMATS)
def test_what_is_not_a_number_is_the_engines_failure(response_format: Format) -> None:
    broken = Audio(np.array([0, np.nan, 0], np.float32), 24_000)
    with pytest.raises(EngineFailed):
        encode(broken, response_format)
    with pytest.raises(EngineFailed):
        Encoder(response_format, 24_000).write(broken)


def test_an_encoder_takes_one_rate() -> None:
    with pytest.raises(ValueError, match="takes 24000 Hz, not 16000"):
        Encoder("wav", 24_000).write(Audio(VOICE.samples, 16_000))
