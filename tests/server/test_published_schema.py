"""The server against its own published schema: anything schemathesis can think of is answered as documented."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    status_code_conformance,
)

from server.app import create_app
from speech.engines.hibari import HibariEngine
from speech.service import Service
from speech.settings import Settings

_SETTINGS = Settings(engine="hibari")
_SERVICE = Service(HibariEngine(), _SETTINGS)
_SERVICE.start()
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(_SERVICE, _SETTINGS))


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented(case: schemathesis.Case) -> None:
    response = case.call()
    case.validate_response(response, checks=[not_a_server_error, status_code_conformance, content_type_conformance])
