"""Faults of processes, devices, networks, cameras and the store: how soon the fleet copes.

Two workers with keys of their own are started beside the fleet, as on other machines, and take what is
labelled for them. Each fault is done to real processes; the modules `of_…` say how, and `catalogue` what must
hold. Clocks run from the fault to an event of the fleet, or to a prediction that was captured after it.

Rounds are remembered in `rounds.jsonl` of the results, and a run goes on where the last one ended: with
`--seconds` after some minutes, with `--again` from the beginning. `--faults F2,F9` chooses some.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.faults.catalogue import ELSEWHERE, FAULTS, QUICK, Fault, Place
from benchmarks.faults.of_devices import Figures
from benchmarks.faults.stage import Stage
from benchmarks.machine import commit
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting

ROUNDS = "rounds.jsonl"


def run(setting: Setting) -> Report:
    """Do the rounds that are left, of all faults or of those that were chosen."""
    named = setting.faults or setting.pick((), QUICK)
    chosen = [each for each in FAULTS if not named or each.name in named]
    memory = Memory(
        None if setting.quick else setting.memory,
        forget=[each.name for each in chosen] if setting.again else [],
    )
    end = time.monotonic() + setting.seconds
    failed: dict[str, str] = {}
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
                except AssertionError as exc:  # something did not come: the next fault needs a fresh fleet
                    failed[fault.name] = str(exc).partition("\n")[0]
                    print(f"{fault.name}: {failed[fault.name]}", flush=True)
                    stack.close()
                    stage = None
                    break
                memory.note(fault.name, figures)
                print(
                    f"{fault.name}: {', '.join(f'{what} {value:.2f}' for what, value in figures.items())}",
                    flush=True,
                )
    return report(setting, [each for each in chosen if memory.rounds[each.name]], memory.rounds, failed)


class Memory:
    """The rounds that were done, one in each line of a file. None: they are forgotten at the end."""

    def __init__(self, path: Path | None, *, forget: Sequence[str] = ()) -> None:
        self._path = path
        self.rounds: dict[str, list[Figures]] = defaultdict(list)
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        kept = [line for line in lines if json.loads(line)["fault"] not in forget]
        if path is not None and len(kept) < len(lines):
            path.write_text("".join(f"{line}\n" for line in kept))
        for line in kept:
            known = json.loads(line)
            self.rounds[known["fault"]].append(known["figures"])

    def note(self, fault: str, figures: Figures) -> None:
        """Remember a round."""
        self.rounds[fault].append(figures)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"fault": fault, "figures": figures, "commit": commit()}) + "\n")


def measured(fault: Fault, rounds: Sequence[Figures]) -> dict[str, list[float]]:
    """All values of a fault, by what was measured."""
    names = dict.fromkeys([*fault.limits, *(name for figures in rounds for name in figures)])
    return {name: [figures[name] for figures in rounds if name in figures] for name in names}


def report(
    setting: Setting, faults: Sequence[Fault], rounds: dict[str, list[Figures]], failed: dict[str, str]
) -> Report:
    """Report medians and maxima beside the limits. `failed`: why rounds had no end, by fault."""
    found = [(each, measured(each, rounds[each.name])) for each in faults]
    rows = tuple(
        Row(
            f"{fault.name} {fault.what}: {what}",
            (len(values), statistics.median(values), max(values), fault.limits.get(what)),
        )
        for fault, figures in found
        for what, values in figures.items()
    )
    columns = (
        Column("rounds", "", 0),
        Column("median", "", 2),
        Column("max", "", 2),
        Column("limit", "", 1),
    )
    timed = {
        f"{fault.name} {what}": values
        for fault, figures in found
        for what, values in figures.items()
        if fault.limits.get(what, 0) > 1
    }
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
            Check(f"{fault.name}, {what}", max(figures[what]), limit, "")
            for fault, figures in found
            for what, limit in fault.limits.items()
        )
        + tuple(Check(f"{name} did not end: {why}", 1.0, 0.0, "") for name, why in failed.items()),
        rounds={
            f"{fault.name}, {what}": values for fault, figures in found for what, values in figures.items()
        },
        notes=ELSEWHERE,
    )
