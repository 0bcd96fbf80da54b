"""The one room that talks to libav (PyAV): compressed bytes to float32 samples, and back.

PyAV alone reads and writes every format, takes bytes rather than files, and hands sound over as it goes, so that
limits hold while decoding; no second library is needed. Callers' bytes are hostile until decoded: the container is
recognised here, only the codecs listed here are opened, and memory, work and length are bounded on the way.
Whether the sound is any use is the caller's to judge; so are WAV and PCM going out, which need no codec.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, cast

import av
import av.buffer
import numpy as np
import numpy.typing as npt
import soxr
from av.stream import Discard

from speech.errors import InvalidInput

Samples = npt.NDArray[np.float32]

SEND = "send WAV, FLAC, OGG (Vorbis or Opus), MP3, M4A, AAC or WebM"
SEND_SOUND = f"{SEND} that plays in an ordinary player"

MAX_PACKETS = 100_000  # 60 s of 2.5 ms Opus packets are 24,000, of short Vorbis blocks (128 at 44.1 kHz) 41,000
MAX_SPOILED = 16  # packets that do not decode: a torn start or end is usual in MP3, more is damage
DECODERS = (
    "aac,alac,flac,mp3,mp3float,opus,vorbis,pcm_alaw,pcm_mulaw,pcm_s8,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,"
    "pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)
INPUT_OPTIONS = {
    "codec_whitelist": DECODERS,  # also keeps libav from decoding pictures while it probes
    "protocol_whitelist": "none",  # a file that points at other files or addresses gets nothing
    "max_streams": "8",
    "advanced_editlist": "0",  # an MP4 edit list can repeat its sound a million times over
}

# A few hundred bytes of MP4 can claim an index of gigabytes, which libav then allocates. This is libav's own cap
# on any one allocation, in bytes, for the whole process; nothing in a file of max_bytes honestly needs more. PyAV
# does not expose it. Where the loader cannot find it through PyAV (Windows) such a file is not stopped early.
with contextlib.suppress(AttributeError):
    ctypes.CDLL(av.buffer.__file__).av_max_alloc(ctypes.c_size_t(16_000_000))


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is accepted of a recording. The defaults suit a voice to follow and a conversation to go on with.

    max_bytes: encoded; the 16 million base64 characters of `schemas.MAX_AUDIO_B64_CHARS` are 12 million bytes.
    Rates: from half a telephone's to the highest a sound card records at; 60 s at 192 kHz are 46 MB of float32.
    """

    max_bytes: int = 12_000_000
    min_ms: int = 500
    max_ms: int = 60_000
    min_rate_hz: int = 4_000
    max_rate_hz: int = 192_000
    max_channels: int = 8

    @property
    def length(self) -> str:
        return f"{self.min_ms / 1000:g} to {self.max_ms / 1000:g} s"


def read(data: bytes, *, field: str, limits: DecodeLimits) -> tuple[Samples, int]:
    """The first decodable sound in `data` as float32[n], channels averaged, and its rate in Hz.

    Pictures, subtitles and attachments are passed over. Raises InvalidInput for `field`, and nothing else. Of
    `limits` it holds those that only decoding can hold: length, rate and channels.
    """
    demuxer = _demuxer(data)
    if demuxer is None:
        raise InvalidInput(field, "is not a recording of a kind that is read here", SEND)
    try:
        return _read(data, demuxer, field, limits)
    except InvalidInput:
        raise
    except Exception as error:  # whatever libav finds wrong with a caller's bytes is the caller's, told in our words
        raise InvalidInput(field, "is damaged or cut short", SEND_SOUND) from error


def _demuxer(data: bytes) -> str | None:
    """libav's name for the container that `data` starts like, or None.

    Told apart here, since libav left to itself also tries playlists and others that name further files.
    """
    tagged = data[:3] == b"ID3"  # a tag before the sound; its length is four digits of seven bits
    at = 10 + sum(digit << shift for digit, shift in zip(data[6:10], (21, 14, 7, 0), strict=False)) if tagged else 0
    head = data[at : at + 12]
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "mov"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1a\x45\xdf\xa3", "matroska")):
        if head.startswith(magic):
            return name
    # MPEG audio frames start with eleven set bits; the two layer bits that follow the version are 0 in ADTS alone.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"
    return "mp3" if tagged else None


class _Source(io.BytesIO):
    """Encoded bytes as libav reads them; they end early for a file that is gone over again and again."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._may_read = 4 * len(data) + 1_000_000  # bytes; a container with its index at the end is read twice

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size) if self._may_read > 0 else b""
        self._may_read -= len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # PyAV would keep it and raise it out of some later call
            return -1


def _read(data: bytes, demuxer: str, field: str, limits: DecodeLimits) -> tuple[Samples, int]:
    """`read` of a known container; lets libav's errors through."""
    blocks: list[Samples] = []
    rate_hz = total = spoiled = unpacked = 0
    source = _Source(data)
    with av.open(source, "r", demuxer, container_options=INPUT_OPTIONS, metadata_errors="replace") as container:
        known = DECODERS.split(",")
        streams = [s for s in container.streams.audio if s.codec_context and s.codec_context.name in known]
        if not streams:
            raise InvalidInput(field, "holds no sound in a codec that is read here", SEND)
        stream = streams[0]
        stream.codec_context.thread_count = 1
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        for count, packet in enumerate(container.demux(stream)):
            # Matroska may squeeze its packets; one that opens to far more than was sent is a bomb.
            unpacked += packet.size
            if count > MAX_PACKETS or unpacked > 2 * len(data):
                raise InvalidInput(field, "is packed in an unusual way", SEND_SOUND)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                spoiled += 1
                if spoiled > MAX_SPOILED:
                    raise
                continue
            for frame in frames:
                rate_hz = rate_hz or frame.sample_rate
                total += frame.samples
                _hold(frame, total, rate_hz, field, limits)
                blocks.append(_mono(frame))
    if not total:
        raise InvalidInput(field, "holds no sound", SEND_SOUND)
    return np.concatenate(blocks), rate_hz


