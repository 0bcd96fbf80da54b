"""Sound: what it is inside the product, how it comes in, and how it goes out.

Inside, sound is always an `Audio`: mono float32 with its rate. Knows nothing of speech, voices or requests; what
needs a codec is done in speech/decoding.py and speech/encoding.py.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pybase64
import soxr

from speech.decoding import SEND, DecodeLimits, Samples, read
from speech.encoding import Writer
from speech.errors import EngineFailed, InvalidInput

__all__ = [
    "MEDIA_TYPES",
    "Audio",
    "DecodeLimits",
    "Encoder",
    "Format",
    "Samples",
    "decode",
    "decode_b64",
    "encode",
    "fade_out",
    "padding_ms",
    "peak",
    "resampled",
    "trim_silence",
    "usable",
]

Format = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]

MEDIA_TYPES: dict[str, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "application/octet-stream",
}
"""The Content-Type of each format. pcm has none of its own: audio/L16 would mean big-endian."""

SILENT_BELOW = 10 ** (-60 / 20)  # -60 dB of full scale: the hiss of a poor microphone, far below any speech
LOUDEST = 8.0  # +18 dB of full scale; numbers beyond it are not ±1 floats at all, most often 16-bit values
CUT_FADE_MS = 10.0  # long enough that a cut does not click, too short to be heard as a fade


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Mono sound. samples: float32[n], nominally within ±1. sample_rate_hz: samples a second."""

    samples: Samples
    sample_rate_hz: int

    @classmethod
    def silence(cls, ms: float, sample_rate_hz: int) -> Audio:
        """`ms` of nothing."""
        return cls(np.zeros(round(ms * sample_rate_hz / 1000), np.float32), sample_rate_hz)

    @classmethod
    def join(cls, pieces: Iterable[Audio]) -> Audio:
        """`pieces` one after the other. Raises ValueError unless there is at least one, and all have one rate."""
        pieces = list(pieces)
        rates_hz = {piece.sample_rate_hz for piece in pieces}
        if len(rates_hz) != 1:
            raise ValueError(f"pieces of exactly one rate can be joined, not of {sorted(rates_hz)}")
        return cls(np.concatenate([piece.samples for piece in pieces]), rates_hz.pop())

    @property
    def duration_ms(self) -> float:
        return 1000 * len(self.samples) / self.sample_rate_hz

    def resampled(self, sample_rate_hz: int) -> Audio:
        """The same sound at another rate; itself where the rate is already that."""
        if sample_rate_hz == self.sample_rate_hz:
            return self
        return Audio(soxr.resample(self.samples, self.sample_rate_hz, sample_rate_hz), sample_rate_hz)

    def cut(self, max_ms: float) -> Audio:
        """At most the first `max_ms`, faded out over its last 10 ms where something was cut off."""
        keep = int(max_ms * self.sample_rate_hz / 1000)
        if keep >= len(self.samples):
            return self
        return fade_out(Audio(self.samples[:keep], self.sample_rate_hz), CUT_FADE_MS)


def resampled(chunks: Iterable[Audio], sample_rate_hz: int) -> Iterator[Audio]:
    """`chunks`, pieces of one sound, at another rate, without a seam where two of them meet."""
    stream: soxr.ResampleStream | None = None
    for chunk in chunks:
        if chunk.sample_rate_hz == sample_rate_hz:
            yield chunk
            continue
        stream = stream or soxr.ResampleStream(chunk.sample_rate_hz, sample_rate_hz, 1, dtype="float32")
        yield Audio(stream.resample_chunk(chunk.samples), sample_rate_hz)
    if stream:
        yield Audio(stream.resample_chunk(np.zeros(0, np.float32), last=True), sample_rate_hz)


# Level and silence


def peak(audio: Audio) -> float:
    """The largest |sample|; 0 for no samples."""
    return float(np.max(np.abs(audio.samples), initial=0.0))


