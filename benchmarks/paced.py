"""CPU of a worker whose cameras need few predictions, by part and beside the CPU of the inferences alone.

Several cameras are films of 10 frames/s that play live, with `max_fps` as the rate of their scene: what is
decoded beyond that rate is a cost of its own. One camera alone has the rate of its scene, without a limit.
Baseline of the same run: a bare process that infers at the rate of the whole scene, or without a pause if it
cannot; its CPU time per inference, multiplied by the predictions of the fleet. An inference has as many
threads as in the engine: one with several cameras, all with one camera alone. An engine that waits for the
CPU, because cameras use it, gives fewer predictions than were asked for.

How much decoding is spared depends on how far the keyframes of a camera are apart. So the CPU of cameras is
also measured with several distances, beside the decoding of all their frames in a bare process.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import av

from benchmarks.bare import Slot, Task, session_of
from benchmarks.cpu import cpu_times, growth
from benchmarks.films import write_h264
from benchmarks.fleets import PARTS, delete_all, names, put, running, worker_processes
from benchmarks.processes import child, receive, start_session
from benchmarks.receiver import Receiver, boot_ns
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.scene import Scene
from benchmarks.setting import Setting, heavy_by_default, sizes_of
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import Fleet, wait_for

LIMITS = {Scene(1, 5): 1.1}  # CPU of the worker, ratio to that of its inferences alone
CAMERAS = {  # of several kinds: frames/s, and frames from keyframe to keyframe
    "10/s, keyframe every 1 s": (10, 10),
    "10/s, keyframe every 2.5 s": (10, 25),
    "10/s, keyframe every 5 s": (10, 50),
    "25/s, keyframe every 2 s": (25, 50),
}
SLOW = Scene(16, 0.5)  # of each kind
SCENES = (Scene(32, 1), Scene(64, 0.5), Scene(1, 5))
_QUICK = (Scene(2, 1), Scene(1, 5))
_SOURCE_FPS = 10  # of several cameras
_ALONE = "inferences alone"
_START = 240.0  # seconds until each camera is predicted: dozens of processes start
_STARTING = 8  # pipelines that are started at the same time


@dataclass(frozen=True, slots=True)
class Paced:
    """One measurement of the worker, per second."""

    cpu: dict[str, float]  # seconds, by part
    predictions: float

    @property
    def total(self) -> float:
        """The CPU time of all parts."""
        return sum(self.cpu.values())


def run(setting: Setting) -> Report:
    """Measure each scene, and its inferences alone in the same round."""
    scenes = setting.scenes or setting.pick(SCENES, _QUICK)
    seconds = setting.pick(20.0, 2.0)
    found: dict[Scene, list[Paced]] = {}
    alone: dict[Scene, list[float]] = {}  # seconds of CPU time of one inference
    decoding: dict[str, tuple[float, float]] = {}  # CPU s per second: of the cameras, and to decode all
    with (
        heavy_by_default(setting) as setting,
        short_folder() as folder,
        running(setting, capacity=max(scene.cameras for scene in (*scenes, SLOW))) as fleet,
    ):
        for scene in scenes:
            film = _film(setting, folder, scene)
            for _ in range(setting.rounds_of(3)):
                rate = scene.cameras * scene.fps
                task = Task(setting.model, setting.manifest, (), seconds)
                threads = len(os.sched_getaffinity(0)) if scene.cameras == 1 else 1
                alone.setdefault(scene, []).append(cost_alone(task, rate, threads))
                paced = of_fleet(fleet, film, scene, settle=setting.pick(5.0, 1.0), seconds=seconds)
                found.setdefault(scene, []).append(paced)
        if not setting.scenes:
            kinds = setting.pick(list(CAMERAS), list(CAMERAS)[:1])
            for kind in kinds:
                fps, group = CAMERAS[kind]
                film = _camera(setting, folder, fps, group)
                settle = 6 * group / fps  # the distance of keyframes is known then
                paced = of_fleet(fleet, film, SLOW, settle=settle, seconds=seconds)
                decoding[kind] = (paced.cpu["cameras"], SLOW.cameras * fps * cost_of_decoding(film))
    return report(setting, scenes, found, alone, decoding, seconds=seconds)


def of_fleet(fleet: Fleet, film: Path, scene: Scene, *, settle: float, seconds: float) -> Paced:
    """Measure the worker once."""
    limit = {"max_fps": scene.fps} if scene.cameras > 1 else {}
    source = {"reference": str(film), "mode": "live", **limit}
    with Receiver() as receiver, ThreadPoolExecutor(_STARTING) as pool:
        list(pool.map(lambda name: put(fleet, name, source, port=receiver.port), names(scene.cameras)))
        wait_for(lambda: len(receiver.first_ns) >= scene.cameras, "a datagram of each camera", timeout=_START)
        time.sleep(settle)
        parts = worker_processes(fleet)
        began_ns, before = boot_ns(), cpu_times(parts)
        time.sleep(seconds)
        ended_ns, after = boot_ns(), cpu_times(parts)
        delete_all(fleet)
        received = sum(began_ns <= arrival.at_ns < ended_ns for arrival in receiver.arrivals)
    lasted = (ended_ns - began_ns) / 1e9
    cpu: Counter[str] = Counter()
    for pid, spent in growth(before, after).items():
        cpu[parts[pid]] += spent / lasted  # type: ignore[assignment]
    return Paced({part: float(cpu[part]) for part in PARTS}, received / lasted)


def cost_alone(task: Task, rate: float, threads: int) -> float:
    """Return the seconds of CPU time of one inference, in a process that infers at this rate."""
    with child(_infer, task, rate, threads) as connection:
        cost: float = receive(connection, task.seconds + 60)
    return cost


def cost_of_decoding(film: Path) -> float:
    """Return the seconds of CPU time to decode one frame of a film, in a process that decodes all of them."""
    with child(_decode, film) as connection:
        cost: float = receive(connection, 120)
    return cost


def _decode(connection: Connection, film: Path) -> None:
    start_session()
    with av.open(str(film)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        began = time.process_time()
        count = sum(1 for _ in container.decode(video=0))
        connection.send((time.process_time() - began) / count)


def _infer(connection: Connection, task: Task, rate: float, threads: int) -> None:
    start_session()
    slot = Slot(session_of(task.weights, threads, spins_on=False), task.manifest)
    spent, count, due = 0.0, 0, time.monotonic()
    until = due + task.seconds
    while time.monotonic() < until:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / rate, time.monotonic() - 1 / rate)
        began = time.process_time()
        slot.run()
        spent += time.process_time() - began
        count += 1
    connection.send(spent / count)


def _camera(setting: Setting, folder: Path, fps: int, group: int) -> Path:
    video = None if setting.is_generated else setting.video
    return write_h264(
        folder / f"{fps}-{group}.mp4", video, fps=fps, frames=fps * setting.pick(60, 10), group=group
    )


def _film(setting: Setting, folder: Path, scene: Scene) -> Path:
    """Write the film of a scene. It is long, because its cameras open it again at each end."""
    fps = _SOURCE_FPS if scene.cameras > 1 else max(1, round(scene.fps))
    path = folder / f"{fps}.mp4"
    if path.exists():
        return path
    video = None if setting.is_generated else setting.video
    return write_h264(path, video, fps=fps, frames=fps * setting.pick(60, 10))


# the report -----------------------------------------------------------------------------------------------


def report(
    setting: Setting,
    scenes: Sequence[Scene],
    found: dict[Scene, list[Paced]],
    alone: dict[Scene, list[float]],
    decoding: dict[str, tuple[float, float]],
    *,
    seconds: float,
) -> Report:
    """Report medians of the rounds."""
    ratio = {scene: statistics.median(ratios(found[scene], alone[scene])) for scene in scenes}
    return Report(
        name="paced",
        title=f"CPU of one worker with slow cameras: {setting.model_name}, H.264 of 1280x720",
        sizes=sizes_of(
            setting, scenes, seconds=seconds, rounds=setting.rounds_of(3), source="H.264 of 1280x720"
        ),
        tables=(
            _cpu(scenes, found, alone, ratio),
            _predictions(scenes, found),
            *([decoding_table(decoding)] if decoding else ()),
        ),
        charts=(_chart(scenes, found, alone),),
        checks=tuple(
            Check(f"{scene}, CPU, ratio to its inferences alone", ratio[scene], LIMITS[scene], "")
            for scene in scenes
            if scene in LIMITS
        ),
        rounds={
            **{f"{scene}, worker, CPU s/s": [each.total for each in found[scene]] for scene in scenes},
            **{f"{scene}, one inference alone, CPU s": alone[scene] for scene in scenes},
            **{f"{scene}, predictions/s": [each.predictions for each in found[scene]] for scene in scenes},
        },
    )


def ratios(found: Sequence[Paced], alone: Sequence[float]) -> list[float]:
    """Return the CPU time of the worker in each round, relative to that of its inferences alone. Pure."""
    return [
        paced.total / max(cost * paced.predictions, 1e-9) for paced, cost in zip(found, alone, strict=True)
    ]


def _middle(found: Sequence[Paced], part: str) -> float:
    return statistics.median(each.cpu[part] for each in found)


def _cost(found: Sequence[Paced], alone: Sequence[float]) -> float:
    return statistics.median(paced.predictions * cost for paced, cost in zip(found, alone, strict=True))


def _cpu(
    scenes: Sequence[Scene],
    found: dict[Scene, list[Paced]],
    alone: dict[Scene, list[float]],
    ratio: dict[Scene, float],
) -> Table:
    rows = tuple(
        Row(
            str(scene),
            (
                *(_middle(found[scene], part) for part in PARTS),
                statistics.median(each.total for each in found[scene]),
                _cost(found[scene], alone[scene]),
                ratio[scene],
                LIMITS.get(scene),
            ),
        )
        for scene in scenes
    )
    columns = (*PARTS, "worker", _ALONE, "ratio")
    return Table(
        "CPU s per second",
        (*(Column(name, digits=3) for name in columns), Column("limit", digits=2)),
        rows,
    )


def decoding_table(decoding: dict[str, tuple[float, float]]) -> Table:
    """Tell what cameras use beside the decoding of all their frames. Pure."""
    columns = ("cameras", "decoding of all frames alone", "ratio")
    return Table(
        f"CPU s per second, {SLOW}",
        tuple(Column(name, digits=3) for name in columns),
        tuple(Row(kind, (ours, whole, ours / whole)) for kind, (ours, whole) in decoding.items()),
    )


def _predictions(scenes: Sequence[Scene], found: dict[Scene, list[Paced]]) -> Table:
    rows = []
    for scene in scenes:
        wanted, got = (
            scene.cameras * scene.fps,
            statistics.median(each.predictions for each in found[scene]),
        )
        each = 1000 * _middle(found[scene], "cameras") / max(got, 1e-9)
        rows.append(Row(str(scene), (wanted, got, got / wanted, each)))
    columns = (
        Column("wanted"),
        Column("got"),
        Column("ratio", digits=3),
        Column("CPU of cameras for each", "ms"),
    )
    return Table("predictions/s", columns, tuple(rows))


def _chart(scenes: Sequence[Scene], found: dict[Scene, list[Paced]], alone: dict[Scene, list[float]]) -> Bars:
    groups = tuple(f"{scene}, {what}" for scene in scenes for what in ("worker", _ALONE))
    series = [
        Series(part, tuple(value for scene in scenes for value in (_middle(found[scene], part), None)))
        for part in PARTS
    ]
    series.append(
        Series(
            _ALONE, tuple(value for scene in scenes for value in (None, _cost(found[scene], alone[scene])))
        )
    )
    return Bars(
        "CPU of the worker (lower is better)",
        "CPU seconds per second",
        groups,
        tuple(series),
        stacked=True,
        digits=2,
    )
