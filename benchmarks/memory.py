"""Memory of all processes of one worker with 1, 2, 4 and 8 live cameras on one loaded engine.

PSS, from /proc/PID/smaps_rollup: the private memory of a process, and its part of shared memory. The worker
is the agent and its children: fork server, publisher, engine and cameras. Each value is a median of samples,
taken a few seconds after every camera has sent frames. The cost of a further camera is the growth of the
whole worker, so it includes memory of other processes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fleets import PARTS, names, put, running, worker_processes
from benchmarks.receiver import Receiver
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fleet.harness import Fleet, wait_for

LIMIT = 45.0  # MB for each further camera
_MB = 1000**2  # bytes


def run(setting: Setting) -> Report:
    """Add cameras, and measure."""
    sizes = setting.pick((1, 2, 4, 8), (1, 2))
    settled, samples = setting.pick(4.0, 0.5), setting.pick(5, 2)
    found: dict[int, list[list[float]]] = {}
    pipeline_ids = names(max(sizes))
    with running(setting, capacity=max(sizes)) as fleet, Receiver() as receiver:
        for cameras in sizes:
            for pipeline_id in pipeline_ids[len(receiver.first_ns) : cameras]:
                put(fleet, pipeline_id, setting.live, port=receiver.port)
            wait_for(lambda: len(receiver.first_ns) == cameras, "a datagram of each camera")  # noqa: B023
            time.sleep(settled)
            found[cameras] = [parts(fleet) for _ in range(samples)]
    return report(setting, sizes, found)


def parts(fleet: Fleet) -> list[float]:
    """Return the MB of each part of the worker now."""
    sums = dict.fromkeys(PARTS, 0.0)
    for pid, part in worker_processes(fleet).items():
        sums[part] += pss(pid)
    return list(sums.values())


def pss(pid: int) -> float:
    """Return the MB of one process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / _MB
    raise ValueError(f"expected a line Pss in /proc/{pid}/smaps_rollup, got none")


def report(setting: Setting, sizes: Sequence[int], found: dict[int, list[list[float]]]) -> Report:
    """Report medians of the samples."""
    middle = {n: [statistics.median(column) for column in zip(*found[n], strict=True)] for n in sizes}
    totals = {n: sum(middle[n]) for n in sizes}
    further: dict[int, float | None] = dict.fromkeys(sizes)
    for fewer, more in itertools.pairwise(sizes):
        further[more] = (totals[more] - totals[fewer]) / (more - fewer)
    largest = max(value for value in further.values() if value is not None)
    rows = tuple(
        Row(f"{n} camera{'s' if n > 1 else ''}", (*middle[n], totals[n], further[n], LIMIT)) for n in sizes
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
        checks=(Check("most memory of a further camera", largest, LIMIT, "MB"),),
        rounds={f"worker with {n} cameras, MB": [sum(sample) for sample in found[n]] for n in sizes},
    )
