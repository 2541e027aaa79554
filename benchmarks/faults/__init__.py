"""Faults of whole devices: how soon the fleet knows, and how soon another device predicts.

Two workers with keys of their own are started beside the fleet, as on other machines, and take what is
labelled for them. Each fault is done to real processes:

- dead: every process of the device that runs the pipeline is killed (SIGKILL), as by a cut of its power. The
  clock ends at the event that it is lost, and at the first prediction of the other device.
- stopped: its agent is stopped (SIGSTOP) for 5 seconds. Nothing may move.
- room: a pipeline waits for a device, and one joins. The clock runs from the event that the device is ready
  to the event that the pipeline is on it.
- cloned: a copy of its data directory is started, too. The clock ends at the quarantine of both.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.fleets import delete_all, names, put, relay_of, running
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.edge import Edge
from tests.fleet.harness import Fleet, Subscriber, rises, wait_for

ROUNDS = 5
WAIT = 120.0  # seconds
STOPPED = 5.0  # seconds
_LABEL = {"kind": "edge"}
LIMITS = {
    "dead: lost": 10.5,
    "dead: first prediction elsewhere": 15.0,
    "stopped for 5 s: pipelines that moved": 0.0,
    "room: placed after a device is ready": 2.0,
    "cloned: quarantined": 60.0,
}


def run(setting: Setting) -> Report:
    """Do each fault in turn."""
    rounds: dict[str, list[float]] = {name: [] for name in LIMITS}
    with running(setting) as fleet, edges(fleet) as both:
        for _ in range(setting.rounds_of(ROUNDS)):
            dead(fleet, both, setting, rounds)
        for _ in range(setting.rounds_of(ROUNDS)):
            stopped(fleet, both, setting, rounds)
        for _ in range(setting.rounds_of(ROUNDS)):
            room(fleet, both, setting, rounds)
        cloned(fleet, both[0], rounds)
    return report(setting, rounds)


@contextmanager
def edges(fleet: Fleet) -> Iterator[tuple[Edge, Edge]]:
    """Two more devices with the label, until the block ends."""
    with short_folder() as folder:
        both = (Edge(fleet, "edge-1", folder / "1"), Edge(fleet, "edge-2", folder / "2"))
        try:
            for edge in both:
                edge.start("--join", fleet.cli("devices", "add", edge.name, "--token-only").stdout.strip())
                await_state(fleet, edge.name, "ready")
                answer = fleet.http.patch(f"/v2/devices/{edge.name}", json={"labels": _LABEL})
                assert answer.is_success, answer.text
            yield both
        finally:
            for edge in both:
                edge.kill()


def dead(fleet: Fleet, both: tuple[Edge, Edge], setting: Setting, rounds: dict[str, list[float]]) -> None:
    """Kill every process of the device that runs a pipeline."""
    with predicting(fleet, both, setting) as (pipeline_id, subscriber, holder, other):
        moment = time.time()
        holder.kill()
        wait_for(
            lambda: subscriber.of(pipeline_id)[-1][1]["inference_metadata"]["device"] == other.name,
            "a prediction elsewhere",
            timeout=WAIT,
        )
        rounds["dead: first prediction elsewhere"].append(time.time() - moment)
        rounds["dead: lost"].append(await_event(fleet, holder.name, ("lost",), moment) - moment)
        assert rises(subscriber.keys(pipeline_id)), "order keys increase"
    holder.start()
    await_state(fleet, holder.name, "ready")


def stopped(fleet: Fleet, both: tuple[Edge, Edge], setting: Setting, rounds: dict[str, list[float]]) -> None:
    """Stop an agent for a while that is shorter than its lease."""
    with predicting(fleet, both, setting) as (pipeline_id, subscriber, holder, _):
        holder.signal_agent(signal.SIGSTOP)
        time.sleep(STOPPED)  # the fault itself
        holder.signal_agent(signal.SIGCONT)
        await_state(fleet, holder.name, "ready")
        count = len(subscriber.of(pipeline_id))
        subscriber.wait_for(pipeline_id, count + 3, timeout=WAIT)
        moved = holder_of(fleet, pipeline_id) != holder.name
        rounds["stopped for 5 s: pipelines that moved"].append(float(moved))


def room(fleet: Fleet, both: tuple[Edge, Edge], setting: Setting, rounds: dict[str, list[float]]) -> None:
    """A pipeline waits, and then a device is there."""
    for edge in both:
        assert edge.process is not None
        edge.process.terminate()
        edge.process.wait(PATIENCE)
        await_state(fleet, edge.name, "left")
    (pipeline_id,) = names(1)
    put(fleet, pipeline_id, setting.live, selector=_LABEL)
    assert holder_of(fleet, pipeline_id) is None
    moment = time.time()
    for edge in both:
        edge.start()
    ready = min(await_event(fleet, edge.name, ("ready",), moment) for edge in both)
    placed = await_event(fleet, pipeline_id, ("starting", "running"), moment)
    rounds["room: placed after a device is ready"].append(max(0.0, placed - ready))
    for edge in both:
        await_state(fleet, edge.name, "ready")
    delete_all(fleet)


def cloned(fleet: Fleet, edge: Edge, rounds: dict[str, list[float]]) -> None:
    """Start a copy of a device, with its key."""
    copy = Edge(fleet, "copy", edge.home.parent / "copy")
    shutil.copytree(edge.home, copy.home, ignore=shutil.ignore_patterns("run", "lock"))
    moment = time.time()
    copy.start()
    try:
        at = await_event(fleet, edge.name, ("quarantined",), moment)
        rounds["cloned: quarantined"].append(at - moment)
    finally:
        copy.kill()


@contextmanager
def predicting(
    fleet: Fleet, both: tuple[Edge, Edge], setting: Setting
) -> Iterator[tuple[str, Subscriber, Edge, Edge]]:
    """A pipeline that predicts, its subscriber, the device that runs it, and the other one."""
    (pipeline_id,) = names(1)
    subscriber = Subscriber(relay_of(fleet))
    try:
        put(fleet, pipeline_id, setting.live, selector=_LABEL)
        subscriber.wait_for(pipeline_id, 3, timeout=WAIT)
        first, second = both
        is_first = holder_of(fleet, pipeline_id) == first.name
        yield (pipeline_id, subscriber, *((first, second) if is_first else (second, first)))
    finally:
        subscriber.close()
        delete_all(fleet)


def holder_of(fleet: Fleet, pipeline_id: str) -> str | None:
    """The device of a pipeline."""
    device: str | None = fleet.http.get(f"/v2/pipelines/{pipeline_id}").json()["device"]
    return device


def await_state(fleet: Fleet, name: str, state: str) -> None:
    """Wait until a device is in a state."""
    path = f"/v2/devices/{name}"
    wait_for(lambda: fleet.http.get(path).json().get("state") == state, f"{name} {state}", timeout=WAIT)


def await_event(fleet: Fleet, subject: str, states: tuple[str, ...], since: float) -> float:
    """Wait for the first event of a device or a pipeline after a moment. Unix seconds."""

    def found() -> float | None:
        events: list[dict[str, Any]] = fleet.http.get("/v2/events/recent?limit=1000").json()["events"]
        return next(
            (
                each["at"]
                for each in events
                if each["id"] == subject and each["state"] in states and each["at"] > since
            ),
            None,
        )

    look: Callable[[], float | None] = found
    return wait_for(look, f"{subject} {states}", timeout=WAIT)


def report(setting: Setting, rounds: dict[str, list[float]]) -> Report:
    """Report medians and maxima beside the limits."""
    measured = {name: values for name, values in rounds.items() if values}
    rows = tuple(
        Row(name, (len(values), statistics.median(values), max(values), LIMITS[name]))
        for name, values in measured.items()
    )
    columns = (
        Column("rounds", "", 0),
        Column("median", "s", 2),
        Column("max", "s", 2),
        Column("limit", "s", 1),
    )
    timed = {name: values for name, values in measured.items() if "moved" not in name}
    return Report(
        name="faults",
        title="Faults of whole devices",
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
                digits=2,
            ),
        ),
        checks=tuple(Check(name, max(values), LIMITS[name], "s") for name, values in measured.items()),
        rounds=dict(measured),
    )
