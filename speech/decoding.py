"""Recordings from callers: compressed bytes to float32 samples, within limits, whatever the bytes are.

PyAV (libav) reads every container, takes bytes rather than files, and hands sound over as it goes, so no second
library is needed. But libav can be made to run for hours by half a megabyte of tags, to allocate gigabytes by a
few hundred bytes of MP4, and has crashed before. So it runs in a process of its own, held to seconds and
megabytes by the operating system: this file is both that process (`python -m speech.decoding`) and the line to it.
What the sound is good for is not judged here.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from speech.errors import InvalidInput

Samples = npt.NDArray[np.float32]

SEND = "send WAV, FLAC, OGG (Vorbis or Opus), MP3, M4A, AAC or WebM"
SEND_SOUND = f"{SEND} that plays in an ordinary player"
TOO_MUCH = "takes too much time or memory to decode"

CPU_S = 10  # of processor time for one recording; a minute of Opus, the slowest here, takes about half a second
MEMORY_BYTES = 512_000_000  # of the process; the longest sound at the highest rate is 46 MB, held twice
PLACES = min(4, os.cpu_count() or 1)  # recordings decoded at the same time; each idle process costs about 40 MB
MAX_SPOILED = 16  # packets that do not decode: a torn start or end is usual in MP3, more is damage

DECODERS = (
    "aac,alac,flac,mp3,mp3float,opus,vorbis,pcm_alaw,pcm_mulaw,pcm_s8,pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,"
    "pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)
INPUT_OPTIONS = {
    "codec_whitelist": DECODERS,  # also keeps libav from decoding pictures while it probes
    "protocol_whitelist": "none",  # a file that points at other files or addresses gets nothing
}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is accepted of a recording. The defaults suit a voice to follow and a conversation to go on with.

    max_bytes: encoded; the 16 million base64 characters of `schemas.MAX_AUDIO_B64_CHARS` are 12 million bytes.
    Rates: from half a telephone's to the highest a sound card records at.
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
    """The first sound in `data` that can be decoded, as float32[n] with its channels averaged, and its rate in Hz.

    Pictures, subtitles and attachments are passed over. Of `limits` this holds length, rate and channels, while
    decoding. Raises InvalidInput for `field`.
    """
    with _places:
        process = _idle_process() or _Process()
        try:
            samples, rate_hz = process.decode(data, limits)
        except Refused as refused:
            _idle.append(process)
            raise InvalidInput(field, refused.problem, refused.cure) from None
        except (EOFError, OSError):
            process.close()
            raise InvalidInput(field, TOO_MUCH, SEND_SOUND) from None
        _idle.append(process)
        return samples, rate_hz


class Refused(Exception):
    """`problem` says what is wrong with a recording, `cure` what would be right."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure


# The line to the process


class _Process:
    """A process that decodes one recording at a time."""

    def __init__(self) -> None:
        # Of our own environment only what Python needs to start: the rest may hold secrets.
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        env = {
            "PYTHONPATH": path,
            "OPENBLAS_NUM_THREADS": "1",
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
            "LD_PRELOAD": os.environ.get("LD_PRELOAD", ""),  # a platform may insist on its own
        }
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "speech.decoding"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._popen.stdin and self._popen.stdout
        self._to, self._from = self._popen.stdin, self._popen.stdout
        if self._from.readline() != b"ready\n":
            raise RuntimeError("the process that decodes recordings does not start")

    def decode(self, data: bytes, limits: DecodeLimits) -> tuple[Samples, int]:
        """As `read`. Raises Refused, or EOFError or OSError where the process broke its limits and is gone."""
        self._to.write(json.dumps({"bytes": len(data), "limits": asdict(limits), "cpu_s": CPU_S}).encode() + b"\n")
        self._to.write(data)
        self._to.flush()
        answer = self._from.readline()
        if not answer:
            raise EOFError
        told = json.loads(answer)
        if "problem" in told:
            raise Refused(told["problem"], told["cure"])
        samples = self._from.read(told["bytes"])
        if len(samples) != told["bytes"]:
            raise EOFError
        return np.frombuffer(bytearray(samples), np.float32), told["rate_hz"]  # a bytearray, so it can be written to

    def alive(self) -> bool:
        return self._popen.poll() is None

    def close(self) -> None:
        self._popen.kill()
        self._popen.communicate()


