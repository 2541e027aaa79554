"""Time from `PUT /v2/pipelines/{id}` to the first prediction at a connected receiver.

The clock starts before the request is sent and stops when the first message of that pipeline is read, from
a UDP socket and from a SUB socket at the broker. Warm: another pipeline with the same model runs. Cold: it
is the first pipeline of its model, and the engine was stopped before; the device already has the file. Each
round starts a new pipeline on a live source and deletes it.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.fleets import delete, delete_all, names, put, relay_of, running
from benchmarks.receiver import UDP, Receiver, boot_ns, pipeline_of
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fleet.harness import Fleet, wait_for

LIMIT = 1.5  # seconds, warm
ROUNDS = 10
SUB = "SUB at the broker"
WAYS = (UDP, SUB)
WARM, COLD = "warm", "cold"
_PAUSE = 0.5  # seconds between two rounds, so that they do not overlap


def run(setting: Setting) -> Report:
    """Measure warm rounds, then cold rounds."""
    rounds: dict[str, list[float]] = {f"{state}, {way}": [] for state in (WARM, COLD) for way in WAYS}
    with running(setting) as fleet, Receiver({SUB: relay_of(fleet)}) as receiver:
        first_prediction(fleet, setting, receiver)  # keeps the engine running
        for _ in range(setting.rounds_of(ROUNDS)):
            record(rounds, WARM, first_prediction(fleet, setting, receiver, ends=True))
        for _ in range(setting.rounds_of(ROUNDS)):
            delete_all(fleet)
            fleet.kill("engine")
            wait_for(lambda: not fleet.pids("engine"), "the end of the engine")
            time.sleep(_PAUSE)
            record(rounds, COLD, first_prediction(fleet, setting, receiver))
    return report(setting, rounds)


def first_prediction(
    fleet: Fleet, setting: Setting, receiver: Receiver, *, ends: bool = False
) -> dict[str, float]:
    """Start a pipeline and return the seconds until its first prediction, by way."""
    (pipeline_id,) = names(1)
    begin, started_ns = len(receiver.arrivals), boot_ns()
    put(fleet, pipeline_id, setting.live, port=receiver.port)

    def received() -> dict[str, float]:
        found: dict[str, float] = {}
        for arrival in receiver.arrivals[begin:]:
            if pipeline_of(arrival) == pipeline_id:
                found.setdefault(arrival.way, (arrival.at_ns - started_ns) / 1e9)
        return found

    wait_for(lambda: len(received()) == len(WAYS), "a first prediction on both ways", every=0.1)
    if ends:
        delete(fleet, pipeline_id)
        wait_for(lambda: len(fleet.pids("camera")) == 1, "the end of the camera")
        time.sleep(_PAUSE)
    return received()


def record(rounds: dict[str, list[float]], state: str, found: dict[str, float]) -> None:
    """Record the results of one round."""
    for way, seconds in found.items():
        rounds[f"{state}, {way}"].append(seconds)


def report(setting: Setting, rounds: dict[str, list[float]]) -> Report:
    """Report medians and maxima."""
    rows = tuple(
        Row(name, (statistics.median(values), max(values), LIMIT if name.startswith(WARM) else None))
        for name, values in rounds.items()
    )
    columns = (Column("median", "s", 3), Column("max", "s", 3), Column("limit", "s", 1))
    warm = max(statistics.median(rounds[f"{WARM}, {way}"]) for way in WAYS)
    return Report(
        name="start",
        title=f"From PUT to the first prediction: {setting.model_name}, {setting.live_name}",
        sizes={
            "rounds": len(rounds[f"{WARM}, {UDP}"]),
            "model": setting.model_name,
            "source": setting.live_name,
        },
        tables=(Table("seconds", columns, rows),),
        charts=(
            Bars(
                "PUT to first prediction (lower is better)",
                "seconds",
                tuple(rounds),
                (
                    Series("median", tuple(statistics.median(values) for values in rounds.values())),
                    Series("max", tuple(max(values) for values in rounds.values())),
                ),
                limit=LIMIT,
                limit_name="limit, warm",
                digits=2,
            ),
        ),
        checks=(Check("warm start, median", warm, LIMIT, "s"),),
        rounds={f"{name}, s": values for name, values in rounds.items()},
    )
