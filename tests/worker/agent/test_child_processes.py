"""Processes: started, heard, told, killed and reaped, and none of them outlives the agent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from streamfleet_worker.agent import child_processes
from streamfleet_worker.agent.child_processes import ChildProcesses
from streamfleet_worker.decisions.reconcile_events import ChildId, PublisherId, Report
from streamfleet_worker.ipc.child_messages import AllowSubscribers, PublisherReport, Stop, receive, send
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import wait_for

CHILD = PublisherId(1)
HERE = "tests.worker.agent.test_child_processes"
PRELOAD = ["streamfleet_worker.ipc.forkserver", HERE]


# entry points -----------------------------------------------------------------------------------------------


def polite(_config: object, connection: Connection) -> None:
    """Counts the messages that it is told, and stops when it is told so."""
    heard = 0
    while True:
        send(connection, PublisherReport(heard, 0, 0))
        if isinstance(receive(connection), Stop):
            send(connection, PublisherReport(999, 0, 0))
            return
        heard += 1


def deaf(_config: object, connection: Connection) -> None:
    send(connection, PublisherReport(0, 0, 0))
    time.sleep(600)


def crashes(_config: object, _connection: Connection) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def stops_in_the_middle_of_a_report(_config: object, connection: Connection) -> None:
    os.write(connection.fileno(), b"\x00\x00\x10\x00half a rep")
    os.kill(os.getpid(), signal.SIGSTOP)


def babbles(_config: object, connection: Connection) -> None:
    connection.send_bytes(b"\xc1\xc1\xc1")
    time.sleep(600)


def verbose(_config: object, connection: Connection) -> None:
    for number in range(2000):
        send(connection, PublisherReport(number, 0, 0))


# the processes ---------------------------------------------------------------------------------------------


class Children:
    """Child processes, and what it called back."""

    def __init__(self, **options: float) -> None:
        self.reports: list[Report] = []
        self.exits: list[int | None] = []
        self.exited: list[ChildId] = []
        self.processes = ChildProcesses(self._reported, self._exited, **{"fork_timeout": PATIENCE, **options})

    def start(self, entry: str, child: ChildId = CHILD) -> None:
        self.processes.start(child, name=entry, entry=f"{HERE}:{entry}", config=None)

    def _reported(self, child: ChildId, report: Report) -> None:
        assert child not in self.exited, "a report after the exit"
        self.reports.append(report)

    def _exited(self, child: ChildId, code: int | None) -> None:
        self.exits.append(code)
        self.exited.append(child)

    async def until_heard(self, count: int = 1) -> None:
        await self.until(lambda: len(self.reports) >= count)

    async def until_exited(self) -> int | None:
        await self.until(lambda: bool(self.exits))
        return self.exits[0]

    async def until(self, condition: object) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, (self.reports, self.exits)
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True, scope="module")
def fork_server() -> Iterator[None]:
    """One that loads what these children need, and no camera; and that is given time to reap them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_processes, "PRELOAD", PRELOAD)
        patch.setattr(child_processes, "REAP_TIMEOUT", PATIENCE)
        yield
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not exists(server), "no fork server left")  # the next test gets one of its own


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    children = Children()
    yield children
    await children.processes.stop(0.0)