_places = threading.BoundedSemaphore(PLACES)
_idle: list[_Process] = []  # append and pop are atomic, so it needs no lock


def _idle_process() -> _Process | None:
    """A process that waits for work, or None; one that died meanwhile is not the next caller's fault."""
    while _idle:
        try:
            process = _idle.pop()
        except IndexError:
            break
        if process.alive():
            return process
        process.close()
    return None


@atexit.register
def close() -> None:
    """Stop the processes that wait for work; the next recording starts a fresh one."""
    while _idle:
        _idle.pop().close()


# The process


def main() -> None:
    """Answer jobs from stdin on stdout, each a line of JSON and then bytes, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes stdin
    import resource

    _limit(resource.RLIMIT_DATA, MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"ready\n")
    answers.flush()
    while line := jobs.readline():
        job = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + job["cpu_s"])
        samples = np.zeros(0, np.float32)
        told: dict[str, Any]
        try:
            samples, rate_hz = decoded(jobs.read(job["bytes"]), DecodeLimits(**job["limits"]))
            told = {"bytes": samples.nbytes, "rate_hz": rate_hz}
        except Refused as refused:
            told = {"problem": refused.problem, "cure": refused.cure}
        except MemoryError:
            told = {"problem": TOO_MUCH, "cure": SEND_SOUND}
        except Exception:  # whatever libav finds wrong with a caller's bytes is the caller's, told in our words
            told = {"problem": "is damaged or cut short", "cure": SEND_SOUND}
        answers.write(json.dumps(told).encode() + b"\n")
        answers.write(samples.data)
        answers.flush()


def _limit(what: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def decoded(data: bytes, limits: DecodeLimits) -> tuple[Samples, int]:
    """`read`, here and now. Raises Refused, and lets libav's errors through."""
    demuxer = _demuxer(data)
    if demuxer is None:
        raise Refused("is not a recording of a kind that is read here", SEND)
    blocks: list[Samples] = []
    rate_hz = total = spoiled = 0
    with av.open(
        io.BytesIO(data), "r", demuxer, container_options=INPUT_OPTIONS, metadata_errors="replace"
    ) as container:
        known = DECODERS.split(",")
        streams = [s for s in container.streams.audio if s.codec_context and s.codec_context.name in known]
        if not streams:
            raise Refused("holds no sound in a codec that is read here", SEND)
        stream = streams[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
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
                _hold(frame, total, rate_hz, limits)
                blocks.append(_mono(frame))
    if not total:
        raise Refused("holds no sound", SEND_SOUND)
    return np.concatenate(blocks), rate_hz


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


def _hold(frame: av.AudioFrame, total: int, rate_hz: int, limits: DecodeLimits) -> None:
    """Raises Refused where `frame`, which brings the sound to `total` samples, breaks one of `limits`."""
    if not limits.min_rate_hz <= frame.sample_rate <= limits.max_rate_hz:
        cure = f"send {limits.min_rate_hz} to {limits.max_rate_hz} Hz; 24000 is plenty for speech"
        raise Refused(f"has a sample rate of {frame.sample_rate} Hz", cure)
    if frame.sample_rate != rate_hz:
        raise Refused("changes its sample rate on the way", "send a recording of one sample rate")
    if frame.layout.nb_channels > limits.max_channels:
        cure = f"send mono, or at most {limits.max_channels} channels to be mixed to mono"
        raise Refused(f"has {frame.layout.nb_channels} channels", cure)
    if total * 1000 > limits.max_ms * rate_hz:
        raise Refused(f"is longer than {limits.max_ms / 1000:g} s", f"send {limits.length} of speech")


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


if __name__ == "__main__":
    main()
