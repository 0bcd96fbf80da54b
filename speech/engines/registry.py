"""Which engine a name stands for. Each room is imported only when it is chosen: most need what others do not."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from loguru import logger

from speech.engines.base import Engine
from speech.errors import StartupError
from speech.settings import Settings

if TYPE_CHECKING:
    from speech.engines.csm.engine import CsmEngine


def choose(settings: Settings) -> Engine:
    """The engine that `settings.engine` names, not started. Raises StartupError where it cannot be had.

    auto takes csm on cuda when its weights can be had, else kokoro.
    """
    match settings.engine:
        case "csm":
            return _csm(settings)
        case "hibari":
            return _hibari()
        case "gateway":
            return _gateway(settings)
        case "auto" if _cuda():
            try:
                engine = _csm(settings)
                engine.check()
                return engine
            except StartupError as error:
                logger.warning("speaking with kokoro, since csm cannot be had: {}", error)
    return _kokoro(settings)


def _csm(settings: Settings) -> CsmEngine:
    for package in ("torch", "tokenizers", "huggingface_hub"):
        if importlib.util.find_spec(package) is None:
            raise StartupError(f"the engine csm needs the package {package}: see docs/self-hosting.md")
    from speech.engines.csm.engine import CsmConfig, CsmEngine

    prefix = "csm_"
    chosen = {name.removeprefix(prefix): value for name, value in settings if name.startswith(prefix)}
    return CsmEngine(CsmConfig(**chosen))


def _kokoro(settings: Settings) -> Engine:
    from speech.engines.kokoro.engine import KokoroEngine

    return KokoroEngine(threads=settings.threads)


def _hibari() -> Engine:
    from speech.engines.hibari import HibariEngine

    return HibariEngine()


def _gateway(settings: Settings) -> Engine:
    upstreams = tuple(url.strip().rstrip("/") for url in (settings.upstreams or "").split(",") if url.strip())
    if not upstreams:
        raise StartupError(
            "the engine gateway needs to know whom it speaks through: set DUOLOGUE_UPSTREAMS, or start it with "
            "`python -m server --upstream https://you-csm-1b-tts.chutes.ai`"
        )
    try:
        # By name: what this file imports goes into the image of a chute, and a chute is no gateway.
        engine = importlib.import_module("speech.engines.gateway.engine")
    except ModuleNotFoundError as error:
        raise StartupError(f"the engine gateway is for the self-hosted server alone ({error})") from None
    config = engine.GatewayConfig(upstreams, settings.upstream_key or "", settings.upstream_slots)
    made: Engine = engine.GatewayEngine(config)
    return made


def _cuda() -> bool:
    """Whether there is a GPU that torch can use; False where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
