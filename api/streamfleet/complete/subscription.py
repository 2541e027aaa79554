"""A subscription that yields each prediction once and in order, or says which are gone."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmq
from typing_extensions import Self

from streamfleet.complete.order import BEFORE_ALL, PipelineOrder
from streamfleet.complete.values import Checkpoint, Gap, Position
from streamfleet.errors import NothingReceived
from streamfleet.prediction import MAX_PIPELINES, Prediction
from streamfleet_core.peers.replay import ReplayAnswer, ReplayHolders, ReplayRequest
from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import decode

MAX_REQUESTS = 64  # at a time; the other pipelines wait for their turn
_LOOK_INTERVAL = 0.05  # seconds between two looks at what pipelines wait for
_AT_ONCE = 256  # messages read before the next look
_CLOSE_TIMEOUT = 1.0  # seconds for the iterating thread to stop


class CompleteSubscription:
    """An iterator of predictions and gaps, in order within each pipeline. Use it in a `with` block.

    One thread may iterate at a time. Any thread may close it, which ends the iteration within 0.2 s.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sub_socket: zmq.Socket[bytes],
        pipelines: Sequence[str],
        checkpoint: Checkpoint,
        *,
        file: Path | None,
        oldest: bool,
        patience: float,
        timeout: float | None,
    ) -> None:
        self.unreadable = 0  # received messages that were neither predictions nor answers
        self._context = context
        self._socket = sub_socket
        self._chosen = frozenset(pipelines)
        self._file = file
        self._start = Position(*BEFORE_ALL, None) if oldest else None
        self._patience = patience
        self._timeout = timeout
        self._heard: dict[str, float] = {}  # by device: when it was last heard, in monotonic seconds
        self._orders: dict[str, PipelineOrder[Prediction]] = {}
        self._positions = dict(checkpoint.positions)
        self._asked: dict[str, ReplayRequest] = {}  # by pipeline: what is subscribed to
        self._ready: list[str] = []  # pipelines that may have something to deliver
        self._look_at = 0.0
        self._saved: Position | None = None
        self._last: str | None = None  # the pipeline of the last delivered value
        self._in_use = threading.Lock()
        self._is_closed = False
        known = {each for each in checkpoint.positions if not self._chosen or each in self._chosen}
        for pipeline_id in sorted(known | (self._chosen if oldest else set())):
            self._order_of(pipeline_id, time.monotonic())

    @property
    def checkpoint(self) -> Checkpoint:
        """How far it has come: up to and including the last value that it has yielded."""
        return Checkpoint(dict(self._positions))

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
                found = self._take(time.monotonic())
                if found is not None:
                    return found
                self._wait(started)
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
                self._socket.close(linger=0)
                self._context.term()
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

    # values -----------------------------------------------------------------------------------------------

    def _take(self, now: float) -> Prediction | Gap | None:
        """The next value that is ready."""
        while self._ready:
            pipeline_id = self._ready[-1]
            order = self._orders[pipeline_id]
            has_turn = pipeline_id in self._asked or len(self._asked) < MAX_REQUESTS
            found = order.take(now, may_ask=has_turn)
            self._follow(pipeline_id, order.request)
            if found is not None:
                assert order.position is not None
                self._positions[pipeline_id] = order.position
                self._last = pipeline_id
                return found
            self._ready.pop()
        return None

    def _save(self) -> None:
        if self._file is None or self._last is None:
            return
        self._last = None
        self.checkpoint.save(self._file)

    def _wait(self, started: float) -> None:
        """Read what has arrived, or wait for it. Raises: NothingReceived."""
        now = time.monotonic()
        if self._timeout is not None and now - started >= self._timeout:
            raise NothingReceived("predictions", self._timeout)
        if now >= self._look_at:  # time passes for pipelines that wait, too
            self._look_at = now + _LOOK_INTERVAL
            self._ready = list(self._orders)
            return
        if not self._socket.poll(max(1, round((self._look_at - now) * 1000))):
            return
        now = time.monotonic()
        touched: dict[str, None] = {}
        for _ in range(_AT_ONCE):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                touched[self._receive(frames, now)] = None
            except BadData:
                self.unreadable += 1
        self._ready = [each for each in touched if each]

    # messages ---------------------------------------------------------------------------------------------

    def _receive(self, frames: list[bytes], now: float) -> str:
        """Handle a message. Returns the pipeline, "" if it is none of ours. Raises: BadData."""
        subject, header, body = split(frames)
        request = ReplayRequest.parse(frames[0])
        pipeline_id = subject if request is None else request.pipeline_id
        order = self._order_of(pipeline_id, now)
        if request is None:
            if header.kind is not Kind.PRED:
                raise BadData("a prediction", header.kind.name)
        elif header.flags & Flag.HOLDERS:
            order.hold(request.token, ReplayHolders.decode(body).holders, now)
            return pipeline_id
        elif header.flags & Flag.ANSWER:
            answer = ReplayAnswer.decode(body)
            self._heard[answer.device] = now
            order.answer(request.token, answer, header.key[0], now)
            return pipeline_id
        prediction = _prediction(pipeline_id, header, body)
        self._heard[prediction.device] = now
        order.receive(header.key, prediction, prediction.device, now, live=request is None)
        return pipeline_id

    def _order_of(self, pipeline_id: str, now: float) -> PipelineOrder[Prediction]:
        order = self._orders.get(pipeline_id)
        if order is None:
            if len(self._orders) >= MAX_PIPELINES:
                raise BadData(f"at most {MAX_PIPELINES} pipelines", pipeline_id)
            order = self._orders[pipeline_id] = PipelineOrder(
                pipeline_id,
                self._positions.get(pipeline_id, self._start),
                patience=self._patience,
                heard=lambda device: self._heard.get(device, float("-inf")),
                token=lambda: secrets.token_hex(4),
                now=now,
            )
        return order

    def _follow(self, pipeline_id: str, request: ReplayRequest | None) -> None:
        """Subscribe to what a pipeline asks for, in place of what it asked for before."""
        asked = self._asked.get(pipeline_id)
        if asked == request:
            return
        if asked is not None:
            self._socket.unsubscribe(asked.topic)
            del self._asked[pipeline_id]
        if request is not None:
            self._socket.subscribe(request.topic)
            self._asked[pipeline_id] = request


def _prediction(pipeline_id: str, header: DataHeader, body: bytes) -> Prediction:
    captured_at = header.captured_wall_ns / 1e9 if header.captured_wall_ns else None
    return Prediction.of(decode(body), pipeline_id, header.key, missing=0, captured_at=captured_at)
