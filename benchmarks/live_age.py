"""Age of the predictions of live cameras: from the capture of a frame until its prediction is received.

The cameras are a process of their own (live_cameras.py), which notes when it captures each picture. So the
age includes the connection and all the time before and during decoding. The fleet, one worker with one
engine, sends UDP datagrams, whose arrival the kernel timestamps, with the numbers of the frames.
Baseline of the same run: bare loops (bare_live.py) on the same cameras, until the detections are known.

An age and a rate are of frames that were captured during the measurement. The cameras go on until each of
these is predicted or replaced. Then they halt, and what they have captured since they were opened must be
received, and predicted or counted as dropped.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bare_live import LIVE_ARRANGEMENTS, THREAD_EACH, LiveTask, Watched, watching
from benchmarks.fleets import delete_all, names, put, running
from benchmarks.live_cameras import PROPERTIES, Captured, LiveCameras, live_cameras
from benchmarks.receiver import Receiver, boot_ns, content_of
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, percentiles
from benchmarks.scene import Scene
from benchmarks.setting import Setting, heavy_by_default, sizes_of
from tests.fleet.harness import Fleet, wait_for

FLEET = "fleet"
SIDES = (*LIVE_ARRANGEMENTS, FLEET)
EQUAL = 0.05  # maximum relative difference of a camera's frames from the median, beyond one frame
_WARM_UP = 5.0  # seconds, after which processes no longer start
_QUICK_WARM_UP = 0.5  # seconds
_IN_FLIGHT = 1.0  # seconds, at most, from the choice of a frame until its prediction
_SETTLED = 60.0  # seconds until all frames of halted cameras are done, and their status says so
_START = 240.0  # seconds until each camera is predicted: dozens of processes start
_STARTING = 8  # pipelines that are started at the same time


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a scene. None: no limit."""

    p50: float | None = None  # ratio to the bare loop
    p99: float | None = None  # ratio to the bare loop
    p99_ms: float | None = None


LIMITS = {
    Scene(1, 10): Limits(p50=1.5, p99=1.5),
    Scene(4, 10): Limits(p50=1.5, p99=1.5),
    Scene(6, 10): Limits(p50=1.5, p99=1.5),
    Scene(32, 1): Limits(p50=1.5, p99=1.5),
    Scene(64, 0.5): Limits(p99_ms=1000.0),
    Scene(1, 5): Limits(p50=1.1),
}
_QUICK = (Scene(2, 5),)


@dataclass(slots=True)
class Measured:
    """What one side did with the cameras of a scene, in all rounds."""

    ages: list[float] = field(default_factory=list)  # ms
    rates: list[float] = field(default_factory=list)  # predicted frames/s of each camera
    uneven: float = 0.0  # largest relative difference of a camera's frames from the median, beyond one frame
    captured: int = 0
    received: int = 0
    predicted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by cause

    @property
    def unaccounted(self) -> int:
        """The frames that were captured, and neither predicted nor counted as dropped."""
        return self.captured - self.predicted - self.dropped.total()

    def add(self, captured: Sequence[Captured], watched: Sequence[Watched], window: Window) -> None:
        """Add one round, by camera, except what was dropped. Raises: ValueError without predictions."""
        counts = []
        for camera, seen in zip(captured, watched, strict=True):
            ages = ages_of(camera, seen, window)
            self.ages += ages
            counts.append(len(ages))
            self.captured += len(camera.times_ns)
            self.received += seen.received
            self.predicted += len(seen.predictions)
        if not self.ages:
            raise ValueError(f"expected predictions of frames of {window.seconds:.0f} s, got none")
        self.rates += [count / window.seconds for count in counts]
        self.uneven = max(self.uneven, unevenness(counts))


@dataclass(frozen=True, slots=True)
class Window:
    """The time of a measurement, in CLOCK_BOOTTIME nanoseconds."""

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / 1e9


def ages_of(camera: Captured, seen: Watched, window: Window) -> list[float]:
    """Return the ages in ms of predictions of frames that were captured in the window. Pure."""
    taken = [(camera.times_ns[number - 1], at_ns) for number, at_ns in seen.predictions]
    return [
        (at_ns - captured_ns) / 1e6
        for captured_ns, at_ns in taken
        if window.begin_ns <= captured_ns < window.end_ns
    ]


def unevenness(counts: Sequence[int]) -> float:
    """Return the largest relative difference from the median, beyond one frame. Pure."""
    middle = statistics.median(counts)
    return max(0.0, max(abs(count - middle) for count in counts) - 1) / max(middle, 1)


