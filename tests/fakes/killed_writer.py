"""Writes to a store and is killed at each step of a write, once at each.

    python -m tests.fakes.killed_writer sqlite FOLDER
    python -m tests.fakes.killed_writer postgresql URL

It prints a line for each life: the numbers that were committed, and how the life ended. The first step is one
of the opening of the store. A step is each statement of SQLite and each renamed or synchronised file; of
PostgreSQL, the time before a statement is sent, the time until it is answered, and the time after that.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamfleet_broker.fleet.records import FloorRecord, SubscriberRecord, Write
from streamfleet_broker.storage import postgresql
from tests.fakes.stores import Engine, PostgresqlEngine, SqliteEngine

COMMITS = 3  # of each life
MOST = 500  # lives


class Steps:
    """Counts steps, and dies at one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = function(*args, **kwargs)
            self.step()
            return result

        return stepping

    def install(self) -> None:
        connect, until = sqlite3.connect, postgresql._until

        def connecting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(self.step)
            return connection

        def waiting(steps: Any, deadline: float) -> Any:
            self.step()
            inner = until(steps, deadline)
            try:
                state = next(inner)
                while True:
                    self.step()  # it is sent
                    state = inner.send((yield state))
            except StopIteration as end:
                self.step()
                return end.value

        sqlite3.connect = connecting  # type: ignore[assignment]
        postgresql._until = waiting
        for name in ("fsync", "rename", "replace"):
            setattr(os, name, self.around(getattr(os, name)))


def live(engine: Engine, told: int) -> None:
    """Commit numbers above all that are there, and tell each once it is committed."""
    store = engine.lead()
    number = max((each.generation for each in store.records if isinstance(each, FloorRecord)), default=0)
    for _ in range(COMMITS):
        number += 1
        name = f"s{number:06}"
        store.commit(
            [
                Write("floor", "generation", None, FloorRecord(number)),
                Write("subscriber", name, None, SubscriberRecord(name, "k" * 40)),
            ]
        )
        os.write(told, f"{number} ".encode())
    store.close()


def main(kind: str, place: str) -> None:
    engine = SqliteEngine(Path(place)) if kind == "sqlite" else PostgresqlEngine(place)
    for last in range(1, MOST):
        read, told = os.pipe()
        child = os.fork()
        if not child:
            Steps(last).install()
            live(engine, told)
            os._exit(0)
        os.close(told)
        with os.fdopen(read) as heard:
            numbers = heard.read().strip()
        _, status = os.waitpid(child, 0)
        print(f"{'killed' if os.WIFSIGNALED(status) else 'ended'} {numbers}".strip(), flush=True)
        sys.stdin.readline()  # the test looks at the store
        if not os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
