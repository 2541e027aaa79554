"""How many cameras a device takes: as `POST /v2/plan` predicts it from measured costs, and in fact.

The cameras are films of 10 frames/s that play live, in H.264 of 1280x720, with `max_fps` as the rate of their
scene. A few of them run first, until the device has told what they cost. Then the plan is asked how many fit.
The device is named for each camera, so that more than that can be started. The measured maximum is the
largest number of cameras of which each has at least 95 % of its predictions/s (UDP datagrams), beyond one
frame, and none drops a frame that became too old. Numbers are tried upwards or downwards from the predicted
one. Broker, API and this benchmark share the machine with the device; what other processes take is shown.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cpu import busy_seconds, cpu_times, growth
from benchmarks.films import write_h264
from benchmarks.fleets import MODEL_ID, PARTS, delete, put, running, worker_processes
from benchmarks.receiver import Receiver, boot_ns, content_of
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import DEMO, HALF, HEAVY, NAMES, Setting, with_model
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import Fleet, wait_for

LIMIT = 15.0  # %, of the predicted number from the measured one
MODELS = {DEMO: 10.0, HALF: 4.0, HEAVY: 1.0}  # predictions/s of a camera
CHOSEN_RATE = 4.0  # predictions/s of a camera, with a model that was chosen for this run
DEVICE = "local-1"
HELD = 0.95  # of its rate
BESIDE, OTHERS = "beside it", "others"  # the rest of the fleet and this benchmark; all other processes
_SOURCE_FPS = 10
_FIRST = 3  # cameras whose costs are measured
_MEASURED = 30  # inferences that were measured
_MOST = 60  # cameras
_STARTING = 4  # pipelines that are started at the same time
_START = 120.0  # seconds until each camera is predicted


@dataclass(slots=True)
class Found:
    """What was found of one model."""

    rate: float
    predicted: int = 0
    measured: int = 0
    need: dict[str, float] = field(default_factory=dict)  # of one camera, as planned
    tried: dict[int, bool] = field(default_factory=dict)  # number of cameras → whether all held their rate
    cpu: dict[str, float] = field(default_factory=dict)  # cores in use at the measured maximum, by part

    @property
    def used(self) -> float:
        """The cores in use of one camera, with its part of the engine and the publisher."""
        return sum(self.cpu.get(part, 0.0) for part in PARTS) / max(self.measured, 1)

    @property
    def difference(self) -> float:
        """Of the predicted number from the measured one, in %."""
        return 100 * abs(self.predicted - self.measured) / max(self.measured, 1)


class Cameras:
    """The cameras of one fleet, of which any number may run."""

    def __init__(self, fleet: Fleet, receiver: Receiver, film: Path, rate: float) -> None:
        self._fleet = fleet
        self._receiver = receiver
        self._source = {"reference": str(film), "mode": "live", "max_fps": rate}
        self._rate = rate
        self._running: list[str] = []

    def run(self, count: int) -> None:
        """Start or end cameras, until so many run, and each was predicted."""
        more = [f"cam-{number}" for number in range(len(self._running) + 1, count + 1)]
        for name in self._running[count:]:
            delete(self._fleet, name)
        wait_for(lambda: len(self._fleet.pids("camera")) <= count, "the end of cameras")
        with ThreadPoolExecutor(_STARTING) as pool:
            list(pool.map(self._put, more))
        self._running = [*self._running[:count], *more]
        since = boot_ns()
        wait_for(lambda: self._predicted(since).keys() >= {*self._running}, "each camera", timeout=_START)

    def _put(self, name: str) -> None:
        put(self._fleet, name, self._source, port=self._receiver.port, device=DEVICE)

    def hold(self, seconds: float) -> tuple[bool, dict[str, float]]:
        """Whether each camera keeps its rate; and the cores in use, by part of the worker and beside it."""
        parts = worker_processes(self._fleet)
        own = {*self._fleet.pids(), os.getpid()}
        stale, before, began, busy = self._stale(), cpu_times(own), boot_ns(), busy_seconds()
        time.sleep(seconds)
        ended, after, busy = boot_ns(), cpu_times(own), busy_seconds() - busy
        counts = self._predicted(began, ended)
        wanted = HELD * self._rate * (ended - began) / 1e9 - 1
        cpu: Counter[str] = Counter()
        for pid, spent in growth(before, after).items():
            cpu[parts.get(pid, BESIDE)] += spent / ((ended - began) / 1e9)  # type: ignore[assignment]
        cpu[OTHERS] = max(0.0, busy / ((ended - began) / 1e9) - sum(cpu.values()))  # type: ignore[assignment]
        held = all(counts[name] >= wanted for name in self._running) and self._stale() == stale
        return held, {part: float(cpu[part]) for part in (*PARTS, BESIDE, OTHERS)}

    def _predicted(self, since: int, until: int | None = None) -> Counter[str]:
        """The predictions of each camera in this time."""
        arrivals = [each for each in list(self._receiver.arrivals) if each.at_ns >= since]
        return Counter(
            content_of(each).pipeline_id for each in arrivals if until is None or each.at_ns < until
        )

    def _stale(self) -> int:
        """The frames that became too old."""
        answers = [self._fleet.http.get(f"/v2/pipelines/{name}/status").json() for name in self._running]
        sources = [source for each in answers for source in each["sources"]]
        return sum(source["dropped"].get("stale", 0) for source in sources)


def run(setting: Setting) -> Report:
    """Predict and measure with each model."""
    models = MODELS
    if setting.is_chosen:
        rates = {NAMES[name]: rate for name, rate in MODELS.items()}
        models = {setting.model_name: rates.get(setting.model_name, CHOSEN_RATE)}
    if setting.quick:
        models = dict(list(models.items())[:1])
    found = dict[str, Found]()
    for name, rate in models.items():
        with with_model(setting, name) as chosen, short_folder() as folder, running(chosen) as fleet:
            film = write_h264(folder / "film.mp4", None, fps=_SOURCE_FPS, frames=setting.pick(300, 60))
            with Receiver() as receiver:
                found[chosen.model_name] = of_model(
                    fleet, Cameras(fleet, receiver, film, rate), rate, str(film), quick=setting.quick
                )
    return report(setting, found)


def of_model(fleet: Fleet, cameras: Cameras, rate: float, film: str, *, quick: bool) -> Found:
    """Predict, then measure."""
    found = Found(rate)
    cameras.run(_FIRST)
    wait_for(lambda: _measured(fleet), "costs", timeout=_START, every=0.5)
    found.predicted, found.need = predicted(fleet, film, rate)
    print(f"  {_FIRST} cameras; plan: {found.predicted}, each {found.need}", flush=True)

    def holds(count: int) -> bool:
        cameras.run(count)
        time.sleep(1.0 if quick else 4.0)
        held, cpu = cameras.hold(2.0 if quick else max(6.0, 10 / rate))
        found.tried[count] = held
        again, _ = predicted(fleet, film, rate)
        used = ", ".join(f"{part} {cores:.2f}" for part, cores in cpu.items())
        print(f"  {count} cameras: {'held' if held else 'too many'}; plan: {again}; {used}", flush=True)
        if held and count > found.measured:
            found.measured, found.cpu = count, cpu
        return held

    found.measured = largest(min(found.predicted, _FIRST if quick else _MOST), holds, limit=_MOST)
    return found


def largest(first: int, holds: Callable[[int], bool], *, limit: int) -> int:
    """The largest number that holds: from the first one on in steps of a fifth, then by halves. Pure."""
    low, high = 0, limit + 1  # the largest one that is known to hold, and the smallest one that does not
    count = first
    while high - low > 1:
        if holds(count):
            low = count
        else:
            high = count
        step = max(1, count // 5)
        if low == 0:
            count = max(1, high - step)
        elif high > limit:
            count = min(limit, low + step)
        else:
            count = (low + high) // 2
    return low


def predicted(fleet: Fleet, film: str, rate: float) -> tuple[int, dict[str, float]]:
    """How many cameras fit, with those that run; and what one of them needs."""
    source = {"reference": film, "mode": "live", "max_fps": rate}
    wanted = [
        {"id": f"cam-{number}", "model": MODEL_ID, "sources": [source]} for number in range(1, _MOST + 1)
    ]
    answer = fleet.http.post("/v2/plan", json={"pipelines": wanted})
    assert answer.status_code == 200, answer.text
    placed = [each for each in answer.json()["pipelines"] if each["device"]]
    assert all(each["need"]["is_measured"] for each in placed)
    return len(placed), placed[-1]["need"]


def _measured(fleet: Fleet) -> bool:
    costs: list[dict[str, Any]] = fleet.http.get(f"/v2/models/{MODEL_ID}").json()["costs"]
    return sum(each["cost"]["frames"] for each in costs) >= _MEASURED


# the report -----------------------------------------------------------------------------------------------


def report(setting: Setting, found: dict[str, Found]) -> Report:
    """Report both numbers of each model."""
    columns = (
        *(Column(name, digits=0) for name in ("predicted", "measured")),
        Column("difference", "%"),
        *(Column(f"{name} cores", digits=3) for name in ("planned", "used")),
        *(Column(part, digits=2) for part in (*PARTS, BESIDE, OTHERS)),
        Column("tried"),
    )
    rows = [
        Row(
            f"{name}, {each.rate:g}/s",
            (
                *(each.predicted, each.measured, each.difference),
                *(each.need.get("cores"), each.used),
                *(each.cpu.get(part) for part in (*PARTS, BESIDE, OTHERS)),
                " ".join(f"{count}{'+' if held else '-'}" for count, held in sorted(each.tried.items())),
            ),
        )
        for name, each in found.items()
    ]
    return Report(
        name="capacity",
        title=f"Cameras that a device takes: H.264 of 1280x720, {_SOURCE_FPS} frames/s",
        sizes={"first": _FIRST, "rates": {name: each.rate for name, each in found.items()}},
        tables=(Table("cameras", columns, tuple(rows)),),
        charts=(
            Bars(
                "Cameras of a device",
                "cameras",
                tuple(found),
                (
                    Series("predicted", tuple(float(each.predicted) for each in found.values())),
                    Series("measured", tuple(float(each.measured) for each in found.values())),
                ),
                digits=0,
            ),
        ),
        checks=tuple(
            Check(f"{name}, difference", each.difference, LIMIT, "%") for name, each in found.items()
        ),
        notes=(
            "Cores in use are those at the measured number: of one camera, by part of the worker, by the\n"
            "rest of the fleet and this benchmark, and by all other processes. + held, - did not.",
        ),
    )
