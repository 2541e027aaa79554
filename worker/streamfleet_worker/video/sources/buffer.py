"""The frames that are decoded and not yet letterboxed: one thread puts, one takes.

WAIT           what does not fit waits, so no frame is lost
DROP_OLDEST    the frame that waited longest makes room
DROP_LATEST    what does not fit is dropped
ADAPTIVE_…     the same, and frames that would be dropped anyway are not even decoded

LAZY           the oldest frame is taken first
EAGER          the newest is taken, and those before it are dropped
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Protocol

from streamfleet_core.protocol.values import Consumption, Filling
from streamfleet_worker.video.frame import Frame, Image
from streamfleet_worker.video.sources.buffer_policy import Paces, Rate, Skipping


class Signal(Protocol):
    """What wakes a thread: a `Wakeup`, or a `threading.Event`."""

    def set(self) -> None:
        """Wake the thread that waits, or the next wait."""
        ...


class Wakeup:
    """Ends the wait of the thread that polls it; any thread may call `set`."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """What to poll."""
        return self._descriptor

    def set(self) -> None:
        """Wake the thread that waits, or the next wait."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Called by the thread that waits, before it looks at what there is."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return


class FrameBuffer:
    """At most `capacity` frames, and the pictures that were given back, to decode the next ones into."""

    def __init__(
        self,
        capacity: int,
        *,
        wakeup: Signal,
        filling: Filling = "WAIT",
        consumption: Consumption = "LAZY",
        finite: bool = False,
    ) -> None:
        self.finite = finite  # its source is: it may turn out so before the first frame, and then stays so
        self.capacity = capacity
        self.filling: Filling = filling
        self.consumption: Consumption = consumption
        self._wakeup = wakeup
        self._frames: deque[Frame] = deque()
        self._pool: deque[Image] = deque(maxlen=capacity + 1)
        self._changed = threading.Condition()  # guards all but the pool
        self._held = False
        self._finished = False
        self._closed = False
        self._skipping = Skipping() if filling.startswith("ADAPTIVE") else None
        self._grabbing, self._decoding, self._reading = Rate(), Rate(), Rate()

    def wants(self, now: float, announced: float) -> bool:
        """Whether the frame that was just grabbed is to be decoded; `announced` is the source's own rate."""
        if self._skipping is None:
            return True
        with self._changed:
            self._grabbing.tick(now)
            paces = Paces(announced, self._grabbing.until(), self._decoding.until(), self._reading.until(now))
            waiting = now - self._frames[-1].stamp.decoded_at if self._frames else None
            return not self._skipping.skips(paces, waiting)

    def put(self, frame: Frame) -> int:
        """How many frames were dropped for it, or with it. A buffer that waits blocks until there is room."""
        with self._changed:
            while self._full and self._waits and not self._closed:
                self._changed.wait()
            self._decoding.tick(frame.stamp.decoded_at)
            dropped = 1 if self._full and not self._waits else 0
            if dropped and self.filling.endswith("DROP_LATEST"):
                self._pool.append(frame.image)
                return dropped
            if dropped:
                self._pool.append(self._frames.popleft().image)
            first = not self._frames
            self._frames.append(frame)
        if first:  # who left frames here waits for something else than one more
            self._wakeup.set()
        return dropped

    def take(self, now: float) -> list[Frame]:
        """The frame that is next, as the last, and before it those that it has overtaken. Empty: none."""
        with self._changed:
            if not self._frames:
                return []
            self._reading.tick(now)
            count = len(self._frames) if self.consumption == "EAGER" else 1
            frames = [self._frames.popleft() for _ in range(count)]
            self._changed.notify()
            return frames

    def drain(self, now: float) -> list[Frame]:
        """All frames that there are, of a source that may lose them. A film keeps its own."""
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
        """Its source turned out to be a film. Called before its first frame."""
        with self._changed:
            self.finite = True
            self.filling, self.consumption = filling, consumption
            self._skipping = Skipping() if filling.startswith("ADAPTIVE") else None

    def give_back(self, image: Image) -> None:
        """The picture is not looked at any more."""
        self._pool.append(image)

    def spare(self) -> Image | None:
        """A picture to decode into, if one was given back."""
        try:
            return self._pool.pop()
        except IndexError:
            return None

    def hold(self, held: bool) -> None:
        """Wait for room whatever the strategy says: a file that is paused must not run through."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def finish(self) -> None:
        """No frame will come any more."""
        self._finished = True
        self._wakeup.set()

    @property
    def exhausted(self) -> bool:
        """Every frame that will ever come has been taken."""
        with self._changed:
            return self._finished and not self._frames

    def close(self) -> None:
        """Let a waiting `put` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _full(self) -> bool:
        return len(self._frames) >= self.capacity

    @property
    def _waits(self) -> bool:
        return self._held or self.filling == "WAIT"
