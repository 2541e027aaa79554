"""The thread that reads a source: opens it, skips what was emitted before, opens it again when it is lost.

    NOT_STARTED → INITIALISING ⇄ ERROR
                  INITIALISING → RUNNING → ERROR → RESTARTING → INITIALISING
                                 RUNNING → ENDED   (finite sources only)

It is the one thread that may be held up by a source, and nobody waits for it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from contextlib import ExitStack, closing

from streamfleet_broker.protocol.reference import SourceKind, is_finite, kind_of, sanitised
from streamfleet_broker.protocol.values import SourceSpec
from streamfleet_worker.camera.backoff import SourceBackoff
from streamfleet_worker.camera.buffer import FrameBuffer
from streamfleet_worker.camera.complaints import Complaints
from streamfleet_worker.camera.frame import Frame, Stamp
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.lost import SourceLost
from streamfleet_worker.camera.pace import Pace
from streamfleet_worker.camera.source import READ_TIMEOUT, Capture, open_source

logger = logging.getLogger(__name__)

_USUAL_FPS = 25.0  # frames/s where a file declares nothing


class Reader:
    """Fills a buffer from a source until it ends or `stop` is called."""

    def __init__(self, spec: SourceSpec, *, position: int, buffer: FrameBuffer, ledger: Ledger) -> None:
        self._spec = spec
        self._shown = sanitised(spec.reference)
        self._finite = is_finite(spec)
        self._kind = kind_of(spec.reference)
        self._loops = self._kind is SourceKind.FILE and not self._finite  # a file that plays the live camera
        self._position = position  # of the last frame that was handed on, by this process or an earlier one
        self._frame_id = 0  # of the frame grabbed last
        self._broke_off = 0  # the frame after which a finite source was lost
        self._buffer = buffer
        self._ledger = ledger
        self._backoff = SourceBackoff()
        self._complaints = Complaints()
        self._stopped = threading.Event()
        self.failed = False  # the thread ended by an error of ours
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Stop reading; wait at most so many seconds for a source that does not answer."""
        self._stopped.set()
        self._buffer.close()
        self._thread.join(deadline)

    @property
    def running(self) -> bool:
        """The thread has not ended, as it does only when its source answers."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set() and self._read_until_lost():
                self._ledger.source_is("RESTARTING")
        except Exception:
            logger.exception("the reader died")
            self._ledger.source_failed("an error of our own; the worker's log has it", "internal")
            self.failed = True
            self._ledger.source_is("ERROR")

    def _read_until_lost(self) -> bool:
        """Whether there is reason to try again, after a pause that is over when this returns."""
        self._ledger.source_is("INITIALISING")
        try:
            self._play()
        except SourceLost as exc:
            pause = self._backoff.failed(exc.cause, random.random())
            self._ledger.source_failed(str(exc), exc.cause)
            self._ledger.source_is("ERROR")
            self._complain(str(exc), pause)
            self._stopped.wait(pause)
            return True
        return False

    def _complain(self, reason: str, pause: float) -> None:
        times = self._complaints.failed(reason, time.monotonic())
        if times > 1:
            logger.warning("%s; %d attempts since this was said; retrying in %.1f s", reason, times, pause)
        elif times:
            logger.warning("%s; retrying in %.1f s", reason, pause)

    def _play(self) -> None:
        """Until the end, or until stopped. Raises: SourceLost."""
        capture = self._begin()
        self._ledger.source_connected(capture)
        self._backoff.succeeded()
        self._ledger.consumption("STARTED")
        try:
            self._read(capture)
            while self._loops and not self._stopped.is_set():
                capture = self._begin()
                self._read(capture)
        finally:
            self._ledger.consumption("FINISHED")
        if not self._stopped.is_set():
            self._end(capture)

    def _begin(self) -> Capture:
        """The source, open and at its first frame. Raises: SourceLost."""
        first = 1 if self._finite else max(self._frame_id, self._position) + 1
        capture = open_source(self._spec, first)
        self._frame_id = first - 1
        with ExitStack() as if_it_fails:
            if_it_fails.callback(capture.close)
            if not self._grab(capture):
                text = "it opens, but holds no picture that can be decoded"
                raise SourceLost("codec", f"{self._shown}: {text}")
            if_it_fails.pop_all()
        return capture

    def _read(self, capture: Capture) -> None:
        """Until the source has no more, or until stopped. Raises: SourceLost."""
        pace = Pace(capture.fps or _USUAL_FPS) if self._loops else Pace(None)
        more = True
        with closing(capture):
            while more and not self._stopped.wait(pace.wait(time.monotonic())):
                pace.went(time.monotonic())
                self._frame_id += 1
                # What was emitted before is grabbed again and not shown: seeking is not exact.
                if not self._finite or self._frame_id > self._position:
                    self._hand_on(capture)
                more = self._grab(capture)

    def _grab(self, capture: Capture) -> bool:
        """Go on to the next frame. False: there is none. Raises: SourceLost when it takes too long."""
        began = time.monotonic()
        more = capture.grab()
        # Even if there is one: when FFmpeg has given up, OpenCV still hands out what the decoder kept back,
        # and waits as long again for each.
        if self._kind is SourceKind.URL and time.monotonic() - began >= READ_TIMEOUT:
            raise SourceLost("timeout", f"{self._shown}: no frame came for {READ_TIMEOUT:.0f} s")
        return more

    def _end(self, capture: Capture) -> None:
        """Was this the end? Raises: SourceLost when it was not."""
        if not self._finite:
            gone = "the camera was unplugged" if self._kind is SourceKind.DEVICE else "the stream ended"
            raise SourceLost("ended", f"{self._shown}: {gone}")
        if self._kind is SourceKind.URL and self._is_too_early(capture):
            self._broke_off = self._frame_id
            text = f"the stream ended after {self._frame_id} of {capture.total_frames} frames"
            raise SourceLost("ended", f"{self._shown}: {text}")
        self._ledger.source_is("ENDED")
        self._buffer.finish()

    def _is_too_early(self, capture: Capture) -> bool:
        """The number of frames is often a guess: what ends twice at the same frame has its end there."""
        return self._frame_id < capture.total_frames and self._frame_id != self._broke_off

    def _hand_on(self, capture: Capture) -> None:
        wanted = self._buffer.wants(time.monotonic(), capture.fps)
        image = capture.retrieve(self._buffer.spare()) if wanted else None
        now = time.monotonic()
        self._ledger.grabbed(now)
        self._position = self._frame_id
        if image is None:
            self._ledger.dropped("damaged" if wanted else "adaptive")
            return
        self._ledger.decoded()
        self._ledger.source_is("RUNNING")
        stamp = Stamp(
            frame_id=self._frame_id,
            decoded_at=now,
            wall_ns=time.time_ns(),
            boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            media_time=self._frame_id / (capture.fps or _USUAL_FPS) if self._finite else now,
            fps=capture.fps,
        )
        dropped = self._buffer.put(Frame(stamp, image))
        if dropped:
            self._ledger.dropped("buffer", dropped)
