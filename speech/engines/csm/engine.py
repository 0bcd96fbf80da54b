"""CSM-1B as an engine: the Engine protocol over the rooms of this package."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from loguru import logger

from audio_utils import Audio
from speech.engines.base import EngineInfo, Line, Load, Segment
from speech.engines.csm.device import is_out_of_memory
from speech.engines.csm.frames import Frames
from speech.engines.csm.int8 import to_int8
from speech.engines.csm.mimi import MimiDecoder, MimiEncoder
from speech.engines.csm.mimi_weights import MimiWeights, holds_mimi, load_mimi
from speech.engines.csm.model import Csm
from speech.engines.csm.prompt import plan
from speech.engines.csm.reader import Reader
from speech.engines.csm.scheduler import Scheduler
from speech.engines.csm.source import Source, safetensors_files
from speech.engines.csm.tokenizer import TextTokenizer
from speech.engines.csm.weights import Weights, load_weights
from speech.errors import NotReady, OutOfMemory, SpeechError, StartupError

WEIGHTS = "chutesai/csm-1b"
CODEC = "kyutai/mimi"
TOKENIZER = "unsloth/Llama-3.2-1B"
"""Where the codec and the tokenizer come from when the weights' own place does not hold them: the original layout."""

PINNED = {
    WEIGHTS: "01e2ed64be01915391ec7881f666d6dda0e1d509",
    CODEC: "89091b3e466eb6a9d11e537bf26b144f194978f7",
    TOKENIZER: "9535bd9b1d1dea6acafbdc4813b728796aeb28da",
}
"""The commit of each that is taken where none is chosen."""

SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True, slots=True)
class CsmConfig:
    """What an operator may choose.

    weights, codec, tokenizer: each a folder or a hub repository, with a revision; codec and tokenizer None: the
    weights' own place where it holds them, else the published ones. token: the hub's, None: HF_TOKEN. device: "auto"
    takes cuda where there is one. dtype: "auto" is bfloat16 on cuda and float32 on CPU. slots: lines spoken at the
    same time; all are computed at every frame. int8: matrices of the two transformers in eight bits.
    prefix_cache_mb: for prompts that were read before. retries: further takes where one stays silent.
    """

    weights: str = WEIGHTS
    revision: str | None = None
    codec: str | None = None
    codec_revision: str | None = None
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    token: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    slots: int = 4
    int8: bool = False
    prefix_cache_mb: int = 512
    retries: int = 2

    def source(self) -> Source:
        return self._at("csm_weights", self.weights, self.revision)

    def codec_source(self) -> Source:
        return self._at("csm_codec", self.codec or CODEC, self.codec_revision)

    def tokenizer_source(self) -> Source:
        return self._at("csm_tokenizer", self.tokenizer or TOKENIZER, self.tokenizer_revision)

    def _at(self, setting: str, place: str, revision: str | None) -> Source:
        return Source(place, revision or PINNED.get(place), setting=setting, token=self.token)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CsmEngine:
    """Many callers at once on one model; `info` can be read before `start`."""

    def __init__(self, config: CsmConfig | None = None) -> None:
        self.config = config or CsmConfig()
        name = self.config.device
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        automatic = "bfloat16" if self._device.type == "cuda" else "float32"
        dtype = automatic if self.config.dtype == "auto" else self.config.dtype
        if dtype not in DTYPES:
            raise StartupError(f"csm_dtype: {dtype!r} is not known; set auto, float32 or bfloat16")
        if self.config.slots < 1:
            raise StartupError(f"csm_slots: {self.config.slots} is too few; set at least 1")
        self._dtype = DTYPES[dtype]
        self._scheduler: Scheduler | None = None
        self._tokenizer: TextTokenizer | None = None
        self._positions = 0
        self._samples_per_frame = 0
        self.info = EngineInfo(
            name="csm",
            model=self.config.source().label,
            sample_rate_hz=SAMPLE_RATE_HZ,
            device=str(self._device),
            voices=(),
            context="conversation",
            takes=True,
            sampling=True,
            grain="frame",
            parallel=self.config.slots,
            max_text_chars=4000,
            notes=(
                "Speaks English; a voice is given by context, and without any the model makes one up.",
                "Audio is not watermarked by the engine.",
            ),
        )

    def check(self) -> None:
        """Whether weights, codec and tokenizer can be had, by their small files alone; raises StartupError."""
        source = self.config.source()
        config = source.json("config.json") or {}
        if source.is_folder:
            safetensors_files(source, config=config)
        self._codec_source(source).get("config.json")
        self._tokenizer_source(source).get("tokenizer.json")

    def start(self) -> None:
        began = time.monotonic()
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise StartupError(f"csm_device: {self._device} is set, but torch finds no cuda device; set cpu or auto")
        source = self.config.source()
        try:
            with torch.inference_mode():
                weights = load_weights(source, device=self._device, dtype=self._dtype)
                tokenizer = TextTokenizer(self._tokenizer_source(source), vocabulary=weights.dims.text_vocab)
                codec = self._codec_source(source)
                if codec is source and not holds_mimi(source):
                    # config.json describes transformers' layout, and the file beside it is the original's.
                    codec = self.config.codec_source()
                self.assemble(weights, load_mimi(codec, device=self._device), tokenizer)
        except Exception as error:
            self.close()
            if isinstance(error, OutOfMemory) or is_out_of_memory(error):
                raise StartupError(
                    f"csm_device: {self._device} has too little memory for the model and {self.config.slots} slots of "
                    f"its cache; set csm_slots lower or csm_dtype to bfloat16"
                ) from error
            if isinstance(error, SpeechError):
                told = f"the model was loaded but did not speak: {error.message}; the log says why"
                raise StartupError(told) from error
            raise
        logger.info("CSM is ready on {} after {:.1f} s", self._device, time.monotonic() - began)

    def assemble(self, weights: Weights, mimi: MimiWeights, tokenizer: TextTokenizer) -> None:
        """Start on parts that are already there; `start` loads them first. Under `torch.inference_mode`."""
        dims = weights.dims
        if mimi.dims.codebooks != dims.codebooks or mimi.dims.sample_rate_hz != SAMPLE_RATE_HZ:
            raise StartupError(
                f"csm_codec: the codec has {mimi.dims.codebooks} codebooks at {mimi.dims.sample_rate_hz} Hz, "
                f"the model {dims.codebooks} at {SAMPLE_RATE_HZ}"
            )
        if self.config.int8:
            to_int8(weights)
        model = Csm(weights, codes=mimi.dims.codebook_size)
        frames = Frames(model, MimiDecoder(mimi), slots=self.config.slots)
        reader = Reader(model, MimiEncoder(mimi), prefix_bytes=self.config.prefix_cache_mb * 1_000_000)
        frames.warm()
        self._tokenizer, self._positions = tokenizer, dims.max_positions
        self._samples_per_frame = mimi.dims.samples_per_frame
        self._scheduler = Scheduler(frames, reader, rate_hz=SAMPLE_RATE_HZ, retries=self.config.retries)
        self._scheduler.start()
        self._warm_up()

    def voice_of(self, line: Line) -> str | None:
        """None: it has no voices of its own."""
        return None

    def speak(self, line: Line) -> Generator[Audio, None, None]:
        if self._scheduler is None or self._tokenizer is None:
            raise NotReady("the engine has not been started", retry_after_s=5)
        line.caller.check()
        prompt = plan(
            line,
            self._tokenizer,
            positions=self._positions,
            samples_per_frame=self._samples_per_frame,
            rate_hz=SAMPLE_RATE_HZ,
        )
        return self._scheduler.submit(line, prompt)

    def load(self) -> Load:
        scheduler = self._scheduler
        if scheduler is None:
            return Load()
        if scheduler.dead:
            return Load(tuple(scheduler.batches), unable="the engine has stopped; restart the server")
        return Load(tuple(scheduler.batches), _memory(self._device))

    def trim(self) -> None:
        """The allocator's idle memory goes back; remembered prompts stay, they are bounded by their own setting."""
        Scheduler.trim()

    def close(self) -> None:
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None

    def _codec_source(self, weights: Source) -> Source:
        if self.config.codec is None and "codec_config" in (weights.json("config.json") or {}):
            return weights
        return self.config.codec_source()

    def _tokenizer_source(self, weights: Source) -> Source:
        if self.config.tokenizer is None and weights.find("tokenizer.json") is not None:
            return weights
        return self.config.tokenizer_source()

    def _warm_up(self) -> None:
        """Speak once, with a reference, so that the first caller does not wait for what is made on first use."""
        quiet = Audio(np.zeros(SAMPLE_RATE_HZ // 10, np.float32), SAMPLE_RATE_HZ)
        line = Line(text="Ready.", context=(Segment(text="Hm.", speaker=1, audio=quiet),), max_duration_ms=240)
        for _ in self.speak(line):
            pass


def _memory(device: torch.device) -> dict[str, int]:
    """What the GPU holds: in tensors, in the allocator's hands, in all (of every process), and its size."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "used": total - free,
        "total": total,
    }
