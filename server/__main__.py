"""`python -m server`: settings from the environment, then serve until told to stop."""

from __future__ import annotations

import signal
import sys

import uvicorn
from loguru import logger

from server.app import create_app
from speech.engines.base import Line
from speech.engines.registry import choose
from speech.errors import StartupError
from speech.service import Service
from speech.settings import Settings

_LOG_FORMAT = "{time:HH:mm:ss} {level: <7} {extra[request_id]} {message}"


def main() -> None:
    try:
        settings = Settings.from_env()
        logger.configure(extra={"request_id": "-"})
        logger.remove()
        logger.add(sys.stderr, level=settings.log_level, format=_LOG_FORMAT, backtrace=False, diagnose=False)
        service = Service(choose(settings), settings)
        service.start()
    except StartupError as error:
        sys.exit(f"duologue cannot start: {error}")
    config = uvicorn.Config(
        create_app(service, settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=round(settings.shutdown_s),
    )
    # uvicorn lets requests finish, then raises the signal again: that ends it without a word, and not with a trace
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    try:
        Announcing(config, service).run()
    finally:
        service.close()


class Announcing(uvicorn.Server):
    """A server that says where it listens, once it does, with a line that can be pasted."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if not self.servers:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        engine = self._service.engine
        voices = [f"speaker {number} is {engine.voice_of(Line('', speaker=number))}" for number in (0, 1)]
        print(
            f"Duologue listens on http://{host}:{port} and speaks with {engine.info.model} on {engine.info.device}"
            f"{', '.join(['', *voices]) if engine.info.voices else ''}. Try:\n"
            f"  curl -s http://{host}:{port}/speak -H 'Content-Type: application/json' "
            """-d '{"text": "Hello. Nice to meet you."}' -o hello.wav""",
            flush=True,
        )


if __name__ == "__main__":
    main()
