"""Threads that run models. A model that never returns is left behind, and keeps no program from ending."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")

_Task = tuple[Callable[[], ResultT], "Future[ResultT]"]


class Workers(Generic[ResultT]):
    """So many threads that do what is submitted, in the order of its coming."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._tasks: queue.SimpleQueue[_Task[ResultT] | None] = queue.SimpleQueue()  # its user bounds it
        self._threads = [
            threading.Thread(target=self._run, name=f"inference {number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], ResultT]) -> Future[ResultT]:
        """Whatever the task raises is raised by the future's `result`."""
        future: Future[ResultT] = Future()
        self._tasks.put((task, future))
        return future

    def close(self, deadline: float) -> bool:
        """Do what has been submitted, and end; whether that took no more than so many seconds."""
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + deadline
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (entry := self._tasks.get()) is not None:
            task, future = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except Exception as exc:
                future.set_exception(exc)
            del task, future, entry  # or a frame lives until the next one comes
