"""A pipeline with a stage: a second model on each object that the first one has found.

Two measurements with ten cameras on one worker. At full speed: frames per second of files, compared with a
bare process that decodes in a thread per video and runs both models by hand, in as many threads as there are
cores. Live, below the limit of the machine: the time from the capture of a frame until its datagram, with
what the stage has found in it, compared with the time of one thread for both models on such a frame. Rounds
of the two alternate, and the ratio is computed within each round.
"""

from __future__ import annotations

import contextlib
import os
import queue
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import onnx

from benchmarks.bare import RULES, Slot, Video, session_of
from benchmarks.fleets import delete_all, direct_of, names, put, running
from benchmarks.latency import DIRECT, ages, milliseconds
from benchmarks.processes import TIMEOUT, child, receive
from benchmarks.receiver import UDP, Arrival, Receiver, boot_ns
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, percentiles
from benchmarks.setting import Setting
from streamfleet_core.protocol.values import Manifest, ModelRef, Stage
from streamfleet_worker.camera.stages.crops import crops_of
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.frame import Image
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import Fleet, wait_for

STAGE_MODEL = "bench-stage/1"
STAGE = Stage(name="stage", model=ModelRef(STAGE_MODEL, "0" * 64), max_objects=8, max_detections=1)
RATE_LIMIT = 0.9  # ratio to the bare process
_CAMERAS = 10
_LIVE_FPS = 2.0  # of each camera
_SILENCE_NS = 10**9
_WARM_UP = 1.0  # seconds
_FLEET, _BARE = "fleet", "both models by hand"


