"""What a program without a fleet would do: decode, letterbox, run, suppress overlapping boxes; no output.

It uses the worker's own letterbox and the worker's own reading of outputs, on memory that is there already,
so that what it saves against the fleet is the fleet alone. Three arrangements, all sensible:

    all threads     one frame after the other, ONNX Runtime with all of its threads
    side by side    one session with one thread a run, as many runs at once as there are cores,
                    and a thread that decodes for each video
    a process each  a process with a session of one thread for each video

Every process has loaded its libraries and its model before it waits for the start signal.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import onnxruntime

from benchmarks.processes import PATIENCE, child, receive
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import FloatArray
from streamfleet_worker.video.detection.letterbox import Geometry, Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic.test_pattern import draw

ALL_THREADS, SIDE_BY_SIDE, PROCESS_EACH = "all threads", "side by side", "a process each"
ARRANGEMENTS = (ALL_THREADS, SIDE_BY_SIDE, PROCESS_EACH)
RULES = PostProcessing()  # a device's defaults: what the pipelines of a benchmark have


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one video."""

    times: list[float]  # monotonic seconds at which each frame was done, in the order of the frames
    detections: list[int]  # in each frame


@dataclass(frozen=True, slots=True)
class Task:
    """What a bare process is to do."""

    weights: Path
    manifest: Manifest
    videos: tuple[Path, ...]
    seconds: float


def play(arrangement: str, task: Task) -> list[Played]:
    """Run one arrangement for so many seconds, or until a video ends."""
    if arrangement == PROCESS_EACH:
        tasks = [Task(task.weights, task.manifest, (video,), task.seconds) for video in task.videos]
        return [played for answer in _together(_one_after_the_other, tasks, 1) for played in answer]
    entry, threads = (
        (_one_after_the_other, 0)
        if arrangement == ALL_THREADS
        else (_side_by_side, len(os.sched_getaffinity(0)))
    )
    played: list[Played] = _together(entry, [task], threads)[0]
    return played


def frame_times(task: Task) -> tuple[list[float], list[float]]:
    """Seconds that one thread needs for each frame: to infer alone, and from picture to detections."""
    times: tuple[list[float], list[float]] = _together(_timed, [task], 1)[0]
    return times


def rate(times: list[list[float]], seconds: float) -> float:
    """Frames a second while all videos played, at most so many seconds of that. Pure."""
    begin = max(each[0] for each in times)
    end = min(begin + seconds, *(each[-1] for each in times))
    if end <= begin:
        raise ValueError("expected videos that play at the same time, one ended before another began")
    return sum(begin < at <= end for each in times for at in each) / (end - begin)


# processes ------------------------------------------------------------------------------------------------


def _together(entry: Callable[[Connection, Task, int], None], tasks: list[Task], threads: int) -> list[Any]:
    """What each process answers. All begin at the same moment."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(child(entry, task, threads)) for task in tasks]
        for connection in connections:
            receive(connection)
        for connection in connections:
            connection.send("go")
        return [receive(connection, tasks[0].seconds + PATIENCE) for connection in connections]


@contextlib.contextmanager
def _started(connection: Connection) -> Iterator[None]:
    """Say that all is loaded, and wait for the start signal."""
    connection.send("ready")
    receive(connection)
    yield
    connection.close()


# inference ------------------------------------------------------------------------------------------------


class Slot:
    """Memory for one frame, bound to the session. One thread at a time uses it."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
        self._session = session
        self._manifest = manifest
        self.input: FloatArray = np.zeros((1, 3, manifest.input_height, manifest.input_width), np.float32)
        name = session.get_inputs()[0].name
        (first,) = session.run(None, {name: self.input})
        self.output: FloatArray = np.empty_like(first)
        self._binding = session.io_binding()
        self._binding.bind_input(name, "cpu", 0, np.float32, self.input.shape, self.input.ctypes.data)
        self._binding.bind_output(
            session.get_outputs()[0].name, "cpu", 0, np.float32, self.output.shape, self.output.ctypes.data
        )

    def run(self) -> None:
        """Infer once."""
        self._session.run_with_iobinding(self._binding)

    def read(self, geometry: Geometry) -> int:
        """How many detections there are."""
        return len(decode(self.output, geometry, manifest=self._manifest, rules=RULES))


