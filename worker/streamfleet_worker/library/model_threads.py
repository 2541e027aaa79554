"""Threads that run models. A model that never returns is abandoned: it does not keep the program alive."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")

_Task = tuple[Callable[[], ResultT], "Future[ResultT]"]


class ModelThreads(Generic[ResultT]):
    """A fixed number of daemon threads that run submitted tasks in order."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Bounded by the caller, who limits the batches in flight.
        self._tasks: queue.SimpleQueue[_Task[ResultT] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"inference {number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], ResultT]) -> Future[ResultT]:
        """Queue a task. The future's `result` raises the error of the task, if any."""
        future: Future[ResultT] = Future()
        self._tasks.put((task, future))
        return future

    def close(self, deadline: float) -> bool:
        """Finish the submitted tasks, and return whether the threads ended within `deadline` seconds."""
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
            del task, future, entry  # otherwise the frame stays in memory until the next task
