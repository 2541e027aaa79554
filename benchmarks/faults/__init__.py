"""Faults of processes, devices, networks, cameras and the store: how soon the fleet copes.

Two workers with keys of their own are started beside the fleet, as on other machines, and take what is
labelled for them. Each fault is done to real processes; the modules `of_…` say how, and `catalogue` what must
hold. Clocks run from the fault to an event of the fleet, or to a prediction that was captured after it.

Rounds are remembered in `rounds.jsonl` of the results, and a run goes on where the last one ended: with
`--seconds` after some minutes, with `--again` from the beginning. `--faults F2,F9` chooses some, and
`--seconds 0` only makes the table of what was done.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.faults.catalogue import ELSEWHERE, FAULTS, QUICK, Fault, Place
from benchmarks.faults.of_devices import Figures
from benchmarks.faults.stage import Stage
from benchmarks.machine import commit
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting

ROUNDS = "rounds.jsonl"

# How a round ends that does not show what it should: something did not happen in time, was answered wrongly,
# or a process is not there.
_NO_END = (AssertionError, ValueError, httpx.HTTPError, subprocess.SubprocessError)


def run(setting: Setting) -> Report:
    """Do the rounds that are left, of all faults or of those that were chosen."""
    named = setting.faults or setting.pick((), QUICK)
    chosen = [each for each in FAULTS if not named or each.name in named]
    memory = Memory(
        None if setting.quick else setting.memory,
        forget=[each.name for each in chosen] if setting.again else [],
    )
    end = time.monotonic() + setting.seconds
    with ExitStack() as stack:
        at: Place | None = None
        stage: Stage | None = None
        for fault in chosen:
            while len(memory.rounds[fault.name]) < setting.rounds_of(fault.rounds) and time.monotonic() < end:
                if stage is None or at is not fault.place:
                    stack.close()  # the other one
                    stage, at = stack.enter_context(fault.place(setting)), fault.place
                try:
                    figures = fault.cause(stage)
                except _NO_END as exc:  # the next fault needs a fresh fleet
                    why = str(exc).partition("\n")[0]
                    memory.note_failure(fault.name, why)
                    print(f"{fault.name}: {why}", flush=True)
                    stack.close()
                    stage = None
                    break
                memory.note(fault.name, figures)
                print(
                    f"{fault.name}: {', '.join(f'{what} {value:.2f}' for what, value in figures.items())}",
                    flush=True,
                )
    return report(setting, chosen, memory)


class Memory:
    """The rounds that were done, one in each line of a file. None: they are forgotten at the end."""

    def __init__(self, path: Path | None, *, forget: Sequence[str] = ()) -> None:
        self._path = path
        self.rounds: dict[str, list[Figures]] = defaultdict(list)
        self.failures: dict[str, list[str]] = defaultdict(list)  # why rounds did not end
        self.commits: dict[str, Counter[str]] = defaultdict(Counter)  # rounds, by what was measured
        self.loads: dict[str, list[float]] = defaultdict(list)  # of the minute in which a round ended
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        kept = [line for line in lines if json.loads(line)["fault"] not in forget]
        if path is not None and len(kept) < len(lines):
            path.write_text("".join(f"{line}\n" for line in kept))
        for line in kept:
            self._take(json.loads(line))

    def note(self, fault: str, figures: Figures) -> None:
        """Remember a round."""
        self._note({"fault": fault, "figures": figures})

    def note_failure(self, fault: str, why: str) -> None:
        """Remember a round that did not end."""
        self._note({"fault": fault, "failed": why})

    def _note(self, known: dict[str, Any]) -> None:
        known |= {"commit": commit(), "load": round(os.getloadavg()[0], 2)}
        self._take(known)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(known) + "\n")

    def _take(self, known: dict[str, Any]) -> None:
        if "failed" in known:
            self.failures[known["fault"]].append(known["failed"])
            return
        self.rounds[known["fault"]].append(known["figures"])
        self.commits[known["fault"]][known["commit"]] += 1
        if "load" in known:
            self.loads[known["fault"]].append(known["load"])


def measured(fault: Fault, rounds: Sequence[Figures]) -> dict[str, list[float]]:
    """All values of a fault, by what was measured."""
    names = dict.fromkeys([*fault.limits, *(name for figures in rounds for name in figures)])
    return {name: [figures[name] for figures in rounds if name in figures] for name in names}


def report(setting: Setting, faults: Sequence[Fault], memory: Memory) -> Report:
    """Report medians and maxima beside the limits, and of how many rounds. What never ran is told, too."""
    found = [(each, measured(each, memory.rounds[each.name])) for each in faults]
    rows = tuple(
        Row(
            f"{fault.name} {fault.what}: {what}",
            (
                f"{len(values)} of {setting.rounds_of(fault.rounds)}",
                statistics.median(values) if values else None,
                max(values, default=None),
                fault.limits.get(what),
                max(memory.loads[fault.name], default=None),
            ),
        )
        for fault, figures in found
        for what, values in figures.items()
    )
    columns = (
        Column("rounds"),
        Column("median", "", 2),
        Column("max", "", 2),
        Column("limit", "", 1),
        Column("load, max", "", 1),
    )
    timed = {
        f"{fault.name} {what}": values
        for fault, figures in found
        for what, values in figures.items()
        if values and fault.limits.get(what, 0) > 1
    }
    counted = sum((memory.commits[each.name] for each in faults), Counter[str]())
    commits = ", ".join(f"{name} ({count})" for name, count in counted.items())
    return Report(
        name="faults",
        title="Faults: seconds until the fleet copes, and what is counted",
        sizes={"devices": 3, "model": setting.model_name, "source": setting.live_name},
        tables=(Table("fault", columns, rows),),
        charts=(
            Bars(
                "From the fault on (lower is better)",
                "seconds",
                tuple(timed),
                (
                    Series("median", tuple(statistics.median(values) for values in timed.values())),
                    Series("max", tuple(max(values) for values in timed.values())),
                ),
                digits=1,
            ),
        ),
        checks=tuple(
            Check(f"{fault.name}, {what}, of {len(figures[what])}", max(figures[what]), limit, "")
            for fault, figures in found
            for what, limit in fault.limits.items()
            if figures[what]
        )
        + tuple(
            Check(f"{each.name}, rounds without an end (the last one: {why[-1]})", len(why), 0.0, "")
            for each in faults
            if (why := memory.failures[each.name])
        ),
        rounds={
            f"{fault.name}, {what}": values for fault, figures in found for what, values in figures.items()
        },
        notes=(f"Rounds by commit: {commits or 'none'}.", *ELSEWHERE),
    )
