"""Whatever the bytes, decoding ends in sound or in a refusal, within seconds and megabytes."""

from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_utils import Audio, decode, decode_b64
from speech import decoding
from speech.errors import InvalidInput
from tests.audio import sounds

FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def sound_or_refusal(decode_it: Callable[[], Audio]) -> None:
    try:
        audio = decode_it()
    except InvalidInput as refused:
        assert refused.field == "f"
        assert re.fullmatch(r"f: [^;]+; .+", refused.message), refused.message
        assert not re.search(r"Traceback|Errno|\.py|\.venv|speech\.|\bav\b|ffmpeg", refused.message), refused.message
        assert len(refused.message) < 300
        assert refused.__cause__ is None
    else:
        assert audio.samples.dtype == np.float32
        assert np.isfinite(audio.samples).all()
        assert 500 <= audio.duration_ms <= 60_000


@FUZZ
@given(st.data())
def test_damaged_recordings(data: st.DataObject) -> None:
    recording = bytearray(sounds.made(data.draw(st.sampled_from(list(sounds.FILES)))))
    if data.draw(st.booleans()):
        del recording[data.draw(st.integers(0, len(recording))) :]
    # Headers are a small part of a file and the part where a changed byte means most.
    reach = min(len(recording), data.draw(st.sampled_from([64, 600, 10**9])))
    for _ in range(data.draw(st.sampled_from([0, 1, 3, 20])) if reach else 0):
        at = data.draw(st.integers(0, reach - 1))
        recording[at : at + 1] = data.draw(
            st.sampled_from([b"\0", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b""]) | st.binary(max_size=4)
        )
    sound_or_refusal(lambda: decode(bytes(recording), field="f"))


BEGINNINGS = [b"", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"\0\0\0\x18ftypM4A "]
BEGINNINGS += [b"\xff\xfb", b"\xff\xf1", b"ID3"]


@FUZZ
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=3000))
def test_noise_behind_a_good_beginning(beginning: bytes, noise: bytes) -> None:
    sound_or_refusal(lambda: decode(beginning + noise, field="f"))


@FUZZ
@given(st.text(max_size=50) | st.text("ABab09+/= \n", max_size=400) | st.just("data:") | st.just("data:;base64,"))
def test_any_text(text: str) -> None:
    sound_or_refusal(lambda: decode_b64(text, field="f"))


# Bombs: small files that claim, or unpack to, far more than they are.


