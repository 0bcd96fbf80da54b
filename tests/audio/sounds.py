"""Recordings for the tests, made on the spot: a voice-like sound, and files of every kind that holds it."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from functools import cache

import av
import numpy as np
import soundfile

from audio_utils import Audio

RATE_HZ = 24_000


def voice(seconds: float = 1.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """float32[n] within ±0.6: a gliding buzz in four syllables a second, with a hiss between them."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate_hz
    buzz = sum(np.sin(k * pitch) / k for k in range(1, 9))
    syllables = np.clip(np.sin(2 * np.pi * 2 * t) ** 2 * 1.3, 0.02, 1)
    hiss = np.random.default_rng(7).normal(size=len(t)) * 0.02 * (1.2 - syllables)
    return (0.25 * buzz * syllables + hiss).astype(np.float32).clip(-0.6, 0.6)


def through_av(
    container: str, codec: str, rate_hz: int = RATE_HZ, options: dict[str, str] | None = None, seconds: float = 1.5
) -> bytes:
    """`voice` as libav writes it."""
    file = io.BytesIO()
    with av.open(file, "w", container, options=options or {}) as out:
        stream = out.add_stream(codec, rate_hz, layout="mono")
        samples = voice(seconds, rate_hz)
        for at in range(0, len(samples), rate_hz // 10):
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis, at : at + rate_hz // 10], "flt", "mono")
            frame.sample_rate, frame.pts = rate_hz, at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def through_soundfile(container: str, subtype: str, channels: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    """`voice` as libsndfile writes it, the same in every channel."""
    file = io.BytesIO()
    soundfile.write(file, np.stack([voice(rate_hz=rate_hz)] * channels, 1), rate_hz, subtype, format=container)
    return file.getvalue()


def wav_of_8_bit() -> bytes:
    """`voice` in unsigned bytes around 128, rounded rather than, as libsndfile would, cut off."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 1, RATE_HZ, 0, "NONE", ""))
        out.writeframes(np.rint(voice() * 128 + 128).astype(np.uint8).tobytes())
    return file.getvalue()


def film(container: str, codec: str | None, picture: str) -> bytes:
    """`voice`, or nothing to be heard, in a file that opens with a moving picture."""
    file = io.BytesIO()
    with av.open(file, "w", container) as out:
        video = out.add_stream(picture, 10, width=64, height=64, pix_fmt="yuv420p")
        sound = out.add_stream(codec, RATE_HZ, layout="mono") if codec else None
        for k in range(15):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 16 * k, np.uint8))
            image.pts = k
            out.mux(video.encode(image))
        out.mux(video.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(voice()[np.newaxis], "flt", "mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return file.getvalue()


def with_attachment() -> bytes:
    """`voice` in Matroska beside an attached file."""
    file = io.BytesIO()
    with av.open(file, "w", "matroska") as out:
        stream = out.add_stream("libopus", RATE_HZ, layout="mono")
        out.add_attachment("notes.txt", "text/plain", b"see the sound")
        frame = av.AudioFrame.from_ndarray(voice()[np.newaxis], "flt", "mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def with_id3(mp3: bytes) -> bytes:
    """`mp3` after a tag that holds a picture, which itself looks like the start of a WAV file."""
    picture = b"\0image/png\0\3\0" + b"RIFF\xff\xff\xff\xffWAVE" * 40
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + frame + mp3


# name: (how it is made, how far its length may be off in ms, whether the samples come back as they were)
FILES: dict[str, tuple[Callable[[], bytes], float, bool]] = {
    "wav 8 bit": (wav_of_8_bit, 0, False),
    "wav 16 bit": (lambda: through_soundfile("WAV", "PCM_16"), 0, True),
    "wav 24 bit": (lambda: through_soundfile("WAV", "PCM_24"), 0, True),
    "wav 32 bit": (lambda: through_soundfile("WAV", "PCM_32"), 0, True),
    "wav float": (lambda: through_soundfile("WAV", "FLOAT"), 0, True),
    "wav double": (lambda: through_soundfile("WAV", "DOUBLE"), 0, True),
    "wav stereo": (lambda: through_soundfile("WAV", "PCM_16", channels=2), 0, True),
    "wav extensible, 6 channels": (lambda: through_soundfile("WAVEX", "PCM_24", channels=6), 0, True),
    "wav mu-law": (lambda: through_soundfile("WAV", "ULAW"), 0, False),
    "wav 192 kHz": (lambda: through_soundfile("WAV", "PCM_16", rate_hz=192_000), 0, True),
    "rf64": (lambda: through_soundfile("RF64", "PCM_16"), 0, True),
    "flac 16 bit": (lambda: through_soundfile("FLAC", "PCM_16"), 0, True),
    "flac 24 bit stereo": (lambda: through_soundfile("FLAC", "PCM_24", channels=2), 0, True),
    "ogg vorbis": (lambda: through_soundfile("OGG", "VORBIS"), 0, False),
    "ogg opus": (lambda: through_av("ogg", "libopus"), 1, False),
    "ogg flac": (lambda: through_av("ogg", "flac"), 0, True),
    "mp3": (lambda: through_av("mp3", "libmp3lame"), 1, False),
    "mp3 stereo 44.1 kHz": (lambda: through_soundfile("MP3", "MPEG_LAYER_III", 2, 44_100), 60, False),
    "mp3 with a picture": (lambda: with_id3(through_av("mp3", "libmp3lame")), 1, False),
    "aac": (lambda: through_av("adts", "aac"), 90, False),
    "m4a": (lambda: through_av("ipod", "aac"), 45, False),
    "m4a alac": (lambda: through_av("ipod", "alac"), 0, True),
    "mp4 in fragments": (lambda: through_av("mp4", "aac", options={"movflags": "frag_keyframe+empty_moov"}), 90, False),
    "mp4 with a film": (lambda: film("mp4", "aac", "mpeg4"), 45, False),
    "mov 24 bit": (lambda: through_av("mov", "pcm_s24be"), 0, True),
    "webm opus": (lambda: through_av("webm", "libopus"), 1, False),
    "webm opus with a film": (lambda: film("webm", "libopus", "libvpx"), 1, False),
    "matroska with an attachment": (with_attachment, 1, False),
    "matroska pcm": (lambda: through_av("matroska", "pcm_s16le"), 0, True),
}


@cache
def made(name: str) -> bytes:
    return FILES[name][0]()


def wav(samples: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "FLOAT") -> bytes:
    """`samples`, [n] or [n, channels], as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format="WAV")
    return file.getvalue()


def likeness(heard: Audio, said: Audio) -> float:
    """How alike two sounds are, 1 the same: their correlation where they fit best, and never mind the level."""
    a, b = heard.resampled(said.sample_rate_hz).samples.astype(np.float64), said.samples.astype(np.float64)
    n = 1 << (len(a) + len(b)).bit_length()
    products = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)), n)
    return float(products.max() / np.sqrt((a @ a) * (b @ b)))


def level(audio: Audio) -> float:
    """Its root mean square."""
    return float(np.sqrt(np.mean(audio.samples.astype(np.float64) ** 2)))
