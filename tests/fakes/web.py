"""Web servers for tests: one of plain HTTP, and one with a throwaway certificate that nobody else trusts."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fakes.patience import PATIENCE

_PIECE = b"x" * 65_536


def make_certificate(folder: Path) -> Path:
    """A file with a new key and its certificate for 127.0.0.1."""
    file = folder / "throwaway.pem"
    subject = ["-subj", "/CN=throwaway", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["openssl", "req", "-x509", *key, *subject, "-keyout", str(file), "-out", str(folder / "c.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    file.write_bytes(file.read_bytes() + (folder / "c.pem").read_bytes())
    return file


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Serve plain HTTP in a thread within this context. Yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="web", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Web:
    """Serves until closed: `files` by their paths, and what may go wrong.

    `/moved/PATH` leads to PATH, `/down/PATH` leads to it without TLS, `/round` leads to itself, `/cut/PATH`
    breaks off half-way, `/endless` does not end, `/silent` does not begin; everything else is not found.
    """

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # paths, and `Authorization`
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.web = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="web")
        self._thread.start()

    def url(self, path: str, login: str = "") -> str:
        """Of one of its paths; `login` is `user:password@`."""
        return f"https://{login}{self.place}{path}"

    def close(self) -> None:
        """Hang up on everybody."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: Web

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up on us, or does not trust us, is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE

    def log_message(self, *_args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        web, path = self.server.web, self.path.partition("?")[0]
        web.requests.append((self.path, self.headers.get("Authorization", "")))
        kind, _, rest = path.removeprefix("/").partition("/")
        if path in web.files:
            self._send(web.files[path], web.files[path])
        elif kind == "cut":
            whole = web.files[f"/{rest}"]
            self._send(whole, whole[: len(whole) // 2])
        elif kind == "moved":
            self._lead_to(f"/{rest}")
        elif kind == "down":
            self._lead_to(f"http://{web.place}/{rest}")
        elif kind == "round":
            self._lead_to("/round")
        elif kind == "endless":
            self._send_for_ever()
        elif kind == "silent":
            web.closing.wait(PATIENCE)
        else:
            self.send_error(404)

    def _send(self, announced: bytes, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(announced)))
        self.end_headers()
        self.wfile.write(content)

    def _lead_to(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_for_ever(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.web.closing.is_set():
            self.wfile.write(_PIECE)
