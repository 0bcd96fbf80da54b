"""The platform's API as far as `chutes build` and `chutes deploy` use it, on loopback."""

from __future__ import annotations

import io
import json
import re
import secrets
import threading
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chutes.util.auth import get_signing_message
from substrateinterface import Keypair

USERNAME = "somebody"


@dataclass
class Platform:
    """What was uploaded and deployed, and the account that may do so."""

    url: str = ""
    seed: str = field(default_factory=lambda: "0x" + secrets.token_hex(32))
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    contexts: dict[str, zipfile.ZipFile] = field(default_factory=dict)
    chutes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def keypair(self) -> Keypair:
        return Keypair.create_from_seed(seed_hex=self.seed)

    def write_config(self, path: Path) -> Path:
        """The file that `chutes register` would leave."""
        path.write_text(
            f"[api]\nbase_url = {self.url}\n"
            f"[auth]\nuser_id = {uuid.uuid4()}\nusername = {USERNAME}\nhotkey_name = test\n"
            f"hotkey_seed = {self.seed}\nhotkey_ss58address = {self.keypair.ss58_address}\n"
        )
        return path

    def signed(self, headers: Any, payload: bytes | None, purpose: str) -> bool:
        hotkey = self.keypair.ss58_address
        message = get_signing_message(hotkey, headers["X-Chutes-Nonce"], payload, purpose)
        signature = bytes.fromhex(headers["X-Chutes-Signature"])
        return headers["X-Chutes-Hotkey"] == hotkey and self.keypair.verify(message.encode(), signature)

    def take_image(self, fields: dict[str, bytes]) -> tuple[int, dict[str, Any]]:
        context = zipfile.ZipFile(io.BytesIO(fields.pop("build_context")))
        image = {name: value.decode() for name, value in fields.items()}
        if image["username"] != USERNAME:
            return 401, {"detail": "Cannot make images for users other than yourself!"}
        image_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{USERNAME}/{image['name']}:{image['tag']}".lower()))
        if image_id in self.images:
            return 409, {"detail": "already exists"}
        self.images[image_id], self.contexts[image_id] = image, context
        return 202, {"image_id": image_id}

    def take_chute(self, chute: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(chute["code"]) > 150_000 or chute["image"] not in self.images:
            return 400, {"detail": "code too long, or image not found"}
        self.chutes[chute["name"]] = chute
        version = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{chute['image']}:{chute['code']}"))
        return 200, {"chute_id": str(uuid.uuid4()), "version": version}


@contextmanager
def serving() -> Iterator[Platform]:
    """A platform without images or chutes, listening."""
    platform = Platform()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not platform.signed(self.headers, None, "images"):
                return self._answer(401, {"detail": "bad signature"})
            image_id = self.path.rpartition("/")[2]
            if image_id not in platform.images:
                return self._answer(404, {"detail": "Image not found"})
            return self._answer(200, {"image_id": image_id, "status": "built and pushed", "public": False})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not platform.signed(self.headers, body, ""):
                return self._answer(401, {"detail": "bad signature"})
            if self.path == "/images/":
                return self._answer(*platform.take_image(_form(self.headers["Content-Type"], body)))
            assert self.path.partition("?")[0] == "/chutes/", self.path
            return self._answer(*platform.take_chute(json.loads(body)))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the CLI's own output tells enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    platform.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    boundary = re.search(r"boundary=\"?([^\";]+)", content_type)
    assert boundary is not None
    fields = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        assert name is not None
        fields[name[1].decode()] = content.removesuffix(b"\r\n")
    return fields
