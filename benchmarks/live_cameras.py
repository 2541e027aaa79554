"""Cameras over HTTP (MJPEG) in a process of their own, which knows when each picture was captured.

A camera captures and sends a picture at each tick of its own rate, and its first picture of a connection is
frame 1 of its reader. Cameras of the same rate have different phases, as unsynchronised cameras have. If a
reader is too slow, the pictures wait in the buffers of the connection, as those of a real camera do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2

from benchmarks.films import decoded
from benchmarks.processes import child, receive, start_session
from benchmarks.receiver import boot_ns
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic.test_pattern import draw

PROPERTIES = {"read_timeout_msec": 600_000.0}  # of a source: a halted camera is not lost
SIZE = (1280, 720)  # pixels, of the test pattern
_PICTURES = 40  # encoded in advance, and repeated
_QUALITY = 85  # of JPEG
_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
_GONE = b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Captured:
    """All that one camera has captured."""

    times_ns: list[int] = field(default_factory=list)  # CLOCK_BOOTTIME, by frame number less 1
    connections: int = 0


class LiveCameras:
    """The process of the cameras. One thread may use it."""

    def __init__(self, connection: Connection, port: int) -> None:
        self._connection = connection
        self._port = port

    def urls(self, names: Sequence[str], fps: float) -> list[str]:
        """Return the URLs of cameras of this rate, with the same phases in each call."""
        phases = random.Random(0)
        return [
            f"http://127.0.0.1:{self._port}/{name}?fps={fps:g}&phase={phases.random():.3f}" for name in names
        ]

    def halt(self, names: Sequence[str]) -> dict[str, Captured]:
        """Let these cameras capture no more, and return what they have captured. Their links stay open.

        Raises: ValueError if one was opened more than once: then its frames have lost their numbers.
        """
        self._connection.send(tuple(names))
        found: dict[str, Captured] = receive(self._connection)
        for name, captured in found.items():
            if captured.connections > 1:
                raise ValueError(f"expected one connection to camera {name}, got {captured.connections}")
        return found


@contextlib.contextmanager
def live_cameras(video: Path | None) -> Iterator[LiveCameras]:
    """Run the process until the block ends. None: the test pattern."""
    with child(_serve, video) as connection:
        yield LiveCameras(connection, receive(connection))


# the process ----------------------------------------------------------------------------------------------


def _serve(connection: Connection, video: Path | None) -> None:
    start_session()
    asyncio.run(_Server(connection, list(itertools.islice(_encoded(video), _PICTURES))).run())


class _Server:
    """Serves cameras by name; each is created by its first request."""

    def __init__(self, connection: Connection, pictures: list[bytes]) -> None:
        self._connection = connection
        self._parts = [
            f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
            + picture
            + b"\r\n"
            for picture in pictures
        ]
        self._cameras: dict[str, Captured] = {}
        self._halted: set[str] = set()

    async def run(self) -> None:
        """Serve until the process is killed."""
        server = await asyncio.start_server(self._camera, "127.0.0.1", 0, backlog=256)
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._halt)
        self._connection.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    def _halt(self) -> None:
        names: tuple[str, ...] = self._connection.recv()
        self._halted.update(names)
        self._connection.send({name: self._cameras.get(name) or Captured() for name in names})

    async def _camera(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        target = urlsplit(request.split()[1].decode())
        asked = parse_qs(target.query)
        try:
            await self._play(target.path[1:], float(asked["fps"][0]), float(asked["phase"][0]), writer)
            await reader.read()  # until the reader closes the link
        except OSError:
            return  # the reader has gone
        finally:
            writer.close()

    async def _play(self, name: str, fps: float, phase: float, writer: asyncio.StreamWriter) -> None:
        if name in self._halted:
            writer.write(_GONE)
            return
        camera = self._cameras.setdefault(name, Captured())
        camera.connections += 1
        writer.write(_HEAD)
        tick = 0
        while True:
            # While the connection was full, ticks have passed without a picture.
            tick = max(tick, int(time.monotonic() * fps - phase)) + 1
            await asyncio.sleep((tick + phase) / fps - time.monotonic())
            if name in self._halted:
                break
            camera.times_ns.append(boot_ns())
            writer.write(self._parts[tick % len(self._parts)])
            await writer.drain()


def _encoded(video: Path | None) -> Iterator[bytes]:
    """Yield pictures as JPEG."""
    for image in _pattern() if video is None else decoded(video):
        done, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not done:
            raise ValueError("expected a picture that OpenCV encodes as JPEG")
        yield content.tobytes()


def _pattern() -> Iterator[Image]:
    for frame_id in itertools.count(1):
        yield cv2.resize(draw(frame_id), SIZE, interpolation=cv2.INTER_AREA)  # type: ignore[misc]
