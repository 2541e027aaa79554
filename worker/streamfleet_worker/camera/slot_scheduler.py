"""Assigns free slots of the engine to sources, and tracks the frame in each slot.

Sources take turns, one frame each. One slot is reserved for each source that has not ended. A live source has
at most one slot that waits for its turn, and its frame is chosen then. The scheduler holds no memory and no
connection; `engine.client` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

IN_FLIGHT = 3  # frames of a source: two run while the next is prepared or the last is decoded
STUCK = 1.0  # seconds for a turn or an inference, after which the engine counts as stuck


class InSlot(Protocol):
    """The attributes of a frame in a slot that the scheduler reads."""

    @property
    def slot(self) -> int:
        """The index of the slot."""

    @property
    def submitted_at(self) -> float:
        """Monotonic seconds of the request to the engine."""

    @property
    def ready_at(self) -> float | None:
        """Monotonic seconds of the engine's answer; None before it."""


FrameT = TypeVar("FrameT", bound=InSlot)


@dataclass(frozen=True, slots=True)
class _Request:
    """A slot that waits for its turn."""

    slot: int
    decoded_at: float  # monotonic seconds, of the newest frame that the engine knows of
    requested_at: float  # monotonic seconds


class SlotScheduler(Generic[FrameT]):
    """The frames in flight, by source. Sources are numbered from 0.

    Only one thread may use it; any thread may call `is_stuck`.
    """

    def __init__(self, sources: int) -> None:
        self._turns = deque(range(sources))  # each source once; the next in turn is first
        self._in_flight: list[deque[FrameT]] = [deque() for _ in range(sources)]  # each in order
        self._requests: dict[int, _Request] = {}  # by source
        self._ended: set[int] = set()  # sources without frames in flight, which get no more

    def submit_in_turn(self, submit: Callable[[int], bool]) -> None:
        """Call `submit` for the sources in turn until none of them submits a frame."""
        idle = 0
        while idle < len(self._turns):
            source = self._turns[0]
            self._turns.rotate(-1)
            idle = 0 if submit(source) else idle + 1

    def has_room(self, source: int, free: int) -> bool:
        """Whether the source may take one of `free` slots, so that enough are left for other sources."""
        own = len(self._in_flight[source]) + self.waits_for_turn(source)
        if own >= IN_FLIGHT:
            return False
        return not own or free > self._reserved_for_others(source)

    def request_turn(self, source: int, slot: int, decoded_at: float, now: float) -> None:
        """Record that this slot will get a frame of the source when its turn comes."""
        self._requests[source] = _Request(slot, decoded_at, now)

    def refresh_request(self, source: int, decoded_at: float) -> int | None:
        """The slot that waits for its turn, if this frame is newer than what the engine knows of."""
        request = self._requests[source]
        if decoded_at <= request.decoded_at:
            return None
        self._requests[source] = replace(request, decoded_at=decoded_at)
        return request.slot

    def waits_for_turn(self, source: int) -> bool:
        """Whether a slot of the source waits for its turn."""
        return source in self._requests

    def source_in_turn(self, slot: int) -> int:
        """The source whose slot waited for this turn. It waits no longer."""
        source = next(source for source, request in self._requests.items() if request.slot == slot)
        del self._requests[source]
        return source

    def forget_request(self, source: int) -> int | None:
        """The slot of the source that waited for its turn, which will not come; None if there is none."""
        request = self._requests.pop(source, None)
        return None if request is None else request.slot

    def add(self, source: int, frame: FrameT) -> None:
        """Record that the source's next frame is in its slot."""
        self._in_flight[source].append(frame)

    def find(self, slot: int) -> tuple[int, FrameT]:
        """The source and the frame of a slot."""
        return next(
            (source, frame)
            for source, frames in enumerate(self._in_flight)
            for frame in frames
            if frame.slot == slot
        )

    def next_ready(self, source: int) -> FrameT | None:
        """The source's oldest frame, if the engine has answered for it."""
        frames = self._in_flight[source]
        return frames[0] if frames and frames[0].ready_at is not None else None

    def ready_frames(self, source: int) -> list[FrameT]:
        """The source's frames, in order, up to the first that the engine has not answered for."""
        return list(takewhile(lambda frame: frame.ready_at is not None, self._in_flight[source]))

    def remove_oldest(self, source: int) -> None:
        """Remove the source's oldest frame from its slot."""
        self._in_flight[source].popleft()

    def remove_unanswered(self, source: int) -> list[FrameT]:
        """Remove the source's frames that the engine has not answered for."""
        frames = self._in_flight[source]
        removed = [frame for frame in frames if frame.ready_at is None]
        for frame in removed:
            frames.remove(frame)
        return removed

    def has_frames(self, source: int) -> bool:
        """Whether a frame of the source is in flight."""
        return bool(self._in_flight[source])

    def end(self, source: int) -> None:
        """Record that the source has ended: no slot is reserved for it."""
        self._ended.add(source)

    def is_stuck(self, now: float) -> bool:
        """Whether the engine takes too long for a turn, or for the oldest frame of a source.

        Any thread may call this.
        """
        requests = self._requests.copy().values()
        return any(now - request.requested_at > STUCK for request in requests) or any(
            _is_stuck(frames, now) for frames in self._in_flight
        )

    def check(self) -> None:
        """Assert the invariants."""
        assert sorted(self._turns) == list(range(len(self._in_flight)))
        slots = [frame.slot for frames in self._in_flight for frame in frames]
        slots += [request.slot for request in self._requests.values()]
        assert len(set(slots)) == len(slots), "a slot holds one frame"
        assert all(len(frames) <= IN_FLIGHT for frames in self._in_flight)
        assert not any(self._in_flight[source] for source in self._ended)

    def _reserved_for_others(self, source: int) -> int:
        """Number of other sources that have no slot and may need one."""
        return sum(
            1
            for other, frames in enumerate(self._in_flight)
            if other != source and not frames and other not in self._requests and other not in self._ended
        )


def _is_stuck(frames: deque[FrameT], now: float) -> bool:
    try:
        oldest = frames[0]  # the other thread may remove it at any time
    except IndexError:
        return False
    return oldest.ready_at is None and now - oldest.submitted_at > STUCK
