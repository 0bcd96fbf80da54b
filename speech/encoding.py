"""Sound to the compressed bytes of flac, mp3, opus and aac, frame by frame, through PyAV (libav).

WAV and PCM need no codec and are written in audio_utils.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, cast

import av
import numpy as np
import numpy.typing as npt
import soxr

from speech.decoding import Samples


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