def _session(task: Task, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: as many as ONNX Runtime thinks right
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        task.weights.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


class Video:
    """An open video that decodes into the same memory again and again."""

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self._image: Image | None = None

    def next(self) -> Image | None:
        """The next picture; None at the end."""
        ok, image = self._capture.read(self._image) if self._image is not None else self._capture.read()
        self._image = cast("Image", image) if ok else None
        return self._image


# arrangements ---------------------------------------------------------------------------------------------


def _one_after_the_other(connection: Connection, task: Task, threads: int) -> None:
    """The videos take turns, frame by frame, in one thread."""
    if threads == 1:
        cv2.setNumThreads(1)
    slot = Slot(_session(task, threads), task.manifest)
    videos = [Video(path) for path in task.videos]
    letterboxes = [Letterbox(task.manifest) for _ in videos]
    played = [Played([], []) for _ in videos]
    with _started(connection):
        until = time.monotonic() + task.seconds
        ended = False
        while not ended and time.monotonic() < until:
            for video, letterbox, done in zip(videos, letterboxes, played, strict=True):
                image = video.next()
                if image is None:
                    ended = True
                    break
                geometry = letterbox.write(image, slot.input)
                slot.run()
                done.detections.append(slot.read(geometry))
                done.times.append(time.monotonic())
        connection.send(played)


@dataclass(frozen=True, slots=True)
class _Job:
    video: int
    number: int
    slot: Slot
    geometry: Geometry


class _SideBySide:
    """A thread decodes each video, as many threads as there are cores run whatever is decoded."""

    def __init__(self, task: Task, threads: int) -> None:
        self._task = task
        session = _session(task, 1)
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(threads + len(task.videos) + 1):
            self._free.put(Slot(session, task.manifest))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._done: list[tuple[int, int, float, int]] = []  # video, number, when, detections
        self._readers = [threading.Thread(target=self._read, args=(at,)) for at in range(len(task.videos))]
        self._runners = [threading.Thread(target=self._run) for _ in range(threads)]

    def play(self) -> list[Played]:
        """Until a video ends, or the time is over."""
        for thread in (*self._runners, *self._readers):
            thread.start()
        self._stop.wait(self._task.seconds)
        self._stop.set()
        for thread in self._readers:
            thread.join()
        for _ in self._runners:
            self._jobs.put(None)
        for thread in self._runners:
            thread.join()
        played = [Played([], []) for _ in self._readers]
        for video, _, at, detections in sorted(self._done):
            played[video].times.append(at)
            played[video].detections.append(detections)
        return played

    def _read(self, at: int) -> None:
        video, letterbox, number = Video(self._task.videos[at]), Letterbox(self._task.manifest), 0
        while not self._stop.is_set():
            image = video.next()
            if image is None:
                self._stop.set()
                return
            slot = self._free.get()
            self._jobs.put(_Job(at, number, slot, letterbox.write(image, slot.input)))
            number += 1

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.slot.run()
            detections = job.slot.read(job.geometry)
            self._done.append((job.video, job.number, time.monotonic(), detections))
            self._free.put(job.slot)


def _side_by_side(connection: Connection, task: Task, threads: int) -> None:
    cv2.setNumThreads(1)
    arrangement = _SideBySide(task, threads)
    with _started(connection):
        connection.send(arrangement.play())


def _timed(connection: Connection, task: Task, threads: int) -> None:
    """One frame after the other in one thread, with the time that each took."""
    cv2.setNumThreads(1)
    slot, letterbox = Slot(_session(task, threads), task.manifest), Letterbox(task.manifest)
    runs: list[float] = []
    frames: list[float] = []
    with _started(connection):
        until = time.monotonic() + task.seconds
        for image in _pictures(task):
            started = time.monotonic()
            if started > until:
                break
            geometry = letterbox.write(image, slot.input)
            ready = time.monotonic()
            slot.run()
            ran = time.monotonic()
            slot.read(geometry)
            runs.append(ran - ready)
            frames.append(time.monotonic() - started)
        connection.send((runs, frames))


def _pictures(task: Task) -> Iterator[Image]:
    """Of the video, or of the test pattern where there is none."""
    if not task.videos:
        yield from map(draw, itertools.count(1))
        return
    video = Video(task.videos[0])
    while (image := video.next()) is not None:
        yield image
