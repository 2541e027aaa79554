"""Subscriptions that yield each prediction once and in order, or say which are gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import zmq
import zmq.asyncio
from typing_extensions import Self

from streamfleet.complete.checkpoint_file import CheckpointFile
from streamfleet.complete.receiver import Receiver
from streamfleet.complete.values import Checkpoint, Gap
from streamfleet.errors import NothingReceived
from streamfleet.prediction import Prediction
from streamfleet_core.protocol.errors import BadData

_CLOSE_TIMEOUT = 1.0  # seconds for the iterating thread to stop
_BATCH = 64  # values between two yields to the event loop


class _Complete:
    """What both kinds have: the receiver, the file of the checkpoint, and the time without a value."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sub_socket: zmq.Socket[bytes],
        receiver: Receiver,
        *,
        file: Path | None,
        timeout: float | None,
    ) -> None:
        self._context = context
        self._socket = sub_socket
        self._receiver = receiver
        self._file = None if file is None else CheckpointFile(file)
        self._timeout = timeout
        self._undecodable = 0
        self._changed: dict[str, None] = {}  # pipelines whose position is not in the file
        self._is_closed = False

    @property
    def checkpoint(self) -> Checkpoint:
        """How far it has come: up to and including the last value that it has yielded."""
        return self._receiver.checkpoint

    @property
    def unreadable(self) -> int:
        """The number of received messages that were neither predictions nor answers."""
        return self._receiver.unreadable + self._undecodable

    def _take(self, now: float) -> Prediction | Gap | None:
        """The next value that is ready."""
        while (found := self._receiver.take(now)) is not None:
            try:
                value = found if isinstance(found, Gap) else found.prediction()
            except BadData:
                self._undecodable += 1
                continue
            self._changed[found.pipeline_id] = None
            return value
        return None

    def _wait_ms(self, started: float, now: float) -> int:
        """Milliseconds to wait for messages; 0: there may be a value. Raises: NothingReceived."""
        if self._timeout is not None and now - started >= self._timeout:
            raise NothingReceived("predictions", self._timeout)
        return self._receiver.wait_ms(now)

    def _save(self) -> None:
        if self._file is not None and self._changed:
            positions = {each: self._receiver.position(each) for each in self._changed}
            self._changed.clear()
            self._file.write(positions, lambda: self.checkpoint)

    def _end(self) -> None:
        if not self._socket.closed:
            self._socket.close(linger=0)
            self._context.term()
        if self._file is not None:
            self._file.close()


class CompleteSubscription(_Complete):
    """An iterator of predictions and gaps, in order within each pipeline. Use it in a `with` block.

    One thread may iterate at a time. Any thread may close it, which ends the iteration within 0.2 s.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sub_socket: zmq.Socket[bytes],
        receiver: Receiver,
        *,
        file: Path | None,
        timeout: float | None,
    ) -> None:
        super().__init__(context, sub_socket, receiver, file=file, timeout=timeout)
        self._in_use = threading.Lock()  # a ZeroMQ socket is not thread-safe

    def __iter__(self) -> Iterator[Prediction | Gap]:
        return self

    def __next__(self) -> Prediction | Gap:
        """Wait for the next prediction or gap.

        With a file, the checkpoint is written first: what was yielded before counts as done.

        Raises: StopIteration when it is closed, NothingReceived, OSError if the file cannot be written.
        """
        started = time.monotonic()
        with self._in_use:
            self._save()
            while not self._is_closed:
                now = time.monotonic()
                found = self._take(now)
                if found is not None:
                    return found
                wait = self._wait_ms(started, now)
                if wait and self._socket.poll(wait):
                    self._receiver.read(time.monotonic())
        raise StopIteration

    def save(self) -> None:
        """Write the file now. Raises: OSError."""
        with self._in_use:
            self._save()

    def close(self) -> None:
        """Close the subscription. Closing it again has no effect."""
        self._is_closed = True
        if self._in_use.acquire(timeout=_CLOSE_TIMEOUT):
            try:
                self._end()
            finally:
                self._in_use.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        """Close it. Without an exception, the last value counts as done."""
        try:
            if kind is None:
                self.save()
        finally:
            self.close()


class AsyncCompleteSubscription(_Complete):
    """An asynchronous iterator of predictions and gaps: see `CompleteSubscription`. Any task may close it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sub_socket: zmq.Socket[bytes],
        receiver: Receiver,
        *,
        file: Path | None,
        timeout: float | None,
    ) -> None:
        super().__init__(context, sub_socket, receiver, file=file, timeout=timeout)
        self._poller = zmq.asyncio.Poller()
        self._poller.register(sub_socket, zmq.POLLIN)
        self._in_use = asyncio.Lock()
        self._delivered = 0  # values

    def __aiter__(self) -> AsyncIterator[Prediction | Gap]:
        return self

    async def __anext__(self) -> Prediction | Gap:
        """Wait for the next prediction or gap.

        With a file, the checkpoint is written first, in a thread: what was yielded before counts as done.

        Raises: StopAsyncIteration when it is closed, NothingReceived, OSError if the file cannot be written.
        """
        started = time.monotonic()
        async with self._in_use:
            await self._save_in_thread()
            while not self._is_closed:
                now = time.monotonic()
                found = self._take(now)
                if found is not None:
                    self._delivered += 1
                    if self._delivered % _BATCH == 0:
                        await asyncio.sleep(0)
                    return found
                wait = self._wait_ms(started, now)
                if wait and await self._poller.poll(wait):
                    self._receiver.read(time.monotonic())
        raise StopAsyncIteration

    async def save(self) -> None:
        """Write the file now. Raises: OSError."""
        async with self._in_use:
            await self._save_in_thread()

    async def close(self) -> None:
        """Close the subscription. Closing it again has no effect."""
        self._is_closed = True
        async with self._in_use:  # the iteration ends within one poll
            self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_exc: object) -> None:
        """Close it. Without an exception, the last value counts as done."""
        try:
            if kind is None:
                await self.save()
        finally:
            await self.close()

    async def _save_in_thread(self) -> None:
        if self._file is not None and self._changed:
            await asyncio.to_thread(self._save)
