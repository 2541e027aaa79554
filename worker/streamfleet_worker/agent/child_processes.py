"""Starts, kills and reaps child processes, and exchanges messages with them.

It decides nothing: `reconciler` does. One loop owns everything; only the start, which waits for the fork
server, runs in a thread. Reading never blocks, so a child that is stopped in the middle of a report delays no
other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import select
import signal
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import msgpack
import msgspec

from streamfleet_worker.decisions.children import how_it_ended
from streamfleet_worker.decisions.reconcile_events import ChildId, Report
from streamfleet_worker.ipc.child_messages import (
    CameraReport,
    EngineReport,
    PublisherReport,
    Stop,
    ToChild,
    pack,
    unpack,
)
from streamfleet_worker.ipc.parent_death import run_child

logger = logging.getLogger(__name__)

PRELOAD = ["streamfleet_worker.ipc.forkserver", "streamfleet_worker.camera.process"]
FORK_TIMEOUT = 25.0  # seconds for the fork server to load its modules and respond
REAP_TIMEOUT = 1.0  # seconds from SIGKILL to the end of a process
END_TIMEOUT_MS = 200  # from the end of its sentinel to the end of the process, which has usually ended
MAX_REPORT = 8 * 1024 * 1024  # bytes
MAX_UNREAD = 256 * 1024  # unread bytes, above which a child counts as stuck
_CHUNK = 256 * 1024  # bytes read at once, so that no child delays the others
_LENGTH = struct.Struct("!i")  # how multiprocessing.Connection frames its messages


@dataclass(slots=True, eq=False, kw_only=True)
class _Child:
    id: ChildId
    name: str
    started: _Started | None = None  # None until the fork server has started it
    received: bytearray = field(default_factory=bytearray)  # the start of an incomplete report
    unsent: bytearray = field(default_factory=bytearray)
    ending: bool = False  # it was asked to stop or killed, so that its exit is expected


@dataclass(frozen=True, slots=True)
class _Started:
    process: ForkServerProcess
    connection: Connection
    pidfd: int  # refers to this process while it is open; a pid may be reused


class ChildProcesses:
    """Owns the child processes. Callbacks are called from the loop, and never for a child after its exit.

    Only for the main thread: the kernel ties the fork server to the *thread* that started it.
    """

    def __init__(
        self,
        on_report: Callable[[ChildId, Report], None],
        on_exit: Callable[[ChildId, int | None], None],
        *,
        fork_timeout: float = FORK_TIMEOUT,
    ) -> None:
        self._on_report = on_report
        self._on_exit = on_exit
        self._fork_timeout = fork_timeout
        self._children: dict[ChildId, _Child] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._starter = ThreadPoolExecutor(1, "starter")
        self._starting = asyncio.Lock()  # one at a time, so that the timeout applies to one start
        self._starts: set[asyncio.Task[None]] = set()

    def start(self, child: ChildId, *, name: str, entry: str, config: object) -> None:
        """Start a process that runs `entry`, a `module:function`, with its config and a connection to us."""
        record = _Child(id=child, name=name)
        self._children[child] = record
        task = asyncio.get_running_loop().create_task(
            self._start(record, entry, config), name=f"start {name}"
        )
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    def send(self, child: ChildId, message: ToChild) -> None:
        """Send a message to an existing child without blocking. A child that does not read is killed."""
        record = self._children.get(child)
        if record is None:
            return
        record.ending |= isinstance(message, Stop)
        content = pack(message)
        record.unsent += _LENGTH.pack(len(content)) + content
        if record.started is not None:
            self._flush(record, record.started)

    def kill(self, child: ChildId) -> None:
        """Kill a process. Its exit is reported to `on_exit`."""
        record = self._children.get(child)
        if record is None:
            return
        record.ending = True
        if record.started is not None:
            _kill(record.started.pidfd)
        else:
            self._forget(record, None)  # if the fork server still starts it, it is killed then

    def pid(self, child: ChildId) -> int | None:
        """The pid of a child; None before it was started."""
        record = self._children.get(child)
        return record.started.process.pid if record is not None and record.started is not None else None

    async def stop(self, timeout: float, *, last: ChildId | None = None) -> None:
        """End all children: ask, wait up to `timeout` seconds, kill. No child is left afterwards.

        `last`: is asked when the others have ended, or after half the time: it handles what they send.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        others = [child for child in self._children if child != last]
        for child in others:
            self.send(child, Stop())
        if last in self._children:
            await self._wait_until_at_most(1, timeout / 2)
            self.send(last, Stop())
        await self._wait_until_at_most(0, deadline - asyncio.get_running_loop().time())
        for child in list(self._children):
            self.kill(child)
        if self._starts:
            await asyncio.wait(self._starts, timeout=REAP_TIMEOUT)
        await self._wait_until_at_most(0, REAP_TIMEOUT)
        self._starter.shutdown(wait=False, cancel_futures=True)

    async def _wait_until_at_most(self, count: int, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while len(self._children) > count and loop.time() < deadline:
            await asyncio.sleep(0.01)

    # starting

    async def _start(self, record: _Child, entry: str, config: object) -> None:
        try:
            async with self._starting:
                started = await self._fork(record, entry, config)
        except (OSError, EOFError, asyncio.TimeoutError) as exc:
            logger.error("%s: could not be started: %s: %s", record.name, type(exc).__name__, exc)
            if self._children.get(record.id) is record:
                self._forget(record, None)
            return
        if self._children.get(record.id) is not record:
            await asyncio.get_running_loop().run_in_executor(self._starter, _discard, started)
            return
        logger.info("%s: process %s started", record.name, started.process.pid)
        record.started = started
        loop = asyncio.get_running_loop()
        loop.add_reader(started.connection.fileno(), self._read, record, started)
        loop.add_reader(started.process.sentinel, self._ended, record, started)
        self._flush(record, started)

    async def _fork(self, record: _Child, entry: str, config: object) -> _Started:
        forkserver.ensure_running()  # in the main thread: see the class
        forking = asyncio.get_running_loop().run_in_executor(
            self._starter, _fork, self._context, record.name, entry, config
        )
        try:
            return await asyncio.wait_for(forking, self._fork_timeout)
        except asyncio.TimeoutError:
            logger.error("the fork server does not respond and is killed")
            _kill_fork_server()
            raise

    # while it lives

    def _read(self, record: _Child, started: _Started) -> bool:
        """Read from a child without blocking. Returns whether there may be more."""
        try:
            chunk = os.read(started.connection.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(started.connection.fileno())
            return False  # its exit or its silence is handled elsewhere
        record.received += chunk
        try:
            reports = _take_reports(record.received)
        except (ValueError, KeyError, TypeError, msgpack.UnpackException, msgspec.ValidationError) as exc:
            logger.error("%s: killed, as it sent an invalid message: %s", record.name, exc)
            asyncio.get_running_loop().remove_reader(started.connection.fileno())
            self.kill(record.id)
            return False
        for report in reports:
            self._on_report(record.id, report)
        return True

    def _flush(self, record: _Child, started: _Started) -> None:
        loop = asyncio.get_running_loop()
        descriptor = started.connection.fileno()
        try:
            written = os.write(descriptor, record.unsent) if record.unsent else 0
        except BlockingIOError:
            written = 0
        except OSError:
            record.unsent.clear()  # it has ended; its exit follows
            written = 0
        del record.unsent[:written]
        if len(record.unsent) > MAX_UNREAD:
            logger.error("%s: killed, as it does not read its messages", record.name)
            record.unsent.clear()
            self.kill(record.id)
        if record.unsent:
            loop.add_writer(descriptor, self._flush, record, started)
        else:
            loop.remove_writer(descriptor)

    # ending

    def _ended(self, record: _Child, started: _Started) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(started.process.sentinel)
        while self._read(record, started):
            pass  # read its last reports, which may be the most important
        loop.remove_reader(started.connection.fileno())
        loop.remove_writer(started.connection.fileno())
        code = started.process.exitcode
        _discard(started)
        surprising = code != 0 and not record.ending
        ending = "ended" if code is None else how_it_ended(code)
        logger.log(logging.WARNING if surprising else logging.INFO, "%s: process %s", record.name, ending)
        self._forget(record, code)

    def _forget(self, record: _Child, code: int | None) -> None:
        del self._children[record.id]
        self._on_exit(record.id, code)


def _fork(
    context: multiprocessing.context.ForkServerContext, name: str, entry: str, config: object
) -> _Started:
    """Start a process, in the starter's thread. Raises: OSError or EOFError if the fork server fails."""
    ours, theirs = context.Pipe(duplex=True)
    process = context.Process(target=run_child, args=(entry, name, config, theirs), name=name, daemon=True)
    try:
        process.start()
        assert process.pid is not None
        pidfd = os.pidfd_open(process.pid)
    except (OSError, EOFError):
        ours.close()
        raise
    finally:
        theirs.close()
    os.set_blocking(ours.fileno(), False)
    return _Started(process, ours, pidfd)


def _discard(started: _Started) -> None:
    """Kill the process if it still runs, and release its resources."""
    # Even if its fork server has died: the kernel may not have ended it yet.
    _kill(started.pidfd)
    ended = select.poll()
    ended.register(started.pidfd, select.POLLIN)
    ended.poll(END_TIMEOUT_MS)
    started.process.join(REAP_TIMEOUT)
    started.connection.close()
    os.close(started.pidfd)
    with contextlib.suppress(ValueError):  # it still exists in the kernel, which will end it
        started.process.close()


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def end_fork_server() -> None:
    """End the fork server, at the end. Otherwise it would end after us, and nothing would reap it."""
    pid = _kill_fork_server()
    if pid is not None:
        os.waitpid(pid, 0)


def _kill_fork_server() -> int | None:
    """Kill the fork server and its children. Returns its pid, if there was one.

    The next start makes a new one.
    """
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return pid


def _take_reports(received: bytearray) -> list[Report]:
    """Decode the complete messages at the start of the buffer, and remove them from it."""
    reports: list[Report] = []
    start = 0
    while len(received) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(received, start)
        if not 0 <= length <= MAX_REPORT:
            raise ValueError(f"expected a report of at most {MAX_REPORT} bytes, got {length}")
        end = start + _LENGTH.size + length
        if len(received) < end:
            break
        report = unpack(bytes(received[start + _LENGTH.size : end]))
        if not isinstance(report, (CameraReport, EngineReport, PublisherReport)):
            raise ValueError(f"expected a report, got {type(report).__name__}")
        reports.append(report)
        start = end
    del received[:start]
    return reports