def exists(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return state_of(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stopped(pid: int) -> bool:
    """Whether it was stopped by a signal."""
    return state_of(pid) == "T"


def state_of(pid: int) -> str:
    """A letter, as in `ps`."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_child_is_heard_and_told_and_stopped(children: Children) -> None:
    children.start("polite")
    children.processes.send(CHILD, AllowSubscribers(()))
    await children.until_heard(2)

    children.processes.send(CHILD, Stop())

    assert await children.until_exited() == 0
    assert children.reports == [PublisherReport(n, 0, 0) for n in (0, 1, 999)]


async def test_the_last_words_of_a_child_come_before_its_exit(children: Children) -> None:
    children.start("verbose")

    await children.until_exited()

    assert children.reports[-1] == PublisherReport(1999, 0, 0)


async def test_a_crash_is_seen_at_once(children: Children) -> None:
    children.start("crashes")

    assert await children.until_exited() == -signal.SIGSEGV


async def test_a_deaf_child_is_killed(children: Children) -> None:
    children.start("deaf")
    await children.until_heard()

    children.processes.kill(CHILD)

    assert await children.until_exited() == -signal.SIGKILL


async def test_an_end_that_nobody_asked_for_is_a_warning_that_names_the_signal(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    children.start("deaf")
    await children.until_heard()
    pid = children.processes.pid(CHILD)
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    await children.until_exited()

    assert warnings(caplog) == ["deaf: process was ended by SIGKILL"]


async def test_an_end_that_was_asked_for_is_no_warning(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    children.start("deaf")
    await children.until_heard()

    children.processes.kill(CHILD)
    await children.until_exited()

    assert warnings(caplog) == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_child_that_stops_in_the_middle_of_a_report_holds_nobody_up(children: Children) -> None:
    children.start("stops_in_the_middle_of_a_report")
    pid = await started(children)
    await children.until(lambda: is_stopped(pid))

    children.processes.kill(CHILD)

    assert await children.until_exited() == -signal.SIGKILL
    assert not exists(pid)


async def test_a_child_that_says_what_no_child_says_is_killed(children: Children) -> None:
    children.start("babbles")

    assert await children.until_exited() == -signal.SIGKILL


async def test_a_child_that_does_not_read_is_killed_in_the_end(children: Children) -> None:
    children.start("deaf")
    await children.until_heard()

    for _ in range(200):
        children.processes.send(CHILD, AllowSubscribers(("k" * 40,) * 100))

    assert await children.until_exited() == -signal.SIGKILL


async def test_an_entry_that_does_not_exist_is_an_exit(children: Children) -> None:
    children.start("nowhere")

    assert await children.until_exited() == 1


async def test_a_child_killed_before_it_was_started_never_lives(children: Children) -> None:
    children.start("deaf")

    children.processes.kill(CHILD)

    assert children.exits == [None]
    await children.processes.stop(0.0)
    assert children.reports == []


async def test_stop_leaves_nobody(children: Children) -> None:
    children.start("deaf")
    await children.until_heard()
    pid = children.processes.pid(CHILD)
    assert pid is not None

    await children.processes.stop(0.2)

    assert children.exits == [-signal.SIGKILL]
    assert not exists(pid)


async def test_the_last_one_is_asked_when_the_others_have_ended(children: Children) -> None:
    other = PublisherId(2)
    children.start("polite")
    children.start("polite", other)
    await children.until_heard(2)

    await children.processes.stop(2 * PATIENCE, last=CHILD)

    assert (children.exited, children.exits) == ([other, CHILD], [0, 0])


async def test_children_of_a_killed_fork_server_die_and_the_next_ones_are_started(children: Children) -> None:
    children.start("deaf")
    await children.until_heard()
    pid = children.processes.pid(CHILD)
    assert pid is not None

    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    await children.until_exited()

    await children.until(lambda: not exists(pid) and not exists(server))
    again = Children()
    again.start("polite")
    await again.until_heard()
    await again.processes.stop(PATIENCE)
    assert again.exits == [0]


async def test_a_fork_server_that_hangs_is_replaced(children: Children) -> None:
    children.start("polite")
    await children.until_heard()
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGSTOP)

    impatient = Children(fork_timeout=0.3)
    impatient.start("polite")
    assert await impatient.until_exited() is None
    await children.until_exited()
    await children.until(lambda: not exists(server))

    again = Children()
    again.start("polite")
    await again.until_heard()
    for each in (impatient, again):
        await each.processes.stop(PATIENCE)


async def started(children: Children) -> int:
    while (pid := children.processes.pid(CHILD)) is None:
        await asyncio.sleep(0.01)
    return pid


# the lifeline -----------------------------------------------------------------------------------------------

_PARENT = """
import asyncio
from streamfleet_worker.agent import child_processes
from tests.worker.agent.test_child_processes import PRELOAD, Children, is_stopped

child_processes.PRELOAD = PRELOAD

async def main():
    children = Children()
    children.start("{entry}")
    while (pid := children.processes.pid(next(iter(children.processes._children)))) is None:
        await asyncio.sleep(0.01)
    {wait}
    from multiprocessing import forkserver
    print(pid, forkserver._forkserver._forkserver_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("entry", ["deaf", "stops_in_the_middle_of_a_report"])
def test_a_killed_agent_leaves_no_process(entry: str) -> None:
    wait = "await children.until_heard()"
    if entry != "deaf":
        wait = "await children.until(lambda: is_stopped(pid))"
    program = _PARENT.format(entry=entry, wait=wait)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child, server = map(int, parent.stdout.readline().split())
        assert exists(child)

        parent.kill()

        wait_for(lambda: not exists(child) and not exists(server), "no process left")


def test_a_killed_agent_takes_a_stopped_fork_server_along() -> None:
    program = _PARENT.format(entry="deaf", wait="await children.until_heard()")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child, server = map(int, parent.stdout.readline().split())
        os.kill(server, signal.SIGSTOP)

        parent.kill()

        wait_for(lambda: not exists(child) and not exists(server), "no process left")