@dataclass(frozen=True, slots=True)
class Task:
    """The work of the bare process."""

    first: Path
    second: Path
    manifest: Manifest  # of both
    videos: tuple[Path, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """What it did."""

    frames: int
    objects: int  # on which the second model has run
    seconds: float
    times: list[float]  # seconds of each frame, from the decoded picture


def run(setting: Setting) -> Report:
    """Measure with ten cameras."""
    cameras, seconds = setting.pick(_CAMERAS, 2), setting.pick(8.0, 1.0)
    rounds: dict[str, list[float]] = {}
    with short_folder() as folder, running(setting, capacity=cameras) as fleet:
        second = _second_model(setting.model, folder / "second.onnx")
        fleet.add_model(STAGE_MODEL, second, *setting.model_options)
        task = Task(setting.model, second, setting.manifest, (setting.video,) * cameras, seconds)
        for _ in range(setting.rounds_of(3)):
            _one_round(fleet, setting, task, rounds)
        alone = Task(setting.model, second, setting.manifest, (setting.video,), seconds)
        by_hand = milliseconds(_by_hand(alone, threads=1).times)
        live, late = _live_ages(fleet, setting, cameras, setting.pick(20.0, 2.0))
    return report(setting, rounds, {_BARE: by_hand, _FLEET: live}, cameras=cameras, late=late)


def _second_model(first: Path, path: Path) -> Path:
    """The same network as another model, with an engine of its own."""
    model = onnx.load(str(first))
    model.doc_string = "second"
    onnx.save(model, str(path))
    return path


def _one_round(fleet: Fleet, setting: Setting, task: Task, rounds: dict[str, list[float]]) -> None:
    done = _by_hand(task, threads=len(os.sched_getaffinity(0)))
    arrivals, elapsed = _measure(fleet, setting, len(task.videos), task.seconds)
    for name, frames, objects, seconds in (
        (_BARE, done.frames, done.objects, done.seconds),
        (_FLEET, len(arrivals), sum(map(stage_results, arrivals)), elapsed),
    ):
        rounds.setdefault(f"{name}, frames/s", []).append(frames / seconds)
        rounds.setdefault(f"{name}, objects per frame", []).append(objects / frames)


def _measure(fleet: Fleet, setting: Setting, cameras: int, seconds: float) -> tuple[list[Arrival], float]:
    """The datagrams of files at full speed, while all of them play, and the seconds that they took."""
    with Receiver() as receiver, ThreadPoolExecutor(cameras) as pool:
        ids = names(cameras)
        list(pool.map(lambda name: _put(fleet, name, str(setting.video), port=receiver.port), ids))
        wait_for(lambda: len(receiver.first_ns) == cameras, "a datagram of each camera")
        begin = max(receiver.first_ns.values())
        until = begin + round(seconds * 1e9)
        wait_for(
            lambda: (
                receiver.arrivals[-1].at_ns > until or boot_ns() - receiver.arrivals[-1].at_ns > _SILENCE_NS
            ),
            "the end of the measurement",
            timeout=seconds + PATIENCE,
            every=0.1,
        )
        delete_all(fleet)
        found = [each for each in receiver.arrivals if begin < each.at_ns <= until]
    return found, (found[-1].at_ns - begin) / 1e9


def _live_ages(fleet: Fleet, setting: Setting, cameras: int, seconds: float) -> tuple[list[float], int]:
    """Milliseconds from capture to datagram of live cameras, and the objects that were late."""
    ids = names(cameras)
    with Receiver({DIRECT: direct_of(fleet)}) as receiver:
        for pipeline_id in ids:
            source = {"reference": str(setting.video), "mode": "live"}
            _put(fleet, pipeline_id, source, port=receiver.port, max_fps=_LIVE_FPS)
        wait_for(lambda: len(receiver.first_ns) >= cameras, "a datagram of each camera")
        time.sleep(_WARM_UP)
        begin = len(receiver.arrivals)
        time.sleep(seconds)
        pipelines = fleet.http.get("/v2/pipelines").json()["pipelines"]
        late = sum(stage["late"] for each in pipelines for stage in each["stages"])
        delete_all(fleet)
        return milliseconds(ages(receiver.arrivals, begin)[UDP]), late


def _put(fleet: Fleet, name: str, source: Any, *, port: int, **more: Any) -> None:
    stage = {"name": STAGE.name, "model": STAGE_MODEL, "max_objects": 8, "max_detections": 1}
    put(fleet, name, source, port=port, stages=[stage], **more)


def stage_results(arrival: Arrival) -> int:
    """The number of objects in a datagram that have a result of the stage."""
    return arrival.frames[0].count(b'"stages": ')


# by hand --------------------------------------------------------------------------------------------------


def _by_hand(task: Task, *, threads: int) -> Done:
    with child(_play, task, threads) as connection:
        receive(connection)
        connection.send("go")
        done: Done = receive(connection, task.seconds + TIMEOUT)
    return done


def _play(connection: Connection, task: Task, threads: int) -> None:
    cv2.setNumThreads(1)
    first, second = session_of(task.first, 1), session_of(task.second, 1)
    workers = [_Worker(Slot(first, task.manifest), Slot(second, task.manifest), task) for _ in range(threads)]
    connection.send("ready")
    receive(connection)
    connection.send(_run(task, workers))
    connection.close()


class _Worker:
    """Both models in one thread."""

    def __init__(self, first: Slot, second: Slot, task: Task) -> None:
        self._first, self._second, self._task = first, second, task
        self._letterbox, self._stage_letterbox = Letterbox(task.manifest), Letterbox(task.manifest)

    def infer(self, image: Image) -> int:
        """Run both models on a frame. Returns how often the second one has run."""
        manifest = self._task.manifest
        geometry = self._letterbox.write(ArrayPicture(image), self._first.input)
        self._first.run()
        found = decode([self._first.output], geometry, manifest=manifest, rules=RULES)
        height, width = image.shape[:2]
        crops = crops_of(found, STAGE, labels=manifest.labels, width=width, height=height)
        for crop in crops:
            part = ArrayPicture(image[crop.top : crop.bottom, crop.left : crop.right])
            placed = self._stage_letterbox.write(part, self._second.input)
            self._second.run()
            decode([self._second.output], placed, manifest=manifest, rules=RULES)
        return len(crops)


def _run(task: Task, workers: Sequence[_Worker]) -> Done:
    images: queue.Queue[Image | None] = queue.Queue(len(workers) + len(task.videos))
    stop, lock = threading.Event(), threading.Lock()
    times: list[float] = []
    objects = 0

    def read(path: Path) -> None:
        video = Video(path)
        while not stop.is_set() and (image := video.next()) is not None:
            with contextlib.suppress(queue.Full):
                images.put(image.copy(), timeout=1)
        stop.set()

    def work(worker: _Worker) -> None:
        nonlocal objects
        for image in _until_none(images):
            began = time.monotonic()
            count = worker.infer(image)
            with lock:
                times.append(time.monotonic() - began)
                objects += count

    readers = [threading.Thread(target=read, args=(path,)) for path in task.videos]
    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    began = time.monotonic()
    for thread in (*threads, *readers):
        thread.start()
    stop.wait(task.seconds)
    stop.set()
    with lock:
        done = Done(len(times), objects, time.monotonic() - began, list(times))
    for thread in readers:
        thread.join()
    for _ in threads:
        images.put(None)
    for thread in threads:
        thread.join()
    return done


def _until_none(images: queue.Queue[Image | None]) -> Iterator[Image]:
    while (image := images.get()) is not None:
        yield image


# report ---------------------------------------------------------------------------------------------------


def report(
    setting: Setting,
    rounds: dict[str, list[float]],
    latencies: dict[str, list[float]],
    *,
    cameras: int,
    late: int,
) -> Report:
    """Report medians, and percentiles of the latency."""
    rates = {name: rounds[f"{name}, frames/s"] for name in (_BARE, _FLEET)}
    objects = {name: rounds[f"{name}, objects per frame"] for name in (_BARE, _FLEET)}
    ratio = statistics.median(ours / bare for ours, bare in zip(rates[_FLEET], rates[_BARE], strict=True))
    speed = Table(
        f"{cameras} files at full speed",
        (Column("frames/s"), Column("objects per frame", digits=2), Column("ratio", digits=3)),
        (
            Row(_BARE, (statistics.median(rates[_BARE]), statistics.median(objects[_BARE]), None)),
            Row(_FLEET, (statistics.median(rates[_FLEET]), statistics.median(objects[_FLEET]), ratio)),
        ),
    )
    age = Table(
        f"{cameras} live cameras at {_LIVE_FPS:g}/s",
        (Column("p50", "ms", 1), Column("p95", "ms", 1), Column("p99", "ms", 1), Column("frames", digits=0)),
        tuple(Row(name, (*percentiles(values), len(values))) for name, values in latencies.items()),
    )
    return Report(
        name="cascade",
        title=f"A second model on each object: {setting.model_name} twice, {setting.video_name}",
        sizes={"cameras": cameras, "rounds": len(rates[_FLEET]), "model": setting.model_name},
        tables=(speed, age),
        charts=(
            Bars(
                "Files at full speed (higher is better)",
                "frames/s",
                (f"{cameras} cameras",),
                tuple(Series(name, (statistics.median(values),)) for name, values in rates.items()),
            ),
        ),
        checks=(
            Check("ratio to both models by hand", ratio, RATE_LIMIT, "", at_least=True),
            Check("objects that were late, of live cameras", late, 0, ""),
        ),
        rounds={**rounds, **{f"{name}, ms": values for name, values in latencies.items()}},
    )
