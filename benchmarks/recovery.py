"""Time until all pipelines run again after one process was killed. The limit is 10 seconds.

The clock starts at the kill (SIGKILL). It ends when a prediction captured after the kill was received from
every pipeline through the relay, and the API responds. Three live pipelines run on two workers; each kind of
process is killed several times. The order keys of received predictions must always increase.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.fleets import delete_all, names, put, relay_of, running
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fleet.harness import Fleet, Subscriber, rises, wait_for

LIMIT = 10.0  # seconds
ROUNDS = 5
PIPELINES = 3
PROCESSES = ("camera", "engine", "publisher", "sf-agent", "sf-broker", "sf-api")


def run(setting: Setting) -> Report:
    """Kill each kind of process."""
    processes = setting.pick(PROCESSES, PROCESSES[:1])
    rounds: dict[str, list[float]] = {}
    rising: dict[str, bool] = {}
    with running(setting, workers=2) as fleet:
        for process in processes:
            rounds[process], rising[process] = kills(fleet, setting, process, setting.rounds_of(ROUNDS))
    return report(setting, rounds, rising)


def kills(fleet: Fleet, setting: Setting, process: str, count: int) -> tuple[list[float], bool]:
    """Return the seconds of each round, and whether the order keys of every pipeline always increased."""
    subscriber = Subscriber(relay_of(fleet))
    pipeline_ids = names(PIPELINES)
    took = []
    try:
        for pipeline_id in pipeline_ids:
            put(fleet, pipeline_id, setting.live)
        for pipeline_id in pipeline_ids:
            subscriber.wait_for(pipeline_id, 3)
        for _ in range(count):
            killed_at, moment_ns = time.monotonic(), time.time_ns()
            fleet.kill(process)
            until_running(fleet, subscriber, pipeline_ids, moment_ns)
            took.append(time.monotonic() - killed_at)
        return took, all(rises(subscriber.keys(pipeline_id)) for pipeline_id in pipeline_ids)
    finally:
        subscriber.close()
        delete_all(fleet)


def until_running(fleet: Fleet, subscriber: Subscriber, pipeline_ids: Sequence[str], moment_ns: int) -> None:
    """Wait until every pipeline has sent a prediction captured after a moment, and the API responds."""
    wait_for(
        lambda: all(newer(subscriber, each, moment_ns) for each in pipeline_ids), "predictions", timeout=60
    )
    wait_for(fleet.ready, "the API", timeout=60)


def newer(subscriber: Subscriber, pipeline_id: str, moment_ns: int) -> bool:
    """Return whether a prediction was received that was captured after that moment."""
    received = subscriber.of(pipeline_id)
    return bool(received) and received[-1][0].captured_wall_ns > moment_ns


def report(setting: Setting, rounds: dict[str, list[float]], rising: dict[str, bool]) -> Report:
    """Report medians and maxima."""
    rows = tuple(
        Row(name, (statistics.median(took), max(took), LIMIT, "yes" if rising[name] else "NO"))
        for name, took in rounds.items()
    )
    columns = (
        Column("median", "s", 2),
        Column("max", "s", 2),
        Column("limit", "s", 0),
        Column("keys increase"),
    )
    return Report(
        name="recovery",
        title=f"Recovery after kill -9: {PIPELINES} pipelines on 2 workers",
        sizes={
            "pipelines": PIPELINES,
            "workers": 2,
            "rounds": len(next(iter(rounds.values()))),
            "model": setting.model_name,
            "source": setting.live_name,
        },
        tables=(Table("seconds", columns, rows),),
        charts=(
            Bars(
                "Kill until every pipeline predicts again (lower is better)",
                "seconds",
                tuple(rounds),
                (
                    Series("median", tuple(statistics.median(took) for took in rounds.values())),
                    Series("max", tuple(max(took) for took in rounds.values())),
                ),
                limit=LIMIT,
                digits=2,
            ),
        ),
        checks=(
            *(Check(f"{name}, worst round", max(took), LIMIT, "s") for name, took in rounds.items()),
            Check(
                "kinds of process after which order keys increase",
                sum(rising.values()),
                len(rising),
                "",
                at_least=True,
            ),
        ),
        rounds={f"{name}, s": took for name, took in rounds.items()},
    )
