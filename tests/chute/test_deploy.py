"""The real `chutes build` and `chutes deploy`, and an instance made of nothing but what they sent."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pybase64 import b64encode

from speech import release
from tests.chute.conftest import BIN, clean_env, copy_release, running
from tests.chute.fake_platform import USERNAME, Platform, serving

NAME = "my-voice"


@dataclass
class Deployer:
    """Somebody with an account, settings and a checkout."""

    checkout: Path
    env: dict[str, str]
    platform: Platform

    def chutes(self, command: str) -> str:
        """What the CLI printed; its questions are answered with yes."""
        done = subprocess.run(
            [BIN / "chutes", command, "my_tts:chute"],
            cwd=self.checkout,
            env=self.env,
            input="y\ny\n",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=100,
            check=False,
        )
        return done.stdout


@pytest.fixture(scope="module")
def deployer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployer]:
    folder = tmp_path_factory.mktemp("deployer")
    with serving() as platform:
        settings = {"DUOLOGUE_ENGINE": "kokoro", "DUOLOGUE_CHUTE": NAME, "DUOLOGUE_QUEUE": "20"}
        config = {"CHUTES_CONFIG_PATH": str(platform.write_config(folder / "config.ini"))}
        yield Deployer(copy_release(folder / "checkout"), clean_env() | settings | config, platform)


@pytest.fixture(scope="module")
def deployed(deployer: Deployer) -> dict[str, Any]:
    """What the platform was told of the chute."""
    assert "not available" in deployer.chutes("deploy"), "there is no image yet"
    assert "Uploaded image package" in deployer.chutes("build")
    assert "Successfully deployed" in deployer.chutes("deploy")
    return deployer.platform.chutes[NAME]


@dataclass
class Instance:
    """A folder with what the platform would put in /app, and the environment that the image would give."""

    app: Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def instance(deployer: Deployer, deployed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Instance:
    root = tmp_path_factory.mktemp("instance")
    context, app = root / "context", root / "app"
    deployer.platform.contexts[deployed["image"]].extractall(context)
    env = {"PATH": os.environ["PATH"], "HOME": str(root)}
    for line in deployer.platform.images[deployed["image"]]["dockerfile"].splitlines():
        directive, _, arguments = line.partition(" ")
        if directive == "ADD":
            source, destination = arguments.split(" ")
            assert destination.startswith("/app/") and destination.endswith("/"), line
            target = root / destination.removeprefix("/")
            target.mkdir(parents=True, exist_ok=True)
            added = list(context.glob(source))
            assert added, f"{line}: nothing of that name was uploaded"
            for path in added:
                shutil.copy(path, target)
        if directive == "ENV":
            name, _, value = shlex.split(arguments)[0].partition("=")
            env[name] = value.replace("/app", str(app))
    (app / deployed["filename"]).write_text(deployed["code"], encoding="utf-8")
    return Instance(app, env)


def test_what_is_uploaded_is_what_the_release_is_made_of(deployer: Deployer, deployed: dict[str, Any]) -> None:
    uploaded = deployer.platform.contexts[deployed["image"]].namelist()
    files = {name for name in uploaded if not name.endswith("/") and name != "chute.zip"}
    assert files == set(release.paths(deployer.checkout))


def test_the_deployment_says_what_is_meant(deployer: Deployer, deployed: dict[str, Any]) -> None:
    assert deployed["ref_str"] == "my_tts:chute"
    assert deployed["node_selector"]["gpu_count"] == 1
    assert deployed["node_selector"]["min_vram_gb_per_gpu"] == 24
    assert deployed["concurrency"] == 16
    assert deployed["allow_external_egress"] is False
    assert len(deployed["cords"]) == 11
    assert [cord["path"] for cord in deployed["cords"] if cord["stream"]] == ["/stream_speak"]
    assert deployer.platform.images[deployed["image"]]["tag"].startswith(release.release_of(deployer.checkout) + "-")


def test_no_published_schema_points_nowhere(deployed: dict[str, Any]) -> None:
    for cord in deployed["cords"]:
        for schema in (cord["input_schema"], cord["minimal_input_schema"]):
            referred = set(re.findall(r'"#/definitions/(\w+)"', json.dumps(schema)))
            assert referred <= set((schema or {}).get("definitions", {})), cord["function"]


def test_an_instance_speaks_without_the_deployers_environment(instance: Instance, tmp_path: Path) -> None:
    with running(instance.app, instance.env, tmp_path / "log") as chute:
        assert chute.http.get("/health").json()["engine"] == "kokoro"
        said = chute.http.post("/speak", json={"text": "This is how I sound."}).content
        assert said.startswith(b"RIFF")
        reference = {"reference_audio_b64": b64encode(said).decode(), "reference_text": "This is how I sound."}
        assert chute.http.post("/clone_voice", json={"text": "Hello."} | reference).content.startswith(b"RIFF")
        assert f"speaks as {USERNAME}/{NAME}" in chute.log
        assert "make release" not in chute.log


def imported(instance: Instance, app: Path) -> subprocess.CompletedProcess[str]:
    """my_tts.py as an instance imports it; prints the chute's id."""
    return subprocess.run(
        [sys.executable, "-c", "import my_tts; print(my_tts.chute.uid)"],
        cwd=app,
        env=instance.env | {"CHUTES_EXECUTION_CONTEXT": "REMOTE", "PYTHONPATH": str(app)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_an_instance_has_the_id_that_was_deployed(instance: Instance) -> None:
    done = imported(instance, instance.app)
    assert done.stdout.strip() == str(uuid.uuid5(uuid.NAMESPACE_OID, f"{USERNAME}::chute::{NAME}")), done.stderr


def test_an_instance_refuses_another_releases_code(instance: Instance, tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(instance.app, app)
    with (app / "cache.py").open("a") as file:
        file.write("# one line more\n")
    done = imported(instance, app)
    assert done.returncode != 0
    assert "build and deploy again" in done.stderr


def test_a_change_without_make_release_is_not_built(deployer: Deployer, deployed: dict[str, Any]) -> None:
    changed = deployer.checkout / "cache.py"
    before = changed.read_text()
    changed.write_text(before + "# one line more\n")
    try:
        refused = deployer.chutes("build")
    finally:
        changed.write_text(before)
    assert "make release" in refused and "Traceback" not in refused
    assert len(deployer.platform.images) == 1


def test_another_name_shares_the_image(deployer: Deployer, deployed: dict[str, Any]) -> None:
    other = Deployer(deployer.checkout, deployer.env | {"DUOLOGUE_CHUTE": "other-voice"}, deployer.platform)
    assert "Successfully deployed" in other.chutes("deploy")
    assert deployer.platform.chutes["other-voice"]["image"] == deployed["image"]
