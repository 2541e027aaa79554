"""Processes of a benchmark's own. Each is forked from one that has loaded the libraries and runs nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 60.0  # seconds that a process has to answer, beyond what it was asked to do
_PRELOADED = ["benchmarks.bare", "benchmarks.commands", "benchmarks.relay"]
_END = 30.0  # seconds that a killed process has to be gone


def stand_alone() -> None:
    """Be a session of its own, as a fleet is: the kernel shares processors out among sessions."""
    os.setsid()


@contextlib.contextmanager
def child(entry: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """The connection to a process that ends with the block. `entry` gets its own end first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=entry, args=(theirs, *arguments), name=entry.__name__, daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()  # it has nothing to lose
        process.join(_END)
        ours.close()


def receive(connection: Connection, patience: float = PATIENCE) -> Any:
    """What the process says. Raises: TimeoutError, EOFError when it died."""
    if not connection.poll(patience):
        raise TimeoutError(f"a process of the benchmark said nothing for {patience:g} s")
    return connection.recv()
