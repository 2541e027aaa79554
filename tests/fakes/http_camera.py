"""A camera that speaks HTTP, for tests: MJPEG without end, a film as a file, and what may go wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.fakes.patience import PATIENCE

SIZES = ((320, 240),)


class HttpCamera:
    """Serves until closed. What it does may be changed at any time.

    `/live` is MJPEG, `/film` a file, `/halt` the same as a stream that comes to a halt; `/moved` leads to
    `/live`, `/away` to another port, `/503` answers 503.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        sizes: Iterable[tuple[int, int]] = SIZES,
        frames_each: int | None = None,
        fps: float = 50.0,
        film: Path | None = None,
        login: str = "",
    ) -> None:
        self.sizes = tuple(sizes)  # one after the other, ten frames each
        self.frames_each = frames_each  # that a connection gets; None: no end
        self.interval = 1 / fps  # seconds
        self.damaged_each: int | None = None  # this of so many pictures is none; None: all are good
        self.film = film
        self.cut: int | None = None  # bytes of the film after which answers break off
        self.login = login  # the value of `Authorization` that is let in; "" lets everybody in
        self.requests: list[tuple[str, str]] = []  # paths, and `Authorization`
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.camera = self
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="http camera")
        self._thread.start()

    def url(self, path: str = "/live", login: str = "") -> str:
        """Of one of its paths; `login` is `user:password@`."""
        return f"http://{login}127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        """Hang up on everybody."""
        self.closing.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(PATIENCE)


class _Server(ThreadingHTTPServer):
    camera: HttpCamera
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        self._links: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._links.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self._links.discard(request)
        super().close_request(request)

    def hang_up(self) -> None:
        """Also on those who do not read: an answer that waits for them would never end."""
        for link in tuple(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """One answer."""
        camera = self.server.camera
        given = self.headers.get("Authorization", "")
        camera.requests.append((self.path, given))
        path = self.path.partition("?")[0]
        if camera.login and given != camera.login:
            self._plain(401, {"WWW-Authenticate": 'Basic realm="camera"'})
        elif path == "/live":
            self._live(camera)
        elif path == "/film" and camera.film is not None:
            self._film(camera, camera.film.read_bytes())
        elif path == "/halt" and camera.film is not None:
            self._halt(camera, camera.film.read_bytes())
        elif path == "/moved":
            self._plain(302, {"Location": "/live"})
        elif path == "/moved-to-nothing":
            self._plain(302, {"Location": f"http://127.0.0.1:{camera.port}/nothing"})
        elif path == "/away":
            self._plain(302, {"Location": "http://127.0.0.1:1/live"})
        elif path[1:].isdigit():
            self._plain(int(path[1:]), {})
        else:
            self._plain(404, {})

    def _plain(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status, f"canary {self.path} {self.headers.get('Authorization', '')}")
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _live(self, camera: HttpCamera) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        try:
            while camera.frames_each is None or number < camera.frames_each:
                content = picture(number, camera.sizes[number // 10 % len(camera.sizes)])
                if (
                    camera.damaged_each is not None
                    and number % camera.damaged_each == camera.damaged_each - 1
                ):
                    content = b"\xff\xd8" + bytes(len(content) - 4) + b"\xff\xd9"
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                self.wfile.write(head.encode() + content + b"\r\n")
                number += 1
                if camera.closing.wait(camera.interval):
                    break
        except OSError:
            return  # the client went away

    def _film(self, camera: HttpCamera, content: bytes) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206)
        self.send_header("Content-Type", "video/x-msvideo")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        try:
            self.wfile.write(content[start : camera.cut])
        except OSError:
            return

    def _halt(self, camera: HttpCamera, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/x-msvideo")
        self.end_headers()
        try:
            self.wfile.write(content[: camera.cut])
        except OSError:
            return
        camera.closing.wait(60)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def picture(number: int, size: tuple[int, int]) -> bytes:
    """A JPEG that differs from the one before."""
    image = np.full((size[1], size[0], 3), number * 7 % 256, np.uint8)
    done, content = cv2.imencode(".jpg", image)
    assert done
    return bytes(content)
