"""The buffer between reader and frame loop: decoded frames. One thread puts, one takes.

WAIT           if it is full, the reader waits, so that no frame is lost
DROP_OLDEST    if it is full, the oldest frame is dropped
DROP_LATEST    if it is full, the new frame is dropped
ADAPTIVE_…     the same, and frames that would probably be dropped are not decoded

LAZY           the oldest frame is taken first
EAGER          the newest frame is taken, and the others are dropped
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from streamfleet_core.protocol.values import Consumption, Filling
from streamfleet_worker.video.frame import Frame
from streamfleet_worker.video.sources.buffer_policy import Paces, Rate, Skipping

_REFRESH = 0.05  # seconds between two signals for newer frames, while the first one waits


class Signal(Protocol):
    """Wakes a thread: a `Wakeup`, or a `threading.Event`."""

    def set(self) -> None:
        """Wake the waiting thread, or end its next wait at once."""
        ...


class FrameBuffer:
    """Up to `capacity` frames."""

    def __init__(
        self,
        capacity: int,
        *,
        wakeup: Signal,
        filling: Filling = "WAIT",
        consumption: Consumption = "LAZY",
        finite: bool = False,
    ) -> None:
        self.finite = finite  # whether its source is; it may become so before the first frame
        self.capacity = capacity
        self.filling: Filling = filling
        self.consumption: Consumption = consumption
        self._wakeup = wakeup
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()  # guards all of the following
        self._held = False
        self._finished = False
        self._closed = False
        self._signalled_at = 0.0  # monotonic seconds: `decoded_at` of the frame
        self._skipping = Skipping() if filling.startswith("ADAPTIVE") else None
        self._grabbing, self._decoding, self._reading = Rate(), Rate(), Rate()

    def wants(self, now: float, announced: float) -> bool:
        """Return whether to decode the grabbed frame.

        `announced`: the frame rate that the source declares.
        """
        if self._skipping is None:
            return True
        with self._changed:
            self._grabbing.tick(now)
            paces = Paces(announced, self._grabbing.until(), self._decoding.until(), self._reading.until(now))
            waiting = now - self._frames[-1].stamp.decoded_at if self._frames else None
            return not self._skipping.skips(paces, waiting)

    def put(self, frame: Frame) -> int:
        """Add a frame, and return how many frames were dropped. With WAIT it blocks until there is room."""
        with self._changed:
            while self._full and self._waits and not self._closed:
                self._changed.wait()
            self._decoding.tick(frame.stamp.decoded_at)
            dropped = 1 if self._full and not self._waits else 0
            if dropped and self.filling.endswith("DROP_LATEST"):
                return dropped
            if dropped:
                self._frames.popleft()
            decoded_at = frame.stamp.decoded_at
            # If frames remain, the consumer waits for something else, which may depend on the newest one.
            signals = not self._frames or (not self.finite and decoded_at - self._signalled_at >= _REFRESH)
            self._frames.append(frame)
            if signals:
                self._signalled_at = decoded_at
        if signals:
            self._wakeup.set()
        return dropped

    def take(self, now: float) -> list[Frame]:
        """Take the next frame, as the last item, after the frames that it replaces.

        Empty if there is none.
        """
        with self._changed:
            if not self._frames:
                return []
            self._reading.tick(now)
            count = len(self._frames) if self.consumption == "EAGER" else 1
            frames = [self._frames.popleft() for _ in range(count)]
            self._changed.notify()
            return frames

    @property
    def next_decoded_at(self) -> float | None:
        """Monotonic seconds at which the frame that would be taken was decoded; None if there is none."""
        with self._changed:
            if not self._frames:
                return None
            return self._frames[-1 if self.consumption == "EAGER" else 0].stamp.decoded_at

    def drain(self, now: float) -> list[Frame]:
        """Take all frames of a live source. A file keeps its frames."""
        with self._changed:
            if self.finite:
                return []
            if self._frames:
                self._reading.tick(now)
            frames = list(self._frames)
            self._frames.clear()
            self._changed.notify()
            return frames

    def become_finite(self, filling: Filling, consumption: Consumption) -> None:
        """Treat the source as a file. Call it before the first frame."""
        with self._changed:
            self.finite = True
            self.filling, self.consumption = filling, consumption
            self._skipping = Skipping() if filling.startswith("ADAPTIVE") else None

    def await_release(self) -> None:
        """Wait while it is held: a file that is paused does not play on through frames that are not put."""
        with self._changed:
            while self._held and not self._closed:
                self._changed.wait()

    def hold(self, held: bool) -> None:
        """Wait for room regardless of the strategy, so that a paused file does not play on."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def finish(self) -> None:
        """Record that no more frames follow."""
        self._finished = True
        self._wakeup.set()

    @property
    def exhausted(self) -> bool:
        """Whether it is finished, and all frames were taken."""
        with self._changed:
            return self._finished and not self._frames

    def close(self) -> None:
        """Make a waiting `put` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _full(self) -> bool:
        return len(self._frames) >= self.capacity

    @property
    def _waits(self) -> bool:
        return self._held or self.filling == "WAIT"