def run(setting: Setting) -> Report:
    """Measure each scene, on all sides in turn."""
    scenes = setting.scenes or setting.pick(tuple(LIMITS), _QUICK)
    seconds = setting.pick(30.0, 3.0)
    found: dict[tuple[Scene, str], Measured] = {}
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(heavy_by_default(setting))
        cameras = stack.enter_context(live_cameras(None if setting.is_generated else setting.video))
        fleet = stack.enter_context(running(setting, capacity=max(scene.cameras for scene in scenes)))
        for scene in scenes:
            for _ in range(setting.rounds_of(1)):
                for arrangement in LIVE_ARRANGEMENTS:
                    measured = found.setdefault((scene, arrangement), Measured())
                    of_bare(arrangement, setting, cameras, scene, seconds, measured)
                measured = found.setdefault((scene, FLEET), Measured())
                of_fleet(fleet, setting, cameras, scene, seconds, measured)
    return report(setting, scenes, found, seconds=seconds)


def of_bare(
    arrangement: str,
    setting: Setting,
    cameras: LiveCameras,
    scene: Scene,
    seconds: float,
    measured: Measured,
) -> None:
    """Measure a bare loop once."""
    camera_names = names(scene.cameras)
    urls = tuple(cameras.urls(camera_names, scene.fps))
    with watching(arrangement, LiveTask(setting.model, setting.manifest, urls)) as loop:
        loop.await_predictions()
        window = _measure(scene, seconds, warm_up=setting.pick(_WARM_UP, _QUICK_WARM_UP))
        taken = cameras.halt(camera_names)
        captured = [taken[name] for name in camera_names]
        watched = loop.finish([len(each.times_ns) for each in captured])
    measured.add(captured, watched, window)
    measured.dropped["replaced"] += sum(each.replaced for each in watched)


def of_fleet(
    fleet: Fleet,
    setting: Setting,
    cameras: LiveCameras,
    scene: Scene,
    seconds: float,
    measured: Measured,
) -> None:
    """Measure the fleet once."""
    camera_names = names(scene.cameras)
    urls = cameras.urls(camera_names, scene.fps)
    with Receiver() as receiver, ThreadPoolExecutor(_STARTING) as pool:
        sources = [{"reference": url, "properties": PROPERTIES} for url in urls]
        list(
            pool.map(lambda name, source: put(fleet, name, source, port=receiver.port), camera_names, sources)
        )
        wait_for(
            lambda: not _silent(receiver, camera_names),
            lambda: f"a datagram of {', '.join(_silent(receiver, camera_names))}\n{fleet.log()[-2000:]}",
            timeout=_START,
            every=setting.pick(1.0, 0.1),
        )
        window = _measure(scene, seconds, warm_up=setting.pick(_WARM_UP, _QUICK_WARM_UP))
        taken = cameras.halt(camera_names)
        captured = [taken[name] for name in camera_names]
        statuses = settled(fleet, camera_names, [len(each.times_ns) for each in captured])
        delete_all(fleet)
        watched = {name: Watched(source["received"]) for name, source in statuses.items()}
        for arrival in receiver.arrivals:
            content = content_of(arrival)
            watched[content.pipeline_id].predictions.append((content.frame_id, arrival.at_ns))
    measured.add(captured, [watched[name] for name in camera_names], window)
    for source in statuses.values():
        measured.dropped.update(source["dropped"])


def _silent(receiver: Receiver, camera_names: Sequence[str]) -> list[str]:
    """Return the cameras without a datagram until now. A restarted camera sends from another port."""
    heard = {content_of(arrival).pipeline_id for arrival in list(receiver.arrivals)}
    return [name for name in camera_names if name not in heard]


