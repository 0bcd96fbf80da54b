"""Fake upstreams, and gateways to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from speech.engines.gateway.engine import GatewayConfig, GatewayEngine
from tests.gateway.upstream import FakeUpstream, serving

Gateway = Callable[..., GatewayEngine]


@pytest.fixture
def upstreams() -> Iterator[list[FakeUpstream]]:
    """Two that speak alike."""
    with ExitStack() as running:
        yield [running.enter_context(serving(FakeUpstream())) for _ in range(2)]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Makes a gateway to the upstreams given."""
    made: list[GatewayEngine] = []

    def make(*upstreams: FakeUpstream, slots: int = 4, key: str = "") -> GatewayEngine:
        made.append(GatewayEngine(GatewayConfig(tuple(each.url for each in upstreams), key, slots)))
        return made[-1]

    yield make
    for each in made:
        each.close()
