"""Memory of all processes of one worker with 1, 2, 4 and 8 live cameras on one loaded engine.

PSS, as the kernel counts it in /proc/PID/smaps_rollup: what a process has for itself, and its part of what it
shares. The worker is all that runs below its agent: fork server, publisher, engine and cameras. Measured once
every camera has sent frames and a few seconds have passed; the median of some looks. What a further camera
costs is the growth of the whole, so what it makes others use is in it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fleets import names, put, running
from benchmarks.receiver import Receiver
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fleet.harness import Fleet, process_name, wait_for

LIMIT = 80.0  # MB for each further camera
PARTS = ("agent", "fork server", "publisher", "engine", "cameras")
_PREFIXES = {"sf-agent": 0, "sf-forkserver": 1, "publisher": 2, "engine": 3, "camera": 4}
_OTHERS = ("streamfleet", "sf-broker", "sf-api")  # of the fleet, and not of the worker
_MB = 1000**2  # bytes


def run(setting: Setting) -> Report:
    """Add cameras, and look."""
    sizes = setting.pick((1, 2, 4, 8), (1, 2))
    settled, looks = setting.pick(4.0, 0.5), setting.pick(5, 2)
    found: dict[int, list[list[float]]] = {}
    pipeline_ids = names(max(sizes))
    with running(setting, capacity=max(sizes)) as fleet, Receiver() as receiver:
        for cameras in sizes:
            for pipeline_id in pipeline_ids[len(receiver.began_ns) : cameras]:
                put(fleet, pipeline_id, setting.live, port=receiver.port)
            wait_for(lambda: len(receiver.began_ns) == cameras, "a datagram of each camera")  # noqa: B023
            time.sleep(settled)
            found[cameras] = [parts(fleet) for _ in range(looks)]
    return report(setting, sizes, found)


def parts(fleet: Fleet) -> list[float]:
    """MB of each part of the worker, now."""
    sums = [0.0] * len(PARTS)
    for pid in fleet.pids():
        name = process_name(pid)
        if not name.startswith(_OTHERS):
            # The resource tracker that Python starts beside its fork server has no name of its own.
            at = next((at for prefix, at in _PREFIXES.items() if name.startswith(prefix)), 1)
            sums[at] += pss(pid)
    return sums


def pss(pid: int) -> float:
    """MB of one process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / _MB
    raise ValueError(f"expected a line Pss in /proc/{pid}/smaps_rollup")


def report(setting: Setting, sizes: Sequence[int], found: dict[int, list[list[float]]]) -> Report:
    """Medians of the looks."""
    middle = {n: [statistics.median(column) for column in zip(*found[n], strict=True)] for n in sizes}
    wholes = {n: sum(middle[n]) for n in sizes}
    further: dict[int, float | None] = dict.fromkeys(sizes)
    for fewer, more in itertools.pairwise(sizes):
        further[more] = (wholes[more] - wholes[fewer]) / (more - fewer)
    dearest = max(value for value in further.values() if value is not None)
    rows = tuple(
        Row(f"{n} camera{'s' if n > 1 else ''}", (*middle[n], wholes[n], further[n], LIMIT)) for n in sizes
    )
    columns = (
        *(Column(part) for part in PARTS),
        Column("worker"),
        Column("a further camera"),
        Column("limit"),
    )
    groups = tuple(f"{n} camera{'s' if n > 1 else ''}" for n in sizes)
    return Report(
        name="memory",
        title=f"Memory of one worker: {setting.model_name}, {setting.live_name}",
        sizes={"cameras": list(sizes), "model": setting.model_name, "source": setting.live_name},
        tables=(Table("MB (PSS)", columns, rows),),
        charts=(
            Bars(
                "All processes of the worker",
                "MB (PSS)",
                groups,
                tuple(Series(part, tuple(middle[n][at] for n in sizes)) for at, part in enumerate(PARTS)),
                stacked=True,
                digits=0,
            ),
            Bars(
                "Each further camera (lower is better)",
                "MB (PSS)",
                groups[1:],
                (Series("a further camera", tuple(further[n] for n in sizes[1:])),),
                limit=LIMIT,
            ),
        ),
        checks=(Check("the dearest further camera", dearest, LIMIT, "MB"),),
        rounds={f"worker with {n} cameras, MB": [sum(look) for look in found[n]] for n in sizes},
    )