def trim_silence(audio: Audio, *, keep_ms: float = 50.0, threshold_db: float = -50.0) -> Audio:
    """`audio` from `keep_ms` before its first sample above the threshold to `keep_ms` after its last.

    threshold_db: relative to the peak. A soft fricative ("f", "th") peaks 30 to 45 dB below the vowels, hence -50;
    `keep_ms` leaves room for the part that rises from below that. Sound with no peak at all is returned as it is.
    """
    loud = np.flatnonzero(np.abs(audio.samples) > peak(audio) * 10 ** (threshold_db / 20))
    if not len(loud):
        return audio
    keep = round(keep_ms * audio.sample_rate_hz / 1000)
    return Audio(audio.samples[max(0, loud[0] - keep) : loud[-1] + 1 + keep], audio.sample_rate_hz)


def fade_out(audio: Audio, ms: float) -> Audio:
    """`audio` with its last `ms`, or all of it where that is less, brought to zero along half a cosine."""
    n = min(len(audio.samples), round(ms * audio.sample_rate_hz / 1000))
    samples = audio.samples.copy()
    samples[len(samples) - n :] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, n, dtype=np.float32))
    return Audio(samples, audio.sample_rate_hz)


# Coming in

DEFAULT_LIMITS = DecodeLimits()


def decode_b64(text: str, *, field: str, limits: DecodeLimits = DEFAULT_LIMITS) -> Audio:
    """`decode` of base64, bare or as a data URL (`data:audio/wav;base64,…`).

    Line breaks and blanks are skipped, because the `base64` command wraps its lines; nothing else is forgiven.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise InvalidInput(field, "is a data URL without base64", "send data:audio/wav;base64,… or bare base64")
    try:
        digits = text.encode("ascii").translate(None, b" \t\r\n")
        if len(digits) > 4 * -(-limits.max_bytes // 3):
            raise _too_large(field, limits)
        data = pybase64.b64decode(digits, validate=True)
    except ValueError:
        cure = "send the file's bytes as standard base64 (A-Z a-z 0-9 + /) with its = padding"
        raise InvalidInput(field, "is not base64", cure) from None
    return decode(data, field=field, limits=limits)


def decode(data: bytes, *, field: str, limits: DecodeLimits = DEFAULT_LIMITS) -> Audio:
    """A recording in any common container, known by its content, as mono sound at the recording's own rate.

    Channels are averaged; pictures are passed over. Raises InvalidInput for `field`, within seconds and whatever
    the bytes, where `data` is no such recording, breaks one of `limits`, or is of no use: silent, out of scale or
    not numbers.
    """
    if not data:
        raise InvalidInput(field, "is empty", SEND)
    if len(data) > limits.max_bytes:
        raise _too_large(field, limits)
    return usable(Audio(*read(data, field=field, limits=limits)), field=field, limits=limits)


def usable(audio: Audio, *, field: str, limits: DecodeLimits = DEFAULT_LIMITS) -> Audio:
    """`audio` itself, where it is of use. Raises InvalidInput for `field` where it is not: too short or too long,
    silent, out of scale or not numbers."""
    if not np.isfinite(audio.samples).all():
        raise InvalidInput(field, "holds samples that are not numbers (NaN or infinite)", "send samples within ±1")
    if peak(audio) > LOUDEST:
        cure = "scale float samples to ±1, or send 16-bit ones"
        raise InvalidInput(field, f"reaches {peak(audio):.3g} times full scale", cure)
    if audio.duration_ms < limits.min_ms:
        cure = f"send {limits.length} of speech"
        raise InvalidInput(field, f"is only {audio.duration_ms / 1000:.2f} s long", cure)
    if audio.duration_ms > limits.max_ms:
        raise InvalidInput(field, f"is longer than {limits.max_ms / 1000:g} s", f"send {limits.length} of speech")
    if np.ptp(audio.samples) / 2 < SILENT_BELOW:  # the swing rather than the peak: a constant offset is no sound
        raise InvalidInput(field, "is silent (below -60 dB of full scale)", "send a recording with speech in it")
    return audio


def _too_large(field: str, limits: DecodeLimits) -> InvalidInput:
    cure = "send a shorter recording, or a compressed one such as MP3 or Opus"
    return InvalidInput(field, f"is larger than {limits.max_bytes / 1e6:g} MB", cure)


# Going out


class Encoder:
    """Sound as bytes of one format, piece by piece; one thread at a time.

    The same sound gives the same bytes, however it is divided. Bytes leave as soon as the codec gives them: after
    20 ms of sound for opus, 100 ms for the others, where the rate suits the codec. Streamed WAV carries 0xFFFFFFFF
    for its sizes, streamed FLAC no length. mp3 and aac add up to three of their frames of silence, 60 and 45 ms at
    24 kHz; only a whole MP3 can tell a player to leave it out.
    """

    def __init__(self, response_format: Format, sample_rate_hz: int) -> None:
        self._format = response_format
        self._sample_rate_hz = sample_rate_hz
        self._sink = _Sink()
        self._writer: Writer | None = None
        if response_format == "wav":
            self._sink.write(_wav_header(sample_rate_hz, None))
        elif response_format != "pcm":
            self._writer = Writer(response_format, sample_rate_hz, self._sink)

    def write(self, audio: Audio) -> bytes:
        """The bytes that `audio` makes ready, which may be none. Raises EngineFailed for NaN or infinite samples."""
        if audio.sample_rate_hz != self._sample_rate_hz:
            raise ValueError(f"this encoder takes {self._sample_rate_hz} Hz, not {audio.sample_rate_hz}")
        if self._writer:
            self._writer.write(_prepared(audio.samples, self._format))
        else:
            self._sink.write(_int16(audio.samples).tobytes())
        return self._sink.taken()

    def close(self) -> bytes:
        """The last bytes; nothing is written afterwards."""
        if self._writer:
            self._writer.close()
        return self._sink.taken()


def padding_ms(response_format: Format, sample_rate_hz: int) -> float:
    """By how much a whole clip may sound longer once encoded, or be called longer, at the most. Only ADTS cannot tell
    a player to leave out its encoder's delay (one frame of 1024 samples) and the rest of its last frame; of Opus,
    players that look but do not listen (ffprobe) count the 312 samples at 48 kHz that are left out."""
    padding = {"aac": 1000 * 2047 / sample_rate_hz, "opus": 1000 * 312 / 48_000}
    return padding.get(response_format, 0.0)


def encode(audio: Audio, response_format: Format) -> bytes:
    """A whole clip, with its true length in the header of WAV, FLAC and MP3. Raises as `Encoder.write` does."""
    if response_format == "pcm":
        return _int16(audio.samples).tobytes()
    if response_format == "wav":
        return _wav_header(audio.sample_rate_hz, len(audio.samples)) + _int16(audio.samples).tobytes()
    file = io.BytesIO()  # unlike `_Sink` it can seek, so the header is completed at the end
    writer = Writer(response_format, audio.sample_rate_hz, file)
    writer.write(_prepared(audio.samples, response_format))
    writer.close()
    return file.getvalue()


class _Sink:
    """Holds bytes until they are taken."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def taken(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken


def _wav_header(sample_rate_hz: int, samples: int | None) -> bytes:
    """The 44 bytes before 16-bit mono samples; `samples` is None where their number is not known yet."""
    size = 0xFFFFFFFF if samples is None else 2 * samples
    riff = size if samples is None else 36 + size
    form = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    return struct.pack("<4sI4s4s", b"RIFF", riff, b"WAVE", b"fmt ") + form + struct.pack("<4sI", b"data", size)


def _prepared(samples: Samples, response_format: Format) -> Samples | npt.NDArray[np.int16]:
    """`samples` as the format's codec takes them: FLAC 16-bit, the lossy ones float within ±1."""
    return _int16(samples) if response_format == "flac" else _clipped(samples)


def _int16(samples: Samples) -> npt.NDArray[np.int16]:
    """±1 as ±32767, clipped before it is scaled: scaled first, 1.01 would wrap round to -32442."""
    return np.rint(_clipped(samples) * 32767).astype("<i2")


def _clipped(samples: Samples) -> Samples:
    if not np.isfinite(samples).all():
        raise EngineFailed("the engine made samples that are not numbers")
    return np.clip(samples, -1, 1)
