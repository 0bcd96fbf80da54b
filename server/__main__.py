"""`python -m server`: settings from the environment, then serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from loguru import logger

from server import logs, tracing
from server.app import create_app
from server.connections import BoundedConnection
from server.keys import keys_of
from server.wyoming import Door
from speech.engines.base import Line
from speech.engines.registry import choose
from speech.errors import StartupError
from speech.service import Service
from speech.settings import PREFIX, Settings

MAX_MESSAGE_BYTES = 17 << 20
"""Of a message on a WebSocket: the longest recording there may be, and its text."""


def _settings() -> Settings:
    """From the environment and the command line. Raises StartupError."""
    parser = argparse.ArgumentParser(prog="python -m server", description="A speech server; see docs/self-hosting.md.")
    parser.add_argument(
        "--upstream",
        action="append",
        metavar="URL",
        help="a server or chute to speak through, in place of an engine here; may be given several times",
    )
    upstreams = parser.parse_args().upstream
    if not upstreams:
        return Settings.from_env()
    chosen = {PREFIX + "ENGINE": "gateway", PREFIX + "UPSTREAMS": ",".join(upstreams)}
    return Settings.from_env({**os.environ, **chosen})


def main() -> None:
    # For Ctrl-C while the engine loads. Later uvicorn lets requests finish, then raises the signal again: that ends it
    # without a word, and not with a trace.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    try:
        settings = _settings()
        logs.configure(settings)
        traced = tracing.wanted()
        address = _bind(settings.host, "PORT", settings.port)  # told before minutes of loading, not after
        wyoming_address = _wyoming_address(settings)
        keys = keys_of(settings)
        if keys is None:
            _warn_if_open(address)
        service = Service(choose(settings), settings)
        service.start()
    except StartupError as error:
        sys.exit(f"duologue cannot start: {error}")
    app = create_app(service, settings, keys)
    wyoming = Door(app.state.desk, wyoming_address) if wyoming_address else None
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        limit_concurrency=settings.connections,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=2,
        ws_per_message_deflate=False,  # sound as PCM takes long to compress and hardly shrinks
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=round(settings.shutdown_s),
    )
    traces = tracing.Traces(service) if traced else None
    try:
        Announcing(config, service, settings, wyoming).run(sockets=[address])
    finally:
        service.close()
        if traces:
            traces.close()


def _bind(host: str, name: str, port: int) -> socket.socket:
    """A socket at that address, not listening yet. Raises StartupError where it cannot be had; name: of the setting
    that has the port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)  # without it asyncio does not know TCP, and small answers wait
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        cure = "as in `make serve PORT=8001`" if name == "PORT" else f"as in DUOLOGUE_{name}={port + 1}"
        raise StartupError(
            f"cannot listen at DUOLOGUE_HOST={host}, DUOLOGUE_{name}={port} "
            f"({(error.strerror or str(error)).lower()}); choose another, {cure}"
        ) from None
    return bound


def _wyoming_address(settings: Settings) -> socket.socket | None:
    port = settings.wyoming_port
    if port is None:
        return None
    if port == settings.port:  # neither listens yet: the system would let both have it
        raise StartupError(f"DUOLOGUE_PORT and DUOLOGUE_WYOMING_PORT are both {port}; choose another for one of them")
    address = _bind(settings.host, "WYOMING_PORT", port)
    if _is_open(address):
        logger.warning(
            "Wyoming has no keys: whoever reaches port {} of this machine may have it speak. Let none but Home "
            "Assistant through, by a firewall",
            port,
        )
    return address


def _is_open(address: socket.socket) -> bool:
    """Whether others than this machine reach it."""
    return not ipaddress.ip_address(address.getsockname()[0].partition("%")[0]).is_loopback


def _warn_if_open(address: socket.socket) -> None:
    if _is_open(address):
        logger.warning(
            "DUOLOGUE_HOST={} lets in whoever reaches this machine, and no key is asked of them. To ask for one: "
            "`python -m server.keys --file keys.json add NAME`, then start with DUOLOGUE_KEYS_FILE=keys.json",
            address.getsockname()[0],
        )


class Announcing(uvicorn.Server):
    """A server that says where it listens, once it does, with a line that can be pasted, and says that it is about to
    stop before it does. wyoming: opens and closes with it."""

    def __init__(self, config: uvicorn.Config, service: Service, settings: Settings, wyoming: Door | None) -> None:
        super().__init__(config)
        self._service = service
        self._wyoming = wyoming
        self._shutdown_s = settings.shutdown_s
        self._drain_s = settings.drain_s
        self._asks_for_key = settings.keys_file is not None
        self._tell = logger.info if settings.log_format == "json" else _print

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, after `drain_s` in which only /ready tells; at once when asked again."""
        drain_s, self._drain_s = self._drain_s, 0.0
        self._service.drain()
        if drain_s:
            asyncio.get_running_loop().call_later(drain_s, super().handle_exit, sig, frame)
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if not self.servers:
            return
        if self._wyoming:
            await self._wyoming.open()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        engine = self._service.engine
        key = ' -H "Authorization: Bearer $DUOLOGUE_API_KEY"' if self._asks_for_key else ""
        voices = [f"speaker {number} is {engine.voice_of(Line('', speaker=number))}" for number in (0, 1)]
        self._tell(
            f"Duologue listens on {url} and speaks with {engine.info.model} on {engine.info.device}"
            f"{', '.join(['', *voices]) if engine.info.voices else ''}. Try:\n"
            f"  curl -s {url}/speak{key} -H 'Content-Type: application/json' "
            """-d '{"text": "Hello. Nice to meet you."}' -o hello.wav"""
            + (f"\nHome Assistant finds it at {self._wyoming.url} (Wyoming)" if self._wyoming else "")
        )

    async def shutdown(self, sockets: list | None = None) -> None:
        closing = [self._wyoming.close(self._shutdown_s)] if self._wyoming else []
        await asyncio.gather(super().shutdown(sockets), *closing)


def _print(words: str) -> None:
    """Print `words`; a server whose output nobody takes serves all the same."""
    try:
        print(words, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it ends


if __name__ == "__main__":
    main()
