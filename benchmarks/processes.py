"""Child processes of benchmarks, forked from an idle process that has loaded the libraries."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT = 60.0  # seconds for a response, in addition to the measurement
_PRELOADED = [
    "benchmarks.bare",
    "benchmarks.bare_live",
    "benchmarks.commands",
    "benchmarks.completeness.lossy_relay",
    "benchmarks.gate",
    "benchmarks.live_cameras",
    "benchmarks.own_work",
    "benchmarks.paced",
    "benchmarks.precision",
    "benchmarks.relay",
    "benchmarks.scale.clients",
    "benchmarks.scale.generator",
]
_END_TIMEOUT = 30.0  # seconds for a killed process to end


def start_session() -> None:
    """Start a new session, as a fleet does: the kernel divides CPU time between sessions."""
    os.setsid()


@contextlib.contextmanager
def child(entry: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run `entry` in a process until the block ends. Its first argument is its end of the connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=entry, args=(theirs, *arguments), name=entry.__name__, daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()  # it has no state to save
        process.join(_END_TIMEOUT)
        ours.close()


def receive(connection: Connection, timeout: float = TIMEOUT) -> Any:
    """Receive a message of the process. Raises: TimeoutError, EOFError if it has ended."""
    if not connection.poll(timeout):
        raise TimeoutError(f"expected a message of a benchmark process within {timeout:g} s")
    return connection.recv()
