"""A worker that a person started once: its agent is back after whatever happens to it, and ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker, Process, Worker, wait_for
from tests.fakes.ports_and_folders import open_to_others

# An agent that turns until a file tells it what to do, and a watchdog that is less patient.
AGENT = """
import os, select, sys, time
from pathlib import Path
from streamfleet_worker import watchdog

watchdog.HANG_TIMEOUT, watchdog.FIRST_PAUSE = 1.0, 0.05
folder = Path(sys.argv[1])
watch = watchdog._watch

def watch_late(agent, stop):
    if (folder / "late").exists():  # stand still until it has ended
        select.select([agent.pidfd], [], [])
    return watch(agent, stop)

watchdog._watch = watch_late
turned = watchdog.supervise()
if isinstance(turned, int):
    sys.exit(turned)
with (folder / "starts").open("a") as starts:
    print(os.getpid(), file=starts)
while not (folder / "quiet").exists():
    turned()
    (folder / "turned").touch()
    if (folder / "end").exists():
        sys.exit(int((folder / "end").read_text()))
    time.sleep(0.05)
time.sleep(600)
"""


class Watched(Process):
    def __init__(self, folder: Path) -> None:
        super().__init__([sys.executable, "-c", AGENT, str(folder)], folder / "log")
        self._starts = folder / "starts"

    @property
    def agents(self) -> list[int]:
        """The pids of all agents so far."""
        return [int(pid) for pid in self._starts.read_text().split()] if self._starts.exists() else []


@pytest.fixture
def watched(folder: Path) -> Iterator[Watched]:
    watched = Watched(folder)
    watched.start()
    wait_for(lambda: watched.agents and (folder / "turned").exists(), "an agent that turns")
    yield watched
    watched.kill()
    wait_for(lambda: not watched.family(), "no process is left")


def test_the_agent_of_a_real_worker_is_back_after_a_kill(folder: Path, broker: Broker) -> None:
    worker = Worker(folder, "w", "--join", broker.token("edge-1"), program="streamfleet_worker")
    before = os.umask(0)
    worker.start()
    os.umask(before)
    try:
        wait_for(lambda: broker.device("edge-1").state == "ready", "the device is ready")
        wait_for(lambda: worker.children("publisher"), "its publisher")
        assert open_to_others(worker.data) == []  # (S8)
        (agent,) = worker.children("sf-agent")

        os.kill(agent, signal.SIGKILL)

        wait_for(lambda: worker.children("sf-agent") not in ([], [agent]), "another agent")
        wait_for(lambda: broker.device("edge-1").state == "ready", "the device is ready again")
        worker.send(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
        wait_for(lambda: not worker.family(), "no process is left")
        log = worker.log.read_text()
        assert "WARNING worker: the agent was killed (SIGKILL), restarts in 0.5 s" in log
        assert "INFO agent: edge-1: session with the broker" in log
    finally:
        worker.kill()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGSTOP])
def test_an_agent_that_ends_or_hangs_is_started_again(watched: Watched, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # where this machine stood still, it has hung already
        os.kill(watched.agents[0], number)

    wait_for(lambda: len(watched.agents) >= 2, "a second agent")
    wait_for(lambda: not Path(f"/proc/{watched.agents[0]}").exists(), "the first one has ended")


def test_an_agent_that_does_not_turn_is_killed(watched: Watched, folder: Path) -> None:
    (folder / "quiet").touch()

    wait_for(lambda: len(watched.agents) >= 2, "a second agent")

    assert "the agent has not responded for 1 s and is killed" in watched.log.read_text()


def test_an_agent_that_once_worked_is_started_again_whatever_it_says(watched: Watched, folder: Path) -> None:
    (folder / "end").write_text("1")

    wait_for(lambda: len(watched.agents) >= 3, "a third agent")


def test_an_agent_that_turned_once_and_ended_before_anybody_looked_is_started_again(folder: Path) -> None:
    (folder / "late").touch()
    (folder / "end").write_text("1")
    watched = Watched(folder)

    watched.start()

    try:
        wait_for(lambda: len(watched.agents) >= 2, "a second agent")
    finally:
        watched.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_both(watched: Watched, number: signal.Signals) -> None:
    watched.send(number)

    watched.wait(PATIENCE)
    wait_for(lambda: not watched.family(), "no process is left")


def test_no_agent_outlives_who_keeps_it(watched: Watched) -> None:
    watched.send(signal.SIGKILL)

    wait_for(lambda: not watched.family(), "no process is left")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--data-dir", "{folder}/d"], 1, "expected the identity of a device"),
        (["--data-dir", "{folder}/d", "--join", "nonsense"], 1, "not a join token"),
        (["--frobnicate"], 2, "--frobnicate"),
    ],
)
def test_what_is_wrong_from_the_beginning_is_said_once(
    folder: Path, options: list[str], code: int, said: str
) -> None:
    command = [sys.executable, "-m", "streamfleet_worker", *(each.format(folder=folder) for each in options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == code
    assert said in done.stderr
    assert "restarts in" not in done.stderr
