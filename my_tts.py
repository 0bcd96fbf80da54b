"""Duologue on Chutes: start-up and cords, no logic. A cord is one line over an operation of `speech.operations`.

`chutes build my_tts:chute`, then `chutes deploy my_tts:chute` (docs/chutes.md); `make chute` runs it on this machine.
A deployment sends the text of this file and nothing else: whatever it imports is in the image (image.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chutes.chute import Chute, NodeSelector
from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse
from loguru import logger
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image import image_of
from speech import event_stream, release
from speech.caller import Caller
from speech.engines.registry import choose
from speech.errors import InvalidInput, SpeechError, StartupError, to_http
from speech.operations import OPERATIONS, STREAM_SPEAK, Operation
from speech.service import Service
from speech.settings import Settings

RELEASE = "0.1.0-6ca9261fe2dc"

try:
    release.require(RELEASE, Path(__file__).parent)
    settings = Settings.from_env()
    image = image_of(settings, RELEASE)
except StartupError as error:
    raise ImportError(str(error)) from error  # the one error that the SDK's commands tell in a line of its own

chute = Chute(
    username=image.username,
    name=settings.chute,
    tagline="Text in, conversation out: CSM-1B with voices, context and batches.",
    readme='`POST /speak` with `{"text": "Hello."}` answers a WAV; `GET /health` says what speaks here.',
    image=image,
    # CSM-1B in bf16 with its codec and the context of a full batch fits in 24 GB, with room to spare.
    node_selector=NodeSelector(gpu_count=1, min_vram_gb_per_gpu=24),
    # An instance takes `concurrency` requests at once and the platform answers 429 to the next one; our own gate has
    # at least as many places (start, below), so that it is the one who refuses, and callers are only ever told to
    # wait once. Above `scaling_threshold` of them in use another instance starts, up to `max_instances`: one unless
    # the deployer says otherwise, since each is billed.
    concurrency=settings.concurrency,
    max_instances=settings.max_instances,
    scaling_threshold=settings.scaling_threshold,
    shutdown_after_seconds=settings.shutdown_after_seconds,
    # Weights come during start-up, when the network is open; afterwards nothing needs it.
    allow_external_egress=False,
)


@chute.on_startup()
async def start(self: Chute) -> None:
    """Download, load and warm up; the platform sends nobody before this is over."""
    engine = choose(settings)
    places = engine.info.parallel + settings.queue
    if places < settings.concurrency:
        raise StartupError(
            f"DUOLOGUE_CONCURRENCY={settings.concurrency} is more than the {places} places of the queue; "
            f"set DUOLOGUE_QUEUE to at least {settings.concurrency - engine.info.parallel}"
        )
    service = Service(engine, settings)
    service.start()
    self.state.service = service
    logger.info("release {} speaks as {}/{}", RELEASE, self._username, self.name)


async def answer(self: Chute, name: str, args: Any) -> Response:
    """The reply of operation `name` to the raw body `args`; the SDK cancels this when the caller hangs up."""
    caller = Caller()
    try:
        reply = await asyncio.to_thread(OPERATIONS[name], self.state.service, args, caller)
    except asyncio.CancelledError:
        caller.leave()
        raise
    return Response(reply.body, media_type=reply.media_type, headers=reply.headers)


def stream(self: Chute, args: Any) -> Iterator[str]:
    """The events that answer the raw body `args`, made in a thread of the SDK's, which runs to their end."""
    try:
        yield from event_stream.opened(self.state.service, args, args.caller if isinstance(args, Body) else Caller())
    except Exception as error:
        raise Refused(error) from error


class Refused(HTTPException):
    """What kept a stream from beginning. The SDK lets errors of this class alone be answered as we want."""

    def __init__(self, error: Exception) -> None:
        super().__init__(500)
        self.error = error


class Body(dict):
    """A request's body, with its caller: the SDK hands a cord nothing else."""

    def __init__(self, body: dict[str, Any], caller: Caller) -> None:
        super().__init__(body)
        self.caller = caller


