"""A program without a fleet for live cameras: the newest frame of each, and no output.

One process. A thread for each camera reads and decodes it as a worker does, and keeps only its newest frame.
Inference threads take the newest frames of the cameras in turn; letterbox and postprocessing are those of the
worker. Two arrangements of one session:

    a thread each   as many inference threads as cores, and ONNX Runtime with one thread for a frame
    two threads     one inference thread, and ONNX Runtime with a thread for each core; with one camera it is
                    the usual loop of a thread that reads and a thread that infers
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from benchmarks.bare import Slot, session_of
from benchmarks.live_cameras import PROPERTIES
from benchmarks.processes import child, receive, start_session
from benchmarks.receiver import boot_ns
from streamfleet_core.protocol.values import Manifest, SourceSpec
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.frame import Picture
from streamfleet_worker.video.sources.open_source import open_source

THREAD_EACH, TWO_THREADS = "bare: a thread each", "bare: two threads"
LIVE_ARRANGEMENTS = (THREAD_EACH, TWO_THREADS)
_START = 120.0  # seconds until each camera has a prediction
_END = 60.0  # seconds to infer the last frames
_POLL = 0.05  # seconds between two looks at the counters


@dataclass(slots=True)
class Watched:
    """What the program did with the frames of one camera."""

    received: int = 0
    replaced: int = 0  # by a newer frame, before inference
    predictions: list[tuple[int, int]] = field(default_factory=list)  # frame number from 1, CLOCK_BOOTTIME ns


@dataclass(frozen=True, slots=True)
class LiveTask:
    """The work of the process."""

    weights: Path
    manifest: Manifest
    urls: tuple[str, ...]


class BareLoop:
    """The running program."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def await_predictions(self) -> None:
        """Wait until each camera has a prediction."""
        self._connection.send("wait")
        receive(self._connection, _START)

    def finish(self, captured: Sequence[int]) -> list[Watched]:
        """Wait until so many frames of each halted camera are done, and return the result by camera."""
        self._connection.send(tuple(captured))
        found: list[Watched] = receive(self._connection, _END + 1)
        return found


@contextlib.contextmanager
def watching(arrangement: str, task: LiveTask) -> Iterator[BareLoop]:
    """Run one arrangement until the block ends."""
    cores = len(os.sched_getaffinity(0))
    runners, threads = (cores, 1) if arrangement == THREAD_EACH else (1, cores)
    with child(_watch, task, runners, threads) as connection:
        receive(connection)
        yield BareLoop(connection)


# the process ----------------------------------------------------------------------------------------------


def _watch(connection: Connection, task: LiveTask, runners: int, threads: int) -> None:
    start_session()
    cv2.setNumThreads(1)
    loop = _Loop(task, runners=runners, threads=threads)
    connection.send("ready")
    receive(connection, _START)
    loop.await_predictions()
    connection.send("predicting")
    captured: tuple[int, ...] = connection.recv()
    connection.send(loop.result(captured))
    connection.recv()  # until the process is killed


class _Loop:
    """The threads. They are never joined: no camera has an end."""

    def __init__(self, task: LiveTask, *, runners: int, threads: int) -> None:
        session = session_of(task.weights, threads)
        self._task = task
        self._watched = [Watched() for _ in task.urls]
        self._filled = threading.Condition()  # guards the following
        self._newest: list[tuple[int, Picture] | None] = [None for _ in task.urls]
        self._turns = deque(range(len(task.urls)))  # the next in turn is first
        slots = [Slot(session, task.manifest) for _ in range(runners)]
        for slot in slots:
            threading.Thread(target=self._infer, args=(slot,), daemon=True).start()
        for camera in range(len(task.urls)):
            threading.Thread(target=self._read, args=(camera,), daemon=True).start()

    def await_predictions(self) -> None:
        """Wait until each camera has a prediction."""
        while not all(each.predictions for each in self._watched):
            time.sleep(_POLL)

    def result(self, captured: Sequence[int]) -> list[Watched]:
        """Wait until all frames are done, if they ever are, and return what happened to them."""
        until = time.monotonic() + _END
        while not self._is_done(captured) and time.monotonic() < until:
            time.sleep(_POLL)
        return self._watched

    def _is_done(self, captured: Sequence[int]) -> bool:
        return all(
            each.received == count == each.replaced + len(each.predictions)
            for each, count in zip(self._watched, captured, strict=True)
        )

    def _read(self, camera: int) -> None:
        capture = open_source(SourceSpec(self._task.urls[camera], properties=PROPERTIES), 1)
        watched = self._watched[camera]
        while capture.grab():
            picture = capture.retrieve()
            watched.received += 1
            if picture is None:
                raise ValueError(f"expected a picture, got a damaged frame {watched.received}")
            with self._filled:
                watched.replaced += self._newest[camera] is not None
                self._newest[camera] = (watched.received, picture)
                self._filled.notify()

    def _infer(self, slot: Slot) -> None:
        letterbox = Letterbox(self._task.manifest)
        while True:
            camera, number, picture = self._take()
            geometry = letterbox.write(picture, slot.input)
            slot.run()
            slot.read(geometry)
            self._watched[camera].predictions.append((number, boot_ns()))

    def _take(self) -> tuple[int, int, Picture]:
        """Wait for a frame, and take the newest of the next camera that has one."""
        with self._filled:
            while True:
                for _ in range(len(self._turns)):
                    camera = self._turns[0]
                    self._turns.rotate(-1)
                    newest, self._newest[camera] = self._newest[camera], None
                    if newest is not None:
                        return camera, *newest
                self._filled.wait()
