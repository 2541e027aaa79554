"""A program without a fleet: decode, letterbox, inference, non-maximum suppression; no output.

It uses the letterbox and the postprocessing of the worker on preallocated memory, so the difference to the
fleet is the overhead of the fleet. Three arrangements:

    all threads     one frame at a time, ONNX Runtime with all of its threads
    side by side    one session with one thread per run, as many parallel runs as cores,
                    and one decoding thread per video
    a process each  one process per video, each with a session of one thread

Each process loads its libraries and its model before it waits for the start signal.
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
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from benchmarks.processes import TIMEOUT, child, receive
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.families.adapters import input_format_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import FloatArray, PixelArray
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Geometry, Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic.test_pattern import draw

if TYPE_CHECKING:
    import onnxruntime

ALL_THREADS, SIDE_BY_SIDE, PROCESS_EACH = "all threads", "side by side", "a process each"
ARRANGEMENTS = (ALL_THREADS, SIDE_BY_SIDE, PROCESS_EACH)
RULES = PostProcessing()  # the defaults of a device, which the pipelines of benchmarks use


@dataclass(frozen=True, slots=True)
class Played:
    """The result of one video."""

    times: list[float]  # monotonic seconds at which each frame was finished, in frame order
    detections: list[int]  # in each frame


@dataclass(frozen=True, slots=True)
class Task:
    """The work of a bare process."""

    weights: Path
    manifest: Manifest
    videos: tuple[Path, ...]
    seconds: float


def play(arrangement: str, task: Task) -> list[Played]:
    """Run one arrangement for the task's seconds, or until a video ends."""
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
    """Return the seconds of one thread for each frame: inference alone, and from picture to detections."""
    times: tuple[list[float], list[float]] = _together(_timed, [task], 1)[0]
    return times


def rate(times: list[list[float]], seconds: float) -> float:
    """Return the frames per second while all videos played, for up to `seconds`. Pure."""
    begin = max(each[0] for each in times)
    end = min(begin + seconds, *(each[-1] for each in times))
    if end <= begin:
        raise ValueError(
            "expected videos that play at the same time, got one that ended before another started"
        )
    return sum(begin < at <= end for each in times for at in each) / (end - begin)


# processes ------------------------------------------------------------------------------------------------


def _together(entry: Callable[[Connection, Task, int], None], tasks: list[Task], threads: int) -> list[Any]:
    """Run processes that start at the same time, and return their results."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(child(entry, task, threads)) for task in tasks]
        for connection in connections:
            receive(connection)
        for connection in connections:
            connection.send("go")
        return [receive(connection, tasks[0].seconds + TIMEOUT) for connection in connections]


@contextlib.contextmanager
def _started(connection: Connection) -> Iterator[None]:
    """Report that everything is loaded, and wait for the start signal."""
    connection.send("ready")
    receive(connection)
    yield
    connection.close()


# inference ------------------------------------------------------------------------------------------------


class Slot:
    """Memory of one frame, bound to the session. Used by one thread at a time."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
        self._session = session
        self._manifest = manifest
        shape = (1, 3, manifest.input_height, manifest.input_width)
        self.input: PixelArray = np.zeros(shape, np.uint8)
        self._numbers: FloatArray = np.zeros(shape, np.float32)
        name = session.get_inputs()[0].name
        (first,) = session.run(None, {name: self._numbers})
        self.output: FloatArray = np.empty_like(first)
        self._binding = session.io_binding()
        self._binding.bind_input(name, "cpu", 0, np.float32, shape, self._numbers.ctypes.data)
        self._binding.bind_output(
            session.get_outputs()[0].name, "cpu", 0, np.float32, self.output.shape, self.output.ctypes.data
        )

    def run(self) -> None:
        """Run inference once."""
        normalize(self.input, input_format_of(self._manifest).scale, self._numbers)
        self._session.run_with_iobinding(self._binding)

    def read(self, geometry: Geometry) -> int:
        """Return the number of detections."""
        return len(decode([self.output], geometry, manifest=self._manifest, rules=RULES))


def session_of(weights: Path, threads: int, *, spins_on: bool = True) -> onnxruntime.InferenceSession:
    """Load the model.

    `threads`: of one run; 0: the default of ONNX Runtime. `spins_on`: whether they wait for the next run in a
    loop, which takes CPU time. That is the default of ONNX Runtime.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "0" if spins_on else "1")
    return runtime.InferenceSession(weights.read_bytes(), options, providers=["CPUExecutionProvider"])


class Video:
    """An open video that reuses the memory of its frame."""

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self._image: Image | None = None

    def next(self) -> Image | None:
        """Return the next picture. None: the video has ended."""
        ok, image = self._capture.read(self._image) if self._image is not None else self._capture.read()
        self._image = cast("Image", image) if ok else None
        return self._image


# arrangements ---------------------------------------------------------------------------------------------


def _one_after_the_other(connection: Connection, task: Task, threads: int) -> None:
    """Process one frame of each video in turn, in one thread."""
    if threads == 1:
        cv2.setNumThreads(1)
    slot = Slot(session_of(task.weights, threads), task.manifest)
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
                geometry = letterbox.write(ArrayPicture(image), slot.input)
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
    """One thread per video decodes, and one thread per core runs inference on decoded frames."""

    def __init__(self, task: Task, threads: int) -> None:
        self._task = task
        session = session_of(task.weights, 1)
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(threads + len(task.videos) + 1):
            self._free.put(Slot(session, task.manifest))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._done: list[tuple[int, int, float, int]] = []  # video, frame number, time, detections
        self._readers = [threading.Thread(target=self._read, args=(at,)) for at in range(len(task.videos))]
        self._runners = [threading.Thread(target=self._run) for _ in range(threads)]

    def play(self) -> list[Played]:
        """Run until a video ends or the time is over."""
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
            self._jobs.put(_Job(at, number, slot, letterbox.write(ArrayPicture(image), slot.input)))
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
    """Process one frame at a time in one thread, and measure the time of each."""
    cv2.setNumThreads(1)
    slot, letterbox = Slot(session_of(task.weights, threads), task.manifest), Letterbox(task.manifest)
    runs: list[float] = []
    frames: list[float] = []
    with _started(connection):
        until = time.monotonic() + task.seconds
        for image in _pictures(task):
            started = time.monotonic()
            if started > until:
                break
            geometry = letterbox.write(ArrayPicture(image), slot.input)
            ready = time.monotonic()
            slot.run()
            ran = time.monotonic()
            slot.read(geometry)
            runs.append(ran - ready)
            frames.append(time.monotonic() - started)
        connection.send((runs, frames))


def _pictures(task: Task) -> Iterator[Image]:
    """Yield pictures of the video, or of the test pattern without a video."""
    if not task.videos:
        yield from map(draw, itertools.count(1))
        return
    video = Video(task.videos[0])
    while (image := video.next()) is not None:
        yield image
