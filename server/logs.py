"""The log: lines for people, or a JSON object a line for machines; uvicorn's warnings and the libraries' too.

A line never holds what is spoken, nor a key: whoever writes one keeps it so.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC
from typing import TYPE_CHECKING, Any

from loguru import logger

from speech.settings import Settings

if TYPE_CHECKING:
    from loguru import Message, Record

_TEXT = "{time:HH:mm:ss} {level: <7} {extra[request_id]} {message}"
_OUTSIDE = "-"
"""Stands where a request's id would, in lines that belong to none."""

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""The standard library's; a library may have more of its own."""


def configure(settings: Settings) -> None:
    """Every log of this process, to stderr."""
    logger.remove()
    logger.configure(extra={"request_id": _OUTSIDE})
    kept: dict[str, Any] = {"level": settings.log_level, "backtrace": False, "diagnose": False}
    if settings.log_format == "json":
        logger.add(_write_json, **kept)
    else:
        logger.add(sys.stderr, format=_TEXT, **kept)
    logging.basicConfig(handlers=[_Handed()], level=logging.WARNING, force=True)


def _write_json(message: Message) -> None:
    sys.stderr.write(json.dumps(_object(message.record), default=str) + "\n")


def _object(record: Record) -> dict[str, object]:
    extra = {name: value for name, value in record["extra"].items() if value not in (_OUTSIDE, None)}
    told = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
        **extra,
    }
    if record["exception"]:
        told["exception"] = "".join(traceback.format_exception(*record["exception"]))
    return told


class _Handed(logging.Handler):
    """Hands lines of the standard library's loggers on."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _LEVELS else "WARNING"
        logger.opt(exception=record.exc_info).log(level, "{}", record.getMessage().rstrip())