def _hold(frame: av.AudioFrame, total: int, rate_hz: int, field: str, limits: DecodeLimits) -> None:
    """Raises InvalidInput where `frame`, which brings the sound to `total` samples, breaks one of `limits`."""
    if not limits.min_rate_hz <= frame.sample_rate <= limits.max_rate_hz:
        cure = f"send {limits.min_rate_hz} to {limits.max_rate_hz} Hz; 24000 is plenty for speech"
        raise InvalidInput(field, f"has a sample rate of {frame.sample_rate} Hz", cure)
    if frame.sample_rate != rate_hz:
        raise InvalidInput(field, "changes its sample rate on the way", "send a recording of one sample rate")
    if frame.layout.nb_channels > limits.max_channels:
        cure = f"send mono, or at most {limits.max_channels} channels to be mixed to mono"
        raise InvalidInput(field, f"has {frame.layout.nb_channels} channels", cure)
    if total * 1000 > limits.max_ms * rate_hz:
        raise InvalidInput(field, f"is longer than {limits.max_ms / 1000:g} s", f"send {limits.length} of speech")


def _mono(frame: av.AudioFrame) -> Samples:
    """The mean of a frame's channels as float32[n]; integer samples are divided by their full scale."""
    block = frame.to_ndarray()  # [channels, n] where planar, else [1, n * channels]
    if not frame.format.is_planar:
        block = block.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow leaves infinities for the caller to find
        mono: Samples = block.mean(axis=0).astype(np.float32)
    if block.dtype == np.uint8:  # 8-bit sound is unsigned, with silence at 128
        mono -= 128
        mono /= 128
    elif block.dtype.kind == "i":
        mono /= 2 ** (8 * block.dtype.itemsize - 1)
    return mono


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How one format is written. muxer, codec: libav's names. The options are the muxer's own."""

    muxer: str
    codec: str
    bit_rate: int  # bits a second, mono; 0 where the codec is lossless
    options: dict[str, str]


_RECIPES = {
    "flac": _Recipe("flac", "flac", 0, {"metadata_header_padding": "0"}),  # else 8 kB of nothing come first
    "mp3": _Recipe("mp3", "libmp3lame", 96_000, {"id3v2_version": "0"}),
    "opus": _Recipe("ogg", "libopus", 48_000, {"page_duration": "20000"}),  # µs: each 20 ms packet leaves at once
    "aac": _Recipe("adts", "aac", 96_000, {}),
}
# bitexact: without it an Ogg file gets a random serial number, and every file libav's version.
_OUTPUT_OPTIONS = {"fflags": "+bitexact", "flush_packets": "1"}
_FRAME_SAMPLES = 16_384  # at most, in one frame; keeps libav's buffers small for a long clip


class Sink(Protocol):
    """Where encoded bytes go. One that can also seek gets its header completed at the end."""

    def write(self, data: bytes, /) -> int: ...


class Writer:
    """Mono samples into `sink` as flac, mp3, opus (in Ogg) or aac (ADTS).

    The same samples give the same bytes, however they are divided. A rate that the codec does not take is resampled
    on the way, to the lowest one that loses nothing.
    """

    def __init__(self, response_format: str, sample_rate_hz: int, sink: Sink) -> None:
        recipe = _RECIPES[response_format]
        rates_hz = av.Codec(recipe.codec, "w").audio_rates or [sample_rate_hz]  # FLAC lists none: it takes any
        self._rate_hz = min((rate for rate in rates_hz if rate >= sample_rate_hz), default=max(rates_hz))
        self._resampler = None
        if self._rate_hz != sample_rate_hz:
            self._resampler = soxr.ResampleStream(sample_rate_hz, self._rate_hz, 1, dtype="float32")
        self._written = 0
        self._container = av.open(sink, "w", recipe.muxer, container_options={**_OUTPUT_OPTIONS, **recipe.options})
        stream = self._container.add_stream(
            recipe.codec, self._rate_hz, {"flags": "+bitexact"}, layout="mono", bit_rate=recipe.bit_rate
        )
        self._stream = cast(av.AudioStream, stream)
        self._stream.codec_context.thread_count = 1

    def write(self, samples: Samples | npt.NDArray[np.int16]) -> None:
        """float32[n] within ±1 for a lossy format, int16[n] for flac."""
        self._encode(self._resampler.resample_chunk(samples) if self._resampler else samples)

    def close(self) -> None:
        """Encode what is held back, and complete the file."""
        if self._resampler:
            self._encode(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self._container.start_encoding()  # for the header, where nothing was written
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _encode(self, samples: Samples | npt.NDArray[np.int16]) -> None:
        for at in range(0, len(samples), _FRAME_SAMPLES):
            block = samples[at : at + _FRAME_SAMPLES]
            frame = av.AudioFrame.from_ndarray(block[np.newaxis], "s16" if block.dtype == np.int16 else "flt", "mono")
            frame.sample_rate = self._rate_hz
            frame.time_base = Fraction(1, self._rate_hz)
            frame.pts = self._written
            self._written += len(block)
            self._container.mux(self._stream.encode(frame))
