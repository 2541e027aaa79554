"""The frames that are decoded and not yet letterboxed: one thread puts, one takes.

When it is full, a file waits, so no frame is lost; on a live source the oldest is dropped, and counted.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from streamfleet_worker.camera.frame import Frame, Image


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

    def __init__(self, capacity: int, *, waits: bool, wakeup: Wakeup) -> None:
        self.capacity = capacity
        self._waits = waits
        self._wakeup = wakeup
        self._frames: deque[Frame] = deque()
        self._pool: deque[Image] = deque(maxlen=capacity + 1)
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False

    def put(self, frame: Frame) -> int:
        """How many older frames had to make room. With `waits` it blocks until there is room, or `close`."""
        with self._changed:
            while self._waits and len(self._frames) >= self.capacity and not self._closed:
                self._changed.wait()
            dropped = 0
            while len(self._frames) >= self.capacity and not self._waits:
                self._pool.append(self._frames.popleft().image)
                dropped += 1
            self._frames.append(frame)
        self._wakeup.set()
        return dropped

    def take(self) -> Frame | None:
        """The next frame, or None when there is none now."""
        with self._changed:
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify()
            return frame

    def give_back(self, image: Image) -> None:
        """The picture is not looked at any more."""
        self._pool.append(image)

    def spare(self) -> Image | None:
        """A picture to decode into, if one was given back."""
        try:
            return self._pool.pop()
        except IndexError:
            return None

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
