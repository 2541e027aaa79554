"""Complete predictions: everything that was made arrives once and in order, or is told to be gone, and why.

Stand-in cameras number what they make and write it down; agent, publisher, broker and subscriber are real
processes. Two devices have two pipelines each: one that continues without the broker, and one that moves.
Their subscriber has a checkpoint in a file. Meanwhile:

- 5 % of all messages to it are lost, whatever they are: predictions, replays, answers
- the broker is away for as many predictions as an hour of a camera with 10 a second
- three times a device is killed with all of its processes, and starts again when another has its pipeline
- the subscriber is killed 20 times, with SIGKILL

At the end the cameras pause, and what was made is compared with what the subscriber got. An hour is shortened
by the rate of the cameras, which make as many predictions as one with 10 a second in an hour: number and
bytes are those of an hour, the age limit of devices is not reached.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.completeness.account import Account, Key, Told, account, spans
from benchmarks.completeness.lossy_relay import forward
from benchmarks.completeness.worker import MADE
from benchmarks.fleets import MODEL_ID, relay_of
from benchmarks.processes import child, receive
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table
from benchmarks.setting import Setting
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fleet.edge import Edge
from tests.fleet.harness import READY, Fleet, wait_for

LOSS = 0.05
KILLS = 20
FAILOVERS = 3
RATE = 200  # predictions a second of a pipeline that continues
MOVING_RATE = 10  # of a pipeline that moves
HOUR = 36_000  # predictions of one camera with 10 a second
_MOMENT = 1000  # the same of a quick run
AWAY = 60.0  # seconds after which the subscriber gives a silent device up: one that died is back by then
_PAUSE = (2.0, 5.0)  # seconds between two kills of the subscriber
_QUIET = 15.0  # seconds without anything new at the end: a subscriber asks after 5
_WAIT = 600.0  # seconds for the subscriber to get all of an outage
_KEEP = ("--keep-disk", str(2**30))
_LABEL = {"kind": "numbered"}
_CAUSES = ("unwritten", "away", "restart", "size", "age", "reset")


@dataclass(slots=True)
class Found:
    """What happened."""

    accounts: dict[str, Account] = field(default_factory=dict)  # by pipeline
    lost: dict[str, int] = field(default_factory=dict)  # messages on the way to the subscriber, by kind
    least: int = 0  # predictions that are to be made without the broker
    outage: float = 0.0  # seconds
    made_meanwhile: int = 0
    caught_up: float = 0.0  # seconds after it
    kills: int = 0  # of the subscriber
    failovers: list[float] = field(default_factory=list)  # seconds until the first prediction elsewhere


def run(setting: Setting) -> Report:
    """Let all of it happen once."""
    least = setting.pick(HOUR, _MOMENT)
    failovers, kills = setting.pick(FAILOVERS, 1), setting.pick(KILLS, 2)
    return report(happen(setting, least=least, failovers=failovers, kills=kills))


def happen(setting: Setting, *, least: int, failovers: int, kills: int) -> Found:
    """Run the devices, the faults and the subscriber, and make up the accounts."""
    found = Found(least=least)
    with short_folder() as folder, fleet_in(folder) as fleet, edges(fleet, folder) as both:
        fleet.add_model(MODEL_ID, setting.model, *setting.model_options)
        pipelines = start_pipelines(fleet, both)
        with lossy(fleet, folder) as loss, Program(folder, pipelines) as program:
            program.read_until(lambda: len(program.newest) == len(pipelines), "a prediction of each")
            with program.killed(kills):
                lose_broker(fleet, folder, program, found)
                print(f"  outage {found.outage:.0f} s, caught up {found.caught_up:.0f} s", flush=True)
                for number in range(failovers):
                    found.failovers.append(fail_over(fleet, both, folder, number))
                    print(f"  elsewhere after {found.failovers[-1]:.1f} s", flush=True)
                program.read_until(lambda: program.kills == kills, "the kills")
            for pipeline_id in pipelines:
                fleet.http.post(f"/v2/pipelines/{pipeline_id}/pause").raise_for_status()
            settle(folder, program)
            loss.send("how many?")
            found.lost, found.kills = receive(loss), program.kills
        made = read_made(folder)
        found.accounts = {each: account(made[each], program.got[each]) for each in pipelines}
    return found


# parts ----------------------------------------------------------------------------------------------------


@contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """A fleet without workers of its own."""
    for name in ("home", "made", "lossy/broker"):
        (folder / name).mkdir(parents=True)
    fleet = Fleet(folder / "home", workers=0)
    fleet.environment |= {MADE: str(folder / "made"), "PYTHONPATH": str(ROOT)}
    try:
        fleet.launch()
        wait_for(lambda: READY in fleet.log(), fleet.log)  # no device of it is ready yet
        yield fleet
    finally:
        fleet.stop()


@contextmanager
def edges(fleet: Fleet, folder: Path) -> Iterator[tuple[Edge, Edge]]:
    """Two devices with stand-in cameras."""
    program = (sys.executable, "-m", "benchmarks.completeness.worker")
    both = (
        Edge(fleet, "edge-1", folder / "1", program=program),
        Edge(fleet, "edge-2", folder / "2", program=program),
    )
    try:
        for edge in both:
            token = fleet.cli("devices", "add", edge.name, "--token-only").stdout.strip()
            edge.start("--join", token, *_KEEP)
            await_ready(fleet, edge)
            fleet.http.patch(f"/v2/devices/{edge.name}", json={"labels": _LABEL}).raise_for_status()
        yield both
    finally:
        for edge in both:
            edge.kill()


@contextmanager
def lossy(fleet: Fleet, folder: Path) -> Iterator[Connection]:
    """The relay as the subscriber reaches it, with losses."""
    target = f"ipc://{folder}/lossy/broker/predictions.ipc"
    with child(forward, relay_of(fleet), target, LOSS, 1) as connection:
        assert receive(connection) == "ready"
        yield connection


def start_pipelines(fleet: Fleet, both: tuple[Edge, Edge]) -> list[str]:
    """One that stays on each device, and one that moves between them."""
    fixed: dict[str, Any] = {
        f"stays-{each.name}": {"device": each.name, "on_disconnect": "continue"} for each in both
    }
    moving: dict[str, Any] = {f"moves-{number}": {"selector": _LABEL} for number in (1, 2)}
    for pipeline_id, fields in (fixed | moving).items():
        rate = RATE if pipeline_id in fixed else MOVING_RATE
        body = {"model": MODEL_ID, "sources": [f"rtsp://camera.example/{rate}"], **fields}
        fleet.http.put(f"/v2/pipelines/{pipeline_id}", json=body).raise_for_status()
    return [*fixed, *moving]


class Program:
    """The subscriber: a process that is killed and started again, and what it has written down."""

    def __init__(self, folder: Path, pipelines: list[str]) -> None:
        self.got: defaultdict[str, list[Key | Told]] = defaultdict(list)
        self.newest: dict[str, Key] = {}
        self.kills = 0
        self._output = folder / "got"
        self._checkpoint = folder / "checkpoint"
        self._command = [sys.executable, "-m", "benchmarks.completeness.subscriber", str(folder / "lossy")]
        self._command += [str(self._checkpoint), str(AWAY), *pipelines]
        self._read = 0
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()

    def __enter__(self) -> Program:
        self._start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._kill()

    @contextmanager
    def killed(self, count: int) -> Iterator[None]:
        """Kill it so many times, at uneven intervals, while the block runs."""
        thread = threading.Thread(target=self._keep_killing, args=(count,), name="killer")
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def read_until(self, condition: Any, what: str, timeout: float = _WAIT) -> None:
        """Read what it writes until a condition is true."""

        def reached() -> bool:
            self.read()
            return bool(condition())

        wait_for(reached, what, timeout=timeout)

    def read(self) -> int:
        """Read what it has written since. Returns the number of new lines."""
        with self._output.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        self._read += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return len(lines)

    def _take(self, value: Any) -> None:
        if isinstance(value, list):
            pipeline_id, generation, incarnation, sequence = value
            key = (generation, incarnation, sequence)
            self.newest[pipeline_id] = key
            self.got[pipeline_id].append(key)
        else:
            self.got[value.pop("pipeline_id")].append(Told(**value))

    def _keep_killing(self, count: int) -> None:
        short, long = _PAUSE
        while self.kills < count:
            size = self._output.stat().st_size
            self._ending.wait(short + (long - short) * (self.kills % 5) / 4)
            if self._ending.is_set():
                return
            if self._output.stat().st_size > size:  # it has begun to work
                self._kill()
                self.kills += 1
                self._start()

    def _start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=output, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE)


# faults ---------------------------------------------------------------------------------------------------


def lose_broker(fleet: Fleet, folder: Path, program: Program, found: Found) -> None:
    """Kill the broker, and let nothing start it until the cameras have made much.

    Then wait until the subscriber has caught up.
    """
    assert fleet.process is not None
    before = count_made(folder)
    fleet.process.send_signal(signal.SIGSTOP)  # who would start it again
    fleet.kill("sf-broker")
    began = time.monotonic()
    try:
        wait_for(lambda: count_made(folder) - before >= found.least, "predictions", timeout=_WAIT, every=0.5)
    finally:
        fleet.process.send_signal(signal.SIGCONT)
    found.outage, found.made_meanwhile = time.monotonic() - began, count_made(folder) - before
    began = time.monotonic()
    program.read_until(lambda: is_current(folder, program), "what was made meanwhile")
    found.caught_up = time.monotonic() - began


def fail_over(fleet: Fleet, both: tuple[Edge, Edge], folder: Path, number: int) -> float:
    """Kill the device that runs a pipeline. Returns the seconds until another one's first prediction."""
    pipeline_id = f"moves-{1 + number % 2}"
    name = holder_of(fleet, pipeline_id)
    edge = next(each for each in both if each.name == name)
    generation = last_made(folder)[pipeline_id][0]
    began = time.monotonic()
    edge.kill()
    wait_for(lambda: holder_of(fleet, pipeline_id) not in (name, None), "another device", timeout=_WAIT)
    # Not that of the subscriber, who waits for what the dead device has.
    wait_for(lambda: last_made(folder)[pipeline_id][0] > generation, "a prediction elsewhere", timeout=_WAIT)
    took = time.monotonic() - began
    edge.start(*_KEEP)
    await_ready(fleet, edge)
    return took


