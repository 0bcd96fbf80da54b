"""What an operator may set, read once from the environment (`DUOLOGUE_QUEUE=16`); an unknown name is refused."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speech.errors import StartupError

PREFIX = "DUOLOGUE_"
CLIENT_NAMES = frozenset({"DUOLOGUE_URL", "DUOLOGUE_API_KEY"})
"""Names with our prefix that the client reads; a server in the same shell passes over them."""

EngineName = Literal["auto", "csm", "kokoro", "hibari", "gateway"]


class Settings(BaseModel):
    """Defaults suit one person on one machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: EngineName = Field("auto", description="auto takes csm on cuda when its weights can be had, else kokoro")
    threads: int = Field(2, ge=1, le=64, description="processor threads of kokoro, which says as many lines at once")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    wyoming_port: int | None = Field(
        None, ge=1, le=65535, description="for Home Assistant, as in 10200; unset, it is not listened to"
    )
    queue: int = Field(16, ge=0, le=10_000, description="callers that may wait for a turn")
    queue_wait_s: float = Field(30, gt=0, le=600, description="how long one may wait")
    shutdown_s: float = Field(30, gt=0, le=600, description="how long running requests may finish after SIGTERM")
    drain_s: float = Field(0, ge=0, le=600, description="after SIGTERM, how long all goes on but /ready, which says no")
    max_body_mb: int = Field(64, ge=1, le=1024, description="largest request body")
    bodies_mb: int = Field(256, ge=1, description="and of all that are on their way or waiting, together")
    body_wait_s: float = Field(60, gt=0, le=3600, description="how long a body may take to arrive")
    connections: int = Field(500, ge=2, description="open at once, idle ones too; further ones get a 503")
    keys_file: str | None = Field(
        None, description="who may come in; unset, everybody. `python -m server.keys` writes it"
    )
    rate_per_minute: int = Field(0, ge=0, description="requests of one address where no keys are asked; 0: any number")
    cors_origins: str | None = Field(
        None,
        pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\s/,*]+(\s*,\s*[a-z][a-z0-9+.-]*://[^\s/,*]+)*)$",
        description="whose web pages may call, as in https://a.example,https://b.example; unset, none but its own",
    )
    cache_entries: int = Field(200, ge=0, description="answers that /cached_speak keeps")
    cache_mb: int = Field(256, ge=1, description="and their size together")
    sessions: int = Field(1000, ge=1, description="sessions that /contextual_speak keeps")
    sessions_mb: int = Field(256, ge=1, description="and their size together")
    session_ttl_s: float = Field(1800, gt=0, description="how long an unused session is kept")
    voices: int = Field(100, ge=0, description="voices added by callers that are kept")
    voices_mb: int = Field(256, ge=1, description="and their sound together")
    stream_buffer_mb: int = Field(256, ge=1, description="sound made and not yet fetched, of all streams together")
    watermark_key: str | None = Field(
        None, description="five numbers, as in 1,2,3,4,5: whole clips are marked with it, by silentcipher"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = Field("text", description="json: an object a line")

    # What only the engine csm reads; see speech/engines/csm/engine.py for what each may hold.
    csm_weights: str = Field("chutesai/csm-1b", description="a hub repository or a folder, in either layout")
    csm_revision: str | None = Field(None, description="its commit or tag; unset, the pinned one of the default")
    csm_codec: str | None = Field(None, description="Mimi; unset, the weights' own place, else kyutai/mimi")
    csm_codec_revision: str | None = Field(None, description="likewise")
    csm_tokenizer: str | None = Field(None, description="Llama 3's; unset, the weights' own place, else a mirror")
    csm_tokenizer_revision: str | None = Field(None, description="likewise")
    csm_device: str = Field("auto", description="cuda, cuda:1, cpu; auto takes cuda where there is one")
    csm_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on cuda")
    csm_slots: int = Field(4, ge=1, le=64, description="lines spoken at the same time")
    csm_int8: bool = Field(False, description="weights of the two transformers in eight bits; faster on CPU")
    csm_prefix_cache_mb: int = Field(512, ge=0, description="for prompts that were read before")

    # What only the engine gateway reads; see docs/gateway.md.
    upstreams: str | None = Field(
        None, description="servers and chutes that it speaks through, as in https://a.example,https://b.example"
    )
    upstream_key: str | None = Field(
        None, repr=False, description="sent to all of them; unset, CHUTES_API_KEY to those of chutes.ai alone"
    )
    upstream_slots: int = Field(4, ge=1, le=64, description="lines that each of them says at the same time")

    # What only the Chute reads.
    username: str | None = Field(
        None, pattern=r"^[a-zA-Z0-9_]{3,15}$", description="the Chutes account; unset, the chutes config file's"
    )
    chute: str = Field("csm-1b-tts", pattern=r"^[a-z0-9][a-z0-9._-]{2,63}$", description="what the chute is called")
    concurrency: int = Field(16, ge=1, le=256, description="requests that the platform sends one instance at a time")
    max_instances: int = Field(1, ge=1, le=100, description="instances that may run, each billed on its own")
    scaling_threshold: float = Field(
        0.75, gt=0, le=1, description="share of `concurrency` in use at which another instance starts"
    )
    shutdown_after_seconds: int = Field(300, ge=60, le=604_800, description="how long an idle instance is kept")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Settings from `env` (default: this process's). Raises StartupError that names the variable at fault."""
        env = os.environ if env is None else env
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in env.items()
            if name.startswith(PREFIX) and name not in CLIENT_NAMES
        }
        if "PORT" in env:
            given.setdefault("port", env["PORT"])
        for name in given.keys() - cls.model_fields.keys():
            near = difflib.get_close_matches(name, cls.model_fields, n=1)
            known = near or sorted(cls.model_fields)
            raise StartupError(
                f"{PREFIX}{name.upper()} is not a setting; did you mean "
                + " or ".join(PREFIX + each.upper() for each in known)
                + "?"
            )
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise StartupError(f"{name}={first['input']!r} will not do: {first['msg']}") from None
