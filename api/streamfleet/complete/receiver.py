"""What a complete subscription does, apart from its waiting: messages, the orders of pipelines, requests."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import zmq

from streamfleet.complete.order import BEFORE_ALL, MAX_PENDING_BYTES, PipelineOrder
from streamfleet.complete.values import Checkpoint, Gap, Position
from streamfleet.errors import BadSetting
from streamfleet.prediction import MAX_PIPELINES, Prediction
from streamfleet_core.peers.replay import ReplayAnswer, ReplayHolders, ReplayRequest
from streamfleet_core.peers.selection import Selection, SelectionRequest
from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, pipeline_topic, split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_SELECTED
from streamfleet_core.protocol.prediction import PredictionDocument, decode, device_of

MAX_REQUESTS = 64  # at a time; the other pipelines wait for their turn
_LOOK_INTERVAL = 0.05  # seconds between two looks at what pipelines wait for
_AT_ONCE = 256  # messages read before the next look
_ASK_AGAIN = 2.0  # seconds without an answer about labels, after which it is asked for again
_REFRESH = 30.0  # seconds after which it is asked for again in any case
_TURN = 1.0  # seconds between two calls, after which the caller was busy


@dataclass(frozen=True, slots=True)
class Received:
    """A prediction as it was received. It is decoded when it is its turn."""

    pipeline_id: str
    header: DataHeader
    body: bytes = field(repr=False)

    def document(self) -> PredictionDocument:
        """Decode it. Raises: BadData."""
        return decode(self.body)

    def prediction(self) -> Prediction:
        """Decode it. Raises: BadData."""
        wall = self.header.captured_wall_ns
        captured_at = wall / 1e9 if wall else None
        return Prediction.of(
            self.document(), self.pipeline_id, self.header.key, missing=0, captured_at=captured_at
        )


@dataclass(slots=True)
class _Selected:
    """The pipelines with some labels."""

    pipelines: frozenset[str] | None = None  # None: not known yet
    request: SelectionRequest | None = None
    heard: int = 0  # the number of the last message
    ask_at: float = 0.0  # when to ask again


class Receiver:
    """The messages of a SUB socket in their complete order. One thread or task uses it at a time.

    Its clock stands still while the caller is busy: no device is away because of that.

    Args:
        pipelines: those to receive; none: all that are received.
        oldest: whether a pipeline without a position begins with the oldest kept prediction.
        patience: seconds of silence after which a device is away.
        room: bytes of the predictions of a pipeline that may wait for earlier ones.
        selectors: labels as `site=hall-1,line=3`: all pipelines with them are received, too, as they change.
    """

    def __init__(
        self,
        sub_socket: zmq.Socket[bytes],
        pipelines: Iterable[str],
        checkpoint: Checkpoint,
        *,
        oldest: bool,
        patience: float,
        room: int = MAX_PENDING_BYTES,
        selectors: Iterable[str] = (),
    ) -> None:
        self.unreadable = 0  # received messages that were neither predictions nor answers
        self._socket = sub_socket
        self._named = self._chosen = frozenset(pipelines)
        self._selected: dict[str, _Selected] = {each: _Selected() for each in selectors}
        self._start = Position(*BEFORE_ALL, None) if oldest else None
        self._patience = patience
        self._room = room
        self._heard: dict[str, float] = {}  # by device: when it was last heard, in monotonic seconds
        self._orders: dict[str, PipelineOrder[Received]] = {}
        self._positions = dict(checkpoint.positions)
        self._asked: dict[str, ReplayRequest] = {}  # by pipeline: what is subscribed to
        self._ready: list[str] = []  # pipelines that may have something to deliver
        self._look_at = 0.0
        self._called = time.monotonic()
        self._unattended = 0.0  # seconds in which the caller was busy
        for pipeline_id in checkpoint.positions if not self._chosen and not self._selected else ():
            self._order_of(pipeline_id, self._called)
        self._begin(self._chosen, self._called)

    @property
    def has_selected(self) -> bool:
        """Whether all pipelines with the labels are known."""
        return all(each.pipelines is not None for each in self._selected.values())

    @property
    def checkpoint(self) -> Checkpoint:
        """How far it has come: up to and including the last value that was taken."""
        return Checkpoint(dict(self._positions))

    def position(self, pipeline_id: str) -> Position:
        """How far it has come with a pipeline of which something was taken."""
        return self._positions[pipeline_id]

    def take(self, now: float) -> Received | Gap | None:
        """The next value that is ready."""
        now = self._attended(now)
        while self._ready:
            pipeline_id = self._ready[-1]
            order = self._orders[pipeline_id]
            has_turn = pipeline_id in self._asked or len(self._asked) < MAX_REQUESTS
            found = order.take(now, may_ask=has_turn)
            self._follow(pipeline_id, order.request)
            if found is not None:
                assert order.position is not None
                self._positions[pipeline_id] = order.position
                return found
            self._ready.pop()
        return None

    def wait_ms(self, now: float) -> int:
        """Milliseconds to wait for messages; 0: `take` may have something, as time has passed."""
        now = self._attended(now)
        if now < self._look_at:
            return max(1, round((self._look_at - now) * 1000))
        self._look_at = now + _LOOK_INTERVAL
        self._ready = list(self._orders)
        for labels, selected in self._selected.items():
            if now >= selected.ask_at:
                self._select(labels, selected, now)
        return 0

    def read(self, now: float) -> None:
        """Read waiting messages, up to a limit."""
        now = self._attended(now)
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

    def _attended(self, now: float) -> float:
        """The time of its clock."""
        if now - self._called > _TURN:
            self._unattended += now - self._called
        self._called = now
        return now - self._unattended

    def _receive(self, frames: list[bytes], now: float) -> str:
        """Handle a message. Returns its pipeline, "" if it is of none. Raises: BadData, BadSetting."""
        subject, header, body = split(frames)
        selection = SelectionRequest.parse(frames[0])
        if selection is not None:
            self._handle_selection(selection, header.seq, Selection.decode(body), now)
            return ""
        request = ReplayRequest.parse(frames[0])
        pipeline_id = subject if request is None else request.pipeline_id
        if request is None and header.kind is not Kind.PRED:
            raise BadData("a prediction", header.kind.name)
        if self._selected and pipeline_id not in self._chosen:  # until a moment ago it had the labels
            return ""
        order = self._order_of(pipeline_id, now)
        if request is not None and header.flags & Flag.HOLDERS:
            order.hold(request.token, ReplayHolders.decode(body).holders, now)
            return pipeline_id
        if request is not None and header.flags & Flag.ANSWER:
            answer = ReplayAnswer.decode(body)
            self._heard[answer.device] = now
            order.answer(request.token, answer, header.key[0], now)
            return pipeline_id
        device = device_of(body)
        self._heard[device] = now
        received = Received(pipeline_id, header, body)
        order.receive(header.key, received, device, now, live=request is None, size=len(body))
        return pipeline_id

    def _begin(self, pipelines: Iterable[str], now: float) -> None:
        """Ask for what was missed of pipelines whose position is known, or whose oldest is wanted."""
        for pipeline_id in sorted(pipelines):
            if pipeline_id in self._positions or self._start is not None:
                self._order_of(pipeline_id, now)

    def _select(self, labels: str, selected: _Selected, now: float) -> None:
        """Ask for the pipelines with labels, again after a while: a message about a change may be lost."""
        if selected.request is not None:
            self._socket.unsubscribe(selected.request.topic)
        selected.request = SelectionRequest(labels, secrets.token_hex(4))
        selected.heard = 0
        selected.ask_at = now + _ASK_AGAIN
        self._socket.subscribe(selected.request.topic)

    def _handle_selection(
        self, request: SelectionRequest, number: int, selection: Selection, now: float
    ) -> None:
        """Follow the pipelines with labels, and no others. Raises: BadSetting."""
        selected = self._selected.get(request.labels)
        if selected is None or selected.request != request or number <= selected.heard:
            return
        if selection.more:
            found = len(selection.pipelines) + selection.more
            raise BadSetting(
                "pipelines", f"{request.labels}: expected at most {MAX_SELECTED} pipelines, got {found}"
            )
        selected.heard, selected.ask_at = number, now + _REFRESH
        selected.pipelines = frozenset(selection.pipelines)
        before = self._chosen
        all_selected = (each.pipelines or frozenset() for each in self._selected.values())
        self._chosen = self._named.union(*all_selected)
        for pipeline_id in sorted(before - self._chosen):
            self._socket.unsubscribe(pipeline_topic(Kind.PRED, pipeline_id))
            self._follow(pipeline_id, None)
            self._orders.pop(pipeline_id, None)
        for pipeline_id in sorted(self._chosen - before):
            self._socket.subscribe(pipeline_topic(Kind.PRED, pipeline_id))
        self._begin(self._chosen - before, now)

    def _order_of(self, pipeline_id: str, now: float) -> PipelineOrder[Received]:
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
                room=self._room,
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
