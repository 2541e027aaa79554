"""The processes of a worker: started, heard, told, killed and reaped. It decides nothing: `reconcile` does.

One loop owns all of it. Only the start itself, which waits for the fork server, happens in a thread. Reading
never blocks, so a child that is stopped in the middle of a report holds nobody up.
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
FORK_PATIENCE = 25.0  # seconds for the fork server to load its modules and answer
REAP_PATIENCE = 1.0  # seconds from SIGKILL to the end of a process
END_PATIENCE_MS = 200  # from the end of its sentinel to that of the process, which is mostly over already
MAX_REPORT = 8 * 1024 * 1024  # bytes
MAX_UNREAD = 256 * 1024  # bytes that a child has not read; with more it is stuck
_CHUNK = 256 * 1024  # bytes read at one turn, so that one talkative child leaves time for the others
_LENGTH = struct.Struct("!i")  # how multiprocessing.Connection frames its messages


@dataclass(slots=True, eq=False, kw_only=True)
class _Child:
    id: ChildId
    name: str
    started: _Started | None = None  # None while the fork server works on it
    heard: bytearray = field(default_factory=bytearray)  # of a report that is not whole yet
    unsent: bytearray = field(default_factory=bytearray)
    ending: bool = False  # it was asked to end, or made to, so that its exit surprises nobody


@dataclass(frozen=True, slots=True)
class _Started:
    process: ForkServerProcess
    connection: Connection
    pidfd: int  # names the process for as long as it is open, where a pid may be another's by now


class Supervisor:
    """Owns the child processes. The callbacks are called from the loop, and for no child after its exit.

    Only for the main thread: the kernel ties the fork server to the *thread* that started it.
    """

    def __init__(
        self,
        on_report: Callable[[ChildId, Report], None],
        on_exit: Callable[[ChildId, int | None], None],
        *,
        fork_patience: float = FORK_PATIENCE,
    ) -> None:
        self._on_report = on_report
        self._on_exit = on_exit
        self._fork_patience = fork_patience
        self._children: dict[ChildId, _Child] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._starter = ThreadPoolExecutor(1, "starter")
        self._starting = asyncio.Lock()  # one at a time, so that the patience is for one start
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

    def tell(self, child: ChildId, message: ToChild) -> None:
        """Say something to a child that exists, without waiting. One that does not listen is killed."""
        record = self._children.get(child)
        if record is None:
            return
        record.ending |= isinstance(message, Stop)
        content = pack(message)
        record.unsent += _LENGTH.pack(len(content)) + content
        if record.started is not None:
            self._flush(record, record.started)

    def kill(self, child: ChildId) -> None:
        """End a process now. Its exit is called back."""
        record = self._children.get(child)
        if record is None:
            return
        record.ending = True
        if record.started is not None:
            _kill(record.started.pidfd)
        else:
            self._forget(record, None)  # whatever the fork server makes of it is ended when it comes

    def pid(self, child: ChildId) -> int | None:
        """Of a child that has been started."""
        record = self._children.get(child)
        return record.started.process.pid if record is not None and record.started is not None else None

    async def stop(self, patience: float) -> None:
        """End all children: ask, wait so many seconds, kill. Nothing is left afterwards."""
        for child in list(self._children):
            self.tell(child, Stop())
        await self._wait_until_empty(patience)
        for child in list(self._children):
            self.kill(child)
        if self._starts:
            await asyncio.wait(self._starts, timeout=REAP_PATIENCE)
        await self._wait_until_empty(REAP_PATIENCE)
        self._starter.shutdown(wait=False, cancel_futures=True)

    async def _wait_until_empty(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while self._children and loop.time() < deadline:
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
        forkserver.ensure_running()  # here and not in the starter's thread, see above
        forking = asyncio.get_running_loop().run_in_executor(
            self._starter, _fork, self._context, record.name, entry, config
        )
        try:
            return await asyncio.wait_for(forking, self._fork_patience)
        except asyncio.TimeoutError:
            logger.error("the fork server does not answer and is killed")
            _kill_fork_server()
            raise

    # while it lives

    def _read(self, record: _Child, started: _Started) -> bool:
        """Take what the child has said by now. Returns whether there may be more."""
        try:
            chunk = os.read(started.connection.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(started.connection.fileno())
            return False  # its exit, or its silence, is what counts
        record.heard += chunk
        try:
            reports = _take_reports(record.heard)
        except (ValueError, KeyError, TypeError, msgpack.UnpackException, msgspec.ValidationError) as exc:
            logger.error("%s: said what no child says, and is killed: %s", record.name, exc)
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
            record.unsent.clear()  # it has gone; its exit is on the way
            written = 0
        del record.unsent[:written]
        if len(record.unsent) > MAX_UNREAD:
            logger.error("%s: does not read what it is told, and is killed", record.name)
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
            pass  # the last words of a process may be its most important ones
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
    """In the starter's thread. Raises: OSError or EOFError when the fork server does not do it."""
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
    """End the process if it lives, and give back what we hold of it."""
    # Also when it is its fork server that has died: the kernel is only about to end it then.
    _kill(started.pidfd)
    ended = select.poll()
    ended.register(started.pidfd, select.POLLIN)
    ended.poll(END_PATIENCE_MS)
    started.process.join(REAP_PATIENCE)
    started.connection.close()
    os.close(started.pidfd)
    with contextlib.suppress(ValueError):  # it is in the kernel still, and the kernel will end it
        started.process.close()


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def end_fork_server() -> None:
    """When nothing is started any more. By itself it would end after us, and who would reap it then?"""
    pid = _kill_fork_server()
    if pid is not None:
        os.waitpid(pid, 0)


def _kill_fork_server() -> int | None:
    """Its children end with it, and the next start makes a new one. Returns its pid, if there is one."""
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return pid


def _take_reports(heard: bytearray) -> list[Report]:
    """The whole messages at the beginning of what was heard, which are removed from it."""
    reports: list[Report] = []
    start = 0
    while len(heard) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(heard, start)
        if not 0 <= length <= MAX_REPORT:
            raise ValueError(f"expected a report of at most {MAX_REPORT} bytes, came {length}")
        end = start + _LENGTH.size + length
        if len(heard) < end:
            break
        report = unpack(bytes(heard[start + _LENGTH.size : end]))
        if not isinstance(report, (CameraReport, EngineReport, PublisherReport)):
            raise ValueError(f"expected a report, came {type(report).__name__}")
        reports.append(report)
        start = end
    del heard[:start]
    return reports