class Listening:
    """Lets a stream know that its listener has gone. The SDK stops sending then, and lets the cord speak on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != STREAM_SPEAK.path:
            return await self._app(scope, receive, send)
        caller, gone, state = Caller(), asyncio.Event(), scope.setdefault("state", {})
        if isinstance(state.get("decrypted"), dict):
            state["decrypted"] = Body(state["decrypted"], caller)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            caller.leave()
            gone.set()

        async def receive_the_end() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send_as_events(message: Message) -> None:
            """In dev mode the answer goes out as it is, and the SDK does not say what it is."""
            if message["type"] == "http.response.start" and message["status"] == 200 and "_encrypt" not in state:
                message["headers"] = [*message["headers"], (b"content-type", b"text/event-stream; charset=utf-8")]
            await send(message)

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, receive_the_end, send_as_events)
        finally:
            watching.cancel()
            caller.leave()


chute.add_middleware(Listening)


@chute.exception_handler(Refused)
async def refused(request: Request, refusal: Refused) -> Response:
    """As on the other cords."""
    if isinstance(refusal.error, SpeechError):
        return await told(request, refusal.error)
    logger.opt(exception=refusal.error).error("a stream failed before it began")
    return await unforeseen(request, refusal.error)


@chute.exception_handler(SpeechError)
async def told(request: Request, error: SpeechError) -> Response:
    """What the caller is told of an error; the same on the self-hosted server."""
    status, body, headers = to_http(error)
    return JSONResponse(body, status, headers)


@chute.exception_handler(Exception)
async def unforeseen(request: Request, error: Exception) -> Response:
    """Anything else: the log has the trace, the caller a sentence.

    In dev mode the SDK parses the body before it looks for a cord, so a body that is not JSON ends here too.
    """
    if isinstance(error, (ValueError, RecursionError)) and "endpoint" not in request.scope:
        return await told(request, InvalidInput("body", "is not JSON", 'send a JSON object such as {"text": "Hello."}'))
    body = {"detail": "something failed on the server; its log says what", "code": "internal", "field": None}
    return JSONResponse(body, 500)


MEDIA_TYPES = {"audio": "audio/wav", "json": "application/json", "stream": "text/event-stream"}


def public(name: str) -> dict[str, Any]:
    """What a cord's decorator tells the platform of operation `name`."""
    operation: Operation = STREAM_SPEAK if name == STREAM_SPEAK.name else OPERATIONS[name]
    model = operation.request.__name__
    schema = operation.request.model_json_schema(ref_template="#/definitions/{model}")
    # The shape the SDK gives to a model, written out here: its own leaves references to nested models dangling.
    published = {
        "type": "object",
        "properties": {"input_args": {"$ref": f"#/definitions/{model}"}},
        "required": ["input_args"],
        "definitions": schema.pop("$defs", {}) | {model: schema},
    }
    return {
        "public_api_path": operation.path,
        "public_api_method": "POST",
        "input_schema": published,
        "minimal_input_schema": published,
        "output_content_type": MEDIA_TYPES[operation.answers],
    }


@chute.cord(**public("speak"))
async def speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "speak", args)


@chute.cord(**public("conversation"))
async def conversation(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "conversation", args)


@chute.cord(**public("clone_voice"))
async def clone_voice(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "clone_voice", args)


@chute.cord(**public("batch_speak"))
async def batch_speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "batch_speak", args)


@chute.cord(**public("contextual_speak"))
async def contextual_speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "contextual_speak", args)


@chute.cord(**public("quality_speak"))
async def quality_speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "quality_speak", args)


@chute.cord(**public("cached_speak"))
async def cached_speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "cached_speak", args)


@chute.cord(**public("optimized_speak"))
async def optimized_speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "optimized_speak", args)


@chute.cord(**public("robust_speak"))
async def robust_speak(self: Chute, args: dict | None = None) -> Response:
    return await answer(self, "robust_speak", args)


@chute.cord(stream=True, **public("stream_speak"))
def stream_speak(self: Chute, args: dict | None = None) -> Iterator[str]:
    return stream(self, args)


@chute.cord(
    public_api_path="/health",
    public_api_method="GET",
    input_schema={"type": "object", "properties": {}},
    output_content_type="application/json",
)
async def health(self: Chute) -> dict:
    return self.state.service.health()