def is_current(folder: Path, program: Program) -> bool:
    """Whether the subscriber has all but the last second."""
    newest = last_made(folder)
    return all(
        program.newest[each][:2] == key[:2] and key[2] - program.newest[each][2] < RATE
        for each, key in newest.items()
    )


def settle(folder: Path, program: Program) -> None:
    """Wait until nothing more arrives."""
    quiet_since, known = time.monotonic(), -1
    until = time.monotonic() + _WAIT
    while time.monotonic() - quiet_since < _QUIET and time.monotonic() < until:
        now = count_made(folder)
        if program.read() or now != known:
            quiet_since, known = time.monotonic(), now
        time.sleep(0.2)


def holder_of(fleet: Fleet, pipeline_id: str) -> str | None:
    """The device of a pipeline."""
    device: str | None = fleet.http.get(f"/v2/pipelines/{pipeline_id}").json()["device"]
    return device


def await_ready(fleet: Fleet, edge: Edge) -> None:
    """Wait until a device is ready."""
    path = f"/v2/devices/{edge.name}"
    wait_for(lambda: fleet.http.get(path).json().get("state") == "ready", edge.name, timeout=_WAIT)


# what was made --------------------------------------------------------------------------------------------


def count_made(folder: Path) -> int:
    """The number of predictions."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "made").iterdir())


def last_made(folder: Path) -> dict[str, Key]:
    """The last prediction of each pipeline."""
    found: dict[str, Key] = {}
    for path in (folder / "made").iterdir():
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            lines = file.read().splitlines()
        if not lines:  # its camera has just started
            continue
        generation, incarnation, sequence = map(int, lines[-1].split())
        pipeline_id = path.name.split("@")[0]
        found[pipeline_id] = max(found.get(pipeline_id, (0, 0, 0)), (generation, incarnation, sequence))
    return found


def read_made(folder: Path) -> dict[str, dict[Key, str]]:
    """By pipeline: the keys of all predictions, and the device of each."""
    made: defaultdict[str, dict[Key, str]] = defaultdict(dict)
    for path in (folder / "made").iterdir():
        pipeline_id, device = path.name.split("@")
        for line in path.read_bytes().splitlines():
            generation, incarnation, sequence = map(int, line.split())
            made[pipeline_id][generation, incarnation, sequence] = device
    return made


# report ---------------------------------------------------------------------------------------------------


def report(found: Found) -> Report:
    """Report the accounts, and check that they are even."""
    accounts = found.accounts
    rows = tuple(Row(name, _cells(each)) for name, each in accounts.items())
    columns = (
        *(Column(title, "", 0) for title in ("made", "delivered", *_CAUSES)),
        *(Column(title, "", 0) for title in ("unexplained", "doubled", "misplaced", "repeated")),
    )
    facts = {
        "messages lost on the way": sum(found.lost.values()),
        "seconds without the broker": found.outage,
        "predictions meanwhile": found.made_meanwhile,
        "seconds to catch up": found.caught_up,
        "kills of the subscriber": found.kills,
        "deaths of a device": len(found.failovers),
        "worst seconds until a prediction elsewhere": max(found.failovers),
    }
    wrong = {
        "predictions neither delivered nor told to be gone": sum(
            len(each.unexplained) for each in accounts.values()
        ),
        "delivered twice": sum(each.doubled for each in accounts.values()),
        "delivered before an earlier one": sum(each.misplaced for each in accounts.values()),
        "delivered and never made": sum(each.foreign for each in accounts.values()),
        "told to be gone, and not": sum(each.told_falsely for each in accounts.values()),
    }
    repeated = sum(each.repeated for each in accounts.values())
    left = [f"{name}: {spans(each.unexplained)}" for name, each in accounts.items() if each.unexplained]
    return Report(
        name="complete",
        title="Complete predictions: outage, losses, deaths of devices, and a subscriber that is killed",
        sizes={"loss": LOSS, "rates": [RATE, MOVING_RATE], "patience": AWAY, "lost": found.lost},
        tables=(
            Table("predictions", columns, rows),
            Table(
                "faults", (Column("", "", 0),), tuple(Row(name, (value,)) for name, value in facts.items())
            ),
        ),
        charts=(
            Bars(
                "What became of what was made",
                "predictions",
                tuple(accounts),
                (
                    Series("delivered", tuple(float(each.delivered) for each in accounts.values())),
                    Series(
                        "told to be gone", tuple(float(sum(each.gone.values())) for each in accounts.values())
                    ),
                ),
                stacked=True,
                digits=0,
            ),
        ),
        checks=(
            *(Check(name, count, 0, "") for name, count in wrong.items()),
            Check("repeated after a kill: the one it was working on", repeated, found.kills, ""),
            Check(
                "predictions made without the broker", found.made_meanwhile, found.least, "", at_least=True
            ),
        ),
        rounds={"failover, s": found.failovers},
        notes=tuple(left),
    )


def _cells(each: Account) -> tuple[int, ...]:
    causes = tuple(each.gone.get(cause, 0) for cause in _CAUSES)
    return (
        *(each.made, each.delivered, *causes),
        *(len(each.unexplained), each.doubled, each.misplaced, each.repeated),
    )
