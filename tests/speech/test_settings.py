"""Settings come from the environment, once, and a mistake in them is named."""

from __future__ import annotations

import pytest

from speech.errors import StartupError
from speech.settings import Settings


def test_defaults_and_what_is_set() -> None:
    assert Settings.from_env({}).port == 8000
    assert Settings.from_env({"PORT": "9000"}).port == 9000
    assert Settings.from_env({"PORT": "9000", "DUOLOGUE_PORT": "7000"}).port == 7000
    assert Settings.from_env({"DUOLOGUE_ENGINE": "hibari", "HOME": "/"}).engine == "hibari"


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(StartupError, match="DUOLOGUE_ENGIN is not a setting; did you mean DUOLOGUE_ENGINE"):
        Settings.from_env({"DUOLOGUE_ENGIN": "kokoro"})


@pytest.mark.parametrize(("name", "value"), [("ENGINE", "espeak"), ("QUEUE", "-1"), ("QUEUE_WAIT_S", "soon")])
def test_a_value_that_will_not_do_is_named(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=f"DUOLOGUE_{name}='{value}'"):
        Settings.from_env({f"DUOLOGUE_{name}": value})


def test_the_clients_names_are_passed_over() -> None:
    Settings.from_env({"DUOLOGUE_URL": "http://127.0.0.1:8000", "DUOLOGUE_API_KEY": "k"})