def box(kind: bytes, *parts: bytes) -> bytes:
    """An MP4 box."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *parts: bytes, version_and_flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version_and_flags), *parts)


def mp4_that_claims(samples_per_track: int, tracks: int, in_fragments: int = 0) -> bytes:
    """An MP4 of 16-bit sound whose index has that many entries, though the file holds 100 bytes of it."""
    entry = box(b"sowt", bytes(6), struct.pack(">H", 1), bytes(8), struct.pack(">HHHHI", 1, 16, 0, 0, 24_000 << 16))
    table = box(
        b"stbl",
        full(b"stsd", struct.pack(">I", 1), entry),
        full(b"stts", struct.pack(">III", 1, samples_per_track, 1024)),
        full(b"stsc", struct.pack(">IIII", 1, 1, samples_per_track, 1)),
        full(b"stsz", struct.pack(">II", 1, samples_per_track)),
        full(b"stco", struct.pack(">II", 1, 40)),
    )
    here = box(b"dinf", full(b"dref", struct.pack(">I", 1), full(b"url ", version_and_flags=1)))
    information = box(b"minf", full(b"smhd", bytes(4)), here, table)
    handler = full(b"hdlr", bytes(4), b"soun", bytes(13))
    media = box(b"mdia", full(b"mdhd", struct.pack(">IIIIHH", 0, 0, 24_000, 0, 0, 0)), handler, information)
    heads = [full(b"tkhd", struct.pack(">III", 0, 0, k + 1), bytes(68), version_and_flags=7) for k in range(tracks)]
    extends = box(b"mvex", full(b"trex", struct.pack(">IIIII", 1, 1, 1024, 10, 0))) if in_fragments else b""
    movie = box(
        b"moov",
        full(b"mvhd", struct.pack(">III", 0, 0, 1000), bytes(84)),
        *(box(b"trak", h, media) for h in heads),
        extends,
    )
    run = full(b"trun", struct.pack(">I", in_fragments))
    pieces = (
        box(b"moof", full(b"mfhd", bytes(4)), box(b"traf", full(b"tfhd", struct.pack(">I", 1)), *[run] * 200))
        if in_fragments
        else b""
    )
    return box(b"ftyp", b"isom", bytes(4)) + movie + pieces + box(b"mdat", bytes(100))


def flac_of_an_hour() -> bytes:
    """A constant for an hour, which is a few bytes a block."""
    file = io.BytesIO()
    with av.open(file, "w", "flac") as out:
        stream = out.add_stream("flac", 8000, {"compression_level": "0"}, layout="mono")
        for k in range(360):
            frame = av.AudioFrame.from_ndarray(np.full((1, 80_000), 3000, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 8000, k * 80_000
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def flac_with_tags(tags: int) -> bytes:
    """libav compares every tag to all those before it."""
    notes = bytes(4) + struct.pack("<I", tags) + b"".join(struct.pack("<I", 7) + b"%05x=a" % k for k in range(tags))
    format_hz_bits = ((24_000 << 44) | (15 << 36)).to_bytes(8, "big")
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + format_hz_bits + bytes(16)
    return b"fLaC\0" + len(info).to_bytes(3, "big") + info + b"\x84" + len(notes).to_bytes(3, "big") + notes


def element(name: str, body: bytes) -> bytes:
    """A Matroska element."""
    return bytes.fromhex(name) + (len(body) | 1 << 56).to_bytes(8, "big") + body


def matroska_of_squeezed_packets() -> bytes:
    """300 packets that are 9 kB here and 9 MB unpacked."""
    squeezed = element(
        "6d80",
        element("6240", element("5031", b"\0") + element("5032", b"\1") + element("5034", element("4254", b"\0"))),
    )
    sound = element("e1", element("b5", struct.pack(">d", 48_000)) + element("9f", b"\1") + element("6264", b"\x10"))
    track = element(
        "ae",
        element("d7", b"\1")
        + element("73c5", b"\1")
        + element("83", b"\2")
        + element("86", b"A_PCM/INT/LIT")
        + sound
        + squeezed,
    )
    packet = zlib.compress(bytes(9_000_000), 9)
    blocks = b"".join(element("a3", b"\x81" + struct.pack(">hB", k, 0x80) + packet) for k in range(300))
    cluster = element("1f43b675", element("e7", b"\0") + blocks)
    body = element("1549a966", element("2ad7b1", b"\x0f\x42\x40")) + element("1654ae6b", track) + cluster
    return element("1a45dfa3", element("4282", b"matroska")) + element("18538067", body)


def wav_that_claims_gigabytes() -> bytes:
    shape = struct.pack("<IHHIIHH", 16, 1, 8, 192_000, 192_000 * 32, 32, 32)
    return b"RIFF\xf0\xff\xff\xffWAVEfmt " + shape + b"data\xc0\xff\xff\xff" + bytes(1000)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a WAV that claims 4 GB": wav_that_claims_gigabytes,
    "an hour of FLAC": flac_of_an_hour,
    "an MP4 index of 4 GB": lambda: mp4_that_claims(160_000_000, tracks=1),
    "50 MP4 indexes of 500 MB": lambda: mp4_that_claims(20_000_000, tracks=50),
    "200 MP4 fragments of 240 MB": lambda: mp4_that_claims(1, tracks=1, in_fragments=10_000_000),
    "Matroska of squeezed packets": matroska_of_squeezed_packets,
    "an hour of AAC in empty frames": lambda: bytes([0xFF, 0xF1, 0x58, 0x40, 0x00, 0xFF, 0xFC]) * 1_000_000,
    "boxes in boxes in boxes": lambda: (
        b"\0\0\0\x10ftypM4A \0\0\0\0" + b"".join(struct.pack(">I4s", 8 * (10**6 - k), b"moov") for k in range(10**6))
    ),
}


def peak_bytes(pid: int) -> int:
    """The most memory a process has held since it started."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(line)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_without_the_memory_it_asks_for(name: str) -> None:
    bomb = BOMBS[name]()
    decoding.close()  # a fresh process, whose peak is this bomb's
    tracemalloc.start()
    with pytest.raises(InvalidInput):
        decode(bomb, field="f")
    here_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (process,) = decoding._idle
    assert here_bytes < len(bomb) + 1_000_000
    assert peak_bytes(process._popen.pid) < decoding.MEMORY_BYTES + 100_000_000, "its limit and the libraries' own code"


def test_work_without_end_is_stopped_and_the_next_recording_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million tags, which would take libav hours; the limit is a second here, so that the test is short."""
    monkeypatch.setattr(decoding, "CPU_S", 1)
    with pytest.raises(InvalidInput, match="takes too much time or memory to decode; send WAV"):
        decode(flac_with_tags(1_000_000), field="f")
    assert decode(sounds.made("wav 16 bit"), field="f").duration_ms == 1500


def test_a_bomb_of_memory_leaves_room_for_the_next_recording() -> None:
    for _ in range(3):
        sound_or_refusal(lambda: decode(BOMBS["200 MP4 fragments of 240 MB"](), field="f"))
        assert decode(sounds.made("m4a"), field="f").duration_ms == pytest.approx(1500, abs=45)


def test_a_playlist_gets_nothing_of_the_files_it_names(tmp_path: Path) -> None:
    other = tmp_path / "secret.wav"
    other.write_bytes(sounds.made("wav 16 bit"))
    for playlist in (f"#EXTM3U\n#EXTINF:1,\n{other}\n", f"ffconcat version 1.0\nfile {other}\n"):
        with pytest.raises(InvalidInput, match="is not a recording of a kind that is read here"):
            decode(playlist.encode(), field="f")


def test_many_at_once_each_get_their_own() -> None:
    lengths_ms = [600 + 50 * k for k in range(24)]
    recordings = [sounds.wav(sounds.voice(ms / 1000)) if ms % 100 else b"no sound" for ms in lengths_ms]

    def length_ms(recording: bytes) -> float | None:
        try:
            return decode(recording, field="f").duration_ms
        except InvalidInput:
            return None

    with ThreadPoolExecutor(8) as callers:
        heard = list(callers.map(length_ms, recordings))
    assert heard == [ms if ms % 100 else None for ms in lengths_ms]
    assert len(decoding._idle) <= decoding.PLACES
