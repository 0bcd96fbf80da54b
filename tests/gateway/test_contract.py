"""The engine contract, asked of the gateway: every test of tests/contract, with a server of hibari's behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from speech.engines.gateway.engine import GatewayConfig, GatewayEngine
from tests.conftest import Served
from tests.contract.test_engines import *  # noqa: F403


@pytest.fixture(scope="module")
def engine(hibari: Served) -> Iterator[GatewayEngine]:
    engine = GatewayEngine(GatewayConfig((hibari.url,)))
    engine.start()
    yield engine
    engine.close()
