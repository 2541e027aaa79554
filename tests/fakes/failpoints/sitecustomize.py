"""Kills a broker at a random step of a write, for tests. Python loads it from PYTHONPATH at its start.

STREAMFLEET_TEST_FAILPOINTS names a file. While it exists and holds a number n, each step of a write ends the
process with SIGKILL in one of n cases: before each statement of SQLite (so also before and after each
commit), and around each renamed or synchronised file. Other programs are left alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = os.environ.get("STREAMFLEET_TEST_FAILPOINTS", "")
_RNG = random.Random()


def failpoint(*_: object) -> None:
    """End here, or go on."""
    with contextlib.suppress(OSError, ValueError):
        if _RNG.random() * int(Path(FILE).read_text()) < 1:
            os.kill(os.getpid(), signal.SIGKILL)


def around(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a failpoint before and after it."""

    def failing(*args: Any, **kwargs: Any) -> Any:
        failpoint()
        result = function(*args, **kwargs)
        failpoint()
        return result

    return failing


def connected(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """A database that has a failpoint before each of its statements."""

    def connecting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(failpoint)
        return connection

    return connecting


if FILE and "streamfleet_broker" in sys.orig_argv:
    sqlite3.connect = connected(sqlite3.connect)  # type: ignore[assignment]
    for name in ("fsync", "rename", "replace"):
        setattr(os, name, around(getattr(os, name)))