def settled(fleet: Fleet, camera_names: Sequence[str], captured: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return the status of each source as soon as all frames are accounted for, or after some seconds."""
    until = time.monotonic() + _SETTLED
    while True:
        sources = {name: _source(fleet, name) for name in camera_names}
        done = [source["emitted"] + sum(source["dropped"].values()) for source in sources.values()]
        if done == list(captured) or time.monotonic() > until:
            return sources
        time.sleep(0.5)


def _source(fleet: Fleet, pipeline_id: str) -> dict[str, Any]:
    answer = fleet.http.get(f"/v2/pipelines/{pipeline_id}/status")
    assert answer.status_code == 200, answer.text
    source: dict[str, Any] = answer.json()["sources"][0]
    return source


def _measure(scene: Scene, seconds: float, *, warm_up: float) -> Window:
    time.sleep(warm_up)
    begin_ns = boot_ns()
    time.sleep(seconds)
    window = Window(begin_ns, boot_ns())
    # Until each frame of the window is predicted or replaced. A halted camera's last frame is never replaced,
    # and waits for as long as all cameras take.
    time.sleep(1 / scene.fps + _IN_FLIGHT)
    return window


# the report -----------------------------------------------------------------------------------------------


def report(
    setting: Setting, scenes: Sequence[Scene], found: dict[tuple[Scene, str], Measured], *, seconds: float
) -> Report:
    """Report percentiles, rates and what became of the frames."""
    baselines = {scene: baseline(scene, found) for scene in scenes}
    source = "test pattern, 1280x720" if setting.is_generated else setting.video_name
    return Report(
        name="live-age",
        title=f"Age of predictions of live cameras: {setting.model_name}, {source} as MJPEG",
        sizes=sizes_of(setting, scenes, seconds=seconds, rounds=setting.rounds_of(1), source=source),
        tables=(_ages(scenes, found, baselines), _frames(scenes, found)),
        charts=tuple(_chart(scenes, found, at, f"p{p}") for at, p in ((0, 50), (2, 99))),
        checks=tuple(check for scene in scenes for check in checks(scene, found, baselines[scene])),
        rounds={f"{scene}, {side}, ms": _rounded(measured.ages) for (scene, side), measured in found.items()},
        notes=("Ratios are those of the fleet to the bare loop that is marked with *.",),
    )


def baseline(scene: Scene, found: dict[tuple[Scene, str], Measured]) -> str:
    """Return the arrangement that is the baseline.

    With one camera it is the better one. With more, each frame gets one thread on both sides.
    """
    if scene.cameras > 1:
        return THREAD_EACH
    return min(LIVE_ARRANGEMENTS, key=lambda side: statistics.median(found[scene, side].ages))


def checks(scene: Scene, found: dict[tuple[Scene, str], Measured], bare: str) -> list[Check]:
    """Return the limits of a scene."""
    fleet = found[scene, FLEET]
    p50, _, p99 = ratios(fleet, found[scene, bare])
    limits = LIMITS.get(scene, Limits())
    return [
        *(
            []
            if limits.p50 is None
            else [Check(f"{scene}, p50, ratio to the bare loop", p50, limits.p50, "")]
        ),
        *(
            []
            if limits.p99 is None
            else [Check(f"{scene}, p99, ratio to the bare loop", p99, limits.p99, "")]
        ),
        *(
            []
            if limits.p99_ms is None
            else [Check(f"{scene}, p99", percentiles(fleet.ages)[2], limits.p99_ms, "ms")]
        ),
        Check(
            f"{scene}, difference of a camera's frames from the median", 100 * fleet.uneven, 100 * EQUAL, "%"
        ),
        Check(f"{scene}, frames that are not accounted for", abs(fleet.unaccounted), 0, ""),
    ]


def ratios(ours: Measured, theirs: Measured) -> tuple[float, ...]:
    """Return the ratios of the percentiles."""
    pairs = zip(percentiles(ours.ages), percentiles(theirs.ages), strict=True)
    return tuple(our / their for our, their in pairs)


def _ages(
    scenes: Sequence[Scene], found: dict[tuple[Scene, str], Measured], baselines: dict[Scene, str]
) -> Table:
    rows = []
    for scene in scenes:
        for side in SIDES:
            measured = found[scene, side]
            ratio = ratios(measured, found[scene, baselines[scene]]) if side == FLEET else (None, None, None)
            rates = (min(measured.rates), statistics.median(measured.rates), max(measured.rates))
            mark = " *" if side == baselines[scene] else ""
            rows.append(
                Row(f"{scene}, {side}{mark}", (*percentiles(measured.ages), ratio[0], ratio[2], *rates))
            )
    return Table(
        "age, ms",
        (
            *(Column(name) for name in ("p50", "p95", "p99")),
            *(Column(f"{name} ratio", digits=2) for name in ("p50", "p99")),
            *(Column(f"{name} frames/s", digits=2) for name in ("min", "median", "max")),
        ),
        tuple(rows),
    )


def _frames(scenes: Sequence[Scene], found: dict[tuple[Scene, str], Measured]) -> Table:
    return Table(
        "frames since the start",
        (
            *(Column(name, digits=0) for name in ("captured", "received", "predicted")),
            Column("dropped, by cause"),
            Column("unaccounted", digits=0),
        ),
        tuple(
            Row(
                f"{scene}, {side}",
                (
                    measured.captured,
                    measured.received,
                    measured.predicted,
                    ", ".join(f"{cause} {count}" for cause, count in measured.dropped.items() if count)
                    or None,
                    measured.unaccounted,
                ),
            )
            for scene in scenes
            for side in SIDES
            for measured in (found[scene, side],)
        ),
    )


def _chart(scenes: Sequence[Scene], found: dict[tuple[Scene, str], Measured], at: int, name: str) -> Bars:
    return Bars(
        f"{name} (lower is better)",
        "ms from capture to receipt",
        tuple(map(str, scenes)),
        tuple(
            Series(side, tuple(percentiles(found[scene, side].ages)[at] for scene in scenes))
            for side in SIDES
        ),
        logarithmic=True,
        digits=0,
    )


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]
