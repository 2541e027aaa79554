"""The inference threads: they read the requests of cameras, infer, and answer.

No thread only listens. Free threads poll for requests, one at a time; while all of them infer, requests wait
in the sockets of the cameras. So a request that cannot run yet wakes no thread and interrupts no inference.
Before a thread infers, the camera whose turn is next is asked to fill its slot meanwhile. A camera that
violates the protocol or stops reading is disconnected, without effect on the others.

A model that runs batches has two threads: one runs a batch, the other polls and lets the next batch grow.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from dataclasses import dataclass

from streamfleet_worker.engine.connection import CameraConnection
from streamfleet_worker.engine.interface import Model, Runner
from streamfleet_worker.engine.messages import (
    MAX_PACKET,
    MAX_SLOTS,
    BadPacket,
    Decline,
    Done,
    Failed,
    RequestTurn,
    Run,
    SetPriority,
    Share,
    Turn,
    pack,
    unpack_from_camera,
)
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.engine.onnx_session import BadModel
from streamfleet_worker.engine.onnxruntime_errors import reason_in
from streamfleet_worker.engine.turns.batching import Batching
from streamfleet_worker.engine.turns.run_cost import EngineCost
from streamfleet_worker.engine.turns.run_width import RunWidth
from streamfleet_worker.engine.turns.turn_queue import ANSWER, SlotBusy, TurnQueue
from streamfleet_worker.ipc.child_messages import EngineCostReport
from streamfleet_worker.ipc.wakeup import Wakeup

logger = logging.getLogger(__name__)

_OF_BATCHES = 2  # threads
FAILING = 10.0  # seconds in which every inference fails, after which it is reported

# Encoded once, as one of each is sent per frame.
_DONE = tuple(pack(Done(slot)) for slot in range(MAX_SLOTS))
_TURN = tuple(pack(Turn(slot)) for slot in range(MAX_SLOTS))


@dataclass(frozen=True, slots=True)
class _Failing:
    since: float  # monotonic seconds
    reason: str


@dataclass(frozen=True, slots=True)
class _Batch:
    """Slots to run together, by camera."""

    slots: list[tuple[CameraConnection, int]]
    wide: bool  # it uses all threads


class InferenceThreads:
    """Runs the requests of cameras on one model. Call `start` and `close` once."""

    def __init__(self, model: Model, *, threads: int, batching: Batching) -> None:
        self._model = model
        self._poll_lock = threading.Lock()  # held by the thread that polls for requests
        self._lock = threading.Lock()  # guards the following, for short moments
        self._connections: dict[int, CameraConnection] = {}  # by descriptor
        self._queue: TurnQueue[CameraConnection] = TurnQueue()
        self._started: dict[int, float] = {}  # monotonic seconds, by thread
        self._batching = batching
        threads = threads if batching.max_batch == 1 else _OF_BATCHES
        self._width = RunWidth(threads if model.on_cpu and batching.max_batch == 1 else 1)
        self._wide_runner: Runner | None = None  # for one inference at a time that uses all threads
        self._widening: threading.Thread | None = None
        self._inferences = 0
        self._cost_meter = EngineCost(on_cpu=model.on_cpu)
        self._failing: _Failing | None = None  # since the first failure after the last success
        self._closing = False
        self._epoll = select.epoll()
        self._end_read, self._end_write = os.pipe()
        self._epoll.register(self._end_read, select.EPOLLIN)
        self._batch_ended = Wakeup()
        self._epoll.register(self._batch_ended, select.EPOLLIN)
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"inference {number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def add(self, connection: CameraConnection) -> None:
        """Serve a camera that has shared its memory. Any thread may call this."""
        with self._lock:
            self._connections[connection.link.fileno()] = connection
        self._epoll.register(connection.link, select.EPOLLIN)

    def close(self, deadline: float) -> None:
        """Start no more inferences; wait up to `deadline` seconds for the running ones."""
        self._closing = True
        os.write(self._end_write, b"x")  # never read, so that it wakes every thread
        until = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return  # they still use these resources: leave them to the end of the process
        for connection in self._connections.values():
            connection.link.close()
        self._epoll.close()
        os.close(self._end_read)
        os.close(self._end_write)

    def figures(self, now: float) -> tuple[int, float]:
        """The number of inferences so far, and the seconds that the longest running one has taken."""
        with self._lock:
            return self._inferences, max((now - at for at in self._started.values()), default=0.0)

    def cost(self) -> EngineCostReport:
        """What inferences have cost so far."""
        with self._lock:
            return self._cost_meter.report()

    def failure(self, now: float) -> str:
        """Reason why inferences fail, if all of the last seconds did; otherwise ""."""
        failing = self._failing
        return failing.reason if failing is not None and now - failing.since >= FAILING else ""

    def _run(self, number: int) -> None:
        narrow_runner = self._model.runner()
        spent = time.thread_time()
        while (batch := self._next(number)) is not None:
            runner = self._wide_runner if batch.wide else None
            answers = self._infer(runner or narrow_runner, batch)
            now, before, spent = time.monotonic(), spent, time.thread_time()
            with self._lock:
                for connection, slot in batch.slots:
                    self._queue.finish(connection, slot)
                seconds = now - self._started.pop(number)
                self._width.ended(seconds, wide=batch.wide)
                self._inferences += len(batch.slots)
                if not batch.wide:
                    self._cost_meter.ran(len(batch.slots), seconds=seconds, cpu=spent - before)
            if self._batching.max_batch > 1:
                self._batch_ended.set()  # the thread that polls may begin the next one
            for (connection, _), answer in zip(batch.slots, answers, strict=True):
                connection.send(answer)

    def _infer(self, runner: Runner, batch: _Batch) -> list[bytes]:
        """Run a batch, and return the answer for each slot."""
        try:
            runner.run([connection.slots[slot] for connection, slot in batch.slots])
        except run_errors() as exc:
            if len(batch.slots) > 1:  # find those that fail by themselves
                return [self._infer(runner, _Batch([each], batch.wide))[0] for each in batch.slots]
            reason = reason_in(exc)
            if self._failing is None:  # logged once, not for every frame
                logger.warning("an inference failed: %s", reason)
                self._failing = _Failing(time.monotonic(), reason)
            return [pack(Failed(batch.slots[0][1], reason))]
        self._failing = None
        return [_DONE[slot] for _, slot in batch.slots]

    def _next(self, number: int) -> _Batch | None:
        """Wait for the next slots to run; None at the end."""
        with self._poll_lock:
            seconds: float | None = 0.0  # at first: a slot may be filled already
            while not self._closing:
                self._poll(seconds)
                batch, seconds = self._take(number)
                if batch is not None:
                    return batch
            return None

    def _take(self, number: int) -> tuple[_Batch | None, float | None]:
        """Take the next slots to run, and ask cameras to fill those after them.

        Also returns the seconds to wait for another event at most, if there is nothing to run yet.
        """
        now = time.monotonic()
        batch = None
        with self._lock:
            delay = self._batching.delay(
                filled=self._queue.filled,
                coming=self._queue.coming(now),
                oldest=self._queue.oldest,
                running=len(self._started),
                now=now,
            )
            if not delay:
                slots = self._queue.take(now, self._batching.max_batch)
                alone = not self._started and not self._queue.has_waiting
                lone = len(self._connections) == 1
                batch = _Batch(slots, wide=self._width.starts(now, alone=alone, lone=lone))
                self._started[number] = now
            idle = len(self._threads) - len(self._started)
            asked = self._queue.ask(now, self._batching.ahead(idle=idle))
            # Ask another camera if one does not answer.
            wait = min(delay, ANSWER if self._queue.has_requests else math.inf)
            widens = self._width.needs_session and self._widening is None
            if widens:
                self._widening = threading.Thread(target=self._widen, name="wide session", daemon=True)
        for connection, slot in asked:
            connection.send(_TURN[slot])
        if widens and self._widening is not None:
            self._widening.start()
        return batch, None if math.isinf(wait) else wait

    def _widen(self) -> None:
        """Load the model for inferences that use all threads. If that fails, they use one, as before."""
        try:
            self._wide_runner = self._model.wide_runner(len(self._threads))
        except BadModel as exc:
            logger.warning("inferences use one thread each: %s", exc)
            return
        with self._lock:
            self._width.session_is_available()

    def _poll(self, seconds: float | None) -> None:
        """Handle the requests that have arrived; wait up to `seconds` for one, None: without a limit."""
        for descriptor, _ in self._epoll.poll(seconds):
            if descriptor == self._batch_ended.fileno():
                self._batch_ended.clear()
            connection = self._connections.get(descriptor)
            if connection is not None:
                self._handle(connection)

    def _handle(self, connection: CameraConnection) -> None:
        """Read what has arrived, but not more than an honest camera sends: none may delay the others."""
        try:
            for _ in range(2 * len(connection.slots)):
                packet = connection.link.recv(MAX_PACKET)
                if not packet:
                    self._disconnect(connection)
                    return
                self._queue_request(connection, packet)
        except BlockingIOError:
            return
        except (OSError, BadPacket, SlotBusy) as exc:
            logger.warning("disconnected a camera: %s", exc)
            self._disconnect(connection)

    def _queue_request(self, connection: CameraConnection, packet: bytes) -> None:
        message = unpack_from_camera(packet)
        if isinstance(message, SetPriority):
            with self._lock:
                self._queue.set_priority(connection, message.priority)
            return
        if isinstance(message, Share) or message.slot >= len(connection.slots):
            raise BadPacket(f"a request for a slot below {len(connection.slots)}", packet)
        with self._lock:
            match message:
                case RequestTurn(slot, source, decoded_at):
                    # A frame of the future would stay the newest one.
                    self._queue.request_turn(connection, source, slot, min(decoded_at, time.monotonic()))
                case Decline(slot):
                    self._queue.withdraw(connection, slot)
                case Run(slot, source):
                    self._queue.fill(connection, source, slot, time.monotonic())

    def _disconnect(self, connection: CameraConnection) -> None:
        self._epoll.unregister(connection.link)
        with self._lock:
            self._queue.forget(connection)
            del self._connections[connection.link.fileno()]
        connection.link.close()
