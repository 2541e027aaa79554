"""The thread that reads a source: opens it, skips what was emitted before, opens it again when it is lost.

    NOT_STARTED → INITIALISING ⇄ ERROR
                  INITIALISING → RUNNING → ERROR → RESTARTING → INITIALISING
                                 RUNNING → ENDED   (files only)

It is the one thread that may be held up by a source, and nobody waits for it.
"""

from __future__ import annotations

import logging
import random
import threading
import time

from streamfleet_broker.protocol.reference import sanitised
from streamfleet_broker.protocol.values import SourceSpec
from streamfleet_worker.camera.backoff import Backoff
from streamfleet_worker.camera.buffer import FrameBuffer
from streamfleet_worker.camera.frame import Frame, Stamp
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.source import Capture, SourceLost, open_source

logger = logging.getLogger(__name__)

FIRST_PAUSE = 1.0  # seconds, between attempts to open a source
LONGEST_PAUSE = 30.0  # seconds
_USUAL_FPS = 30.0  # frames/s where a file declares nothing


class Reader:
    """Fills a buffer from a source until the file ends or `stop` is called."""

    def __init__(self, spec: SourceSpec, *, position: int, buffer: FrameBuffer, ledger: Ledger) -> None:
        self._spec = spec
        self._shown = sanitised(spec.reference)
        self._position = position  # of the last frame that an earlier process emitted
        self._frame_id = 0  # of the frame grabbed last
        self._buffer = buffer
        self._ledger = ledger
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
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

    def _run(self) -> None:
        try:
            while not self._stopped.is_set() and self._read_until_lost():
                self._ledger.source_is("RESTARTING")
        except Exception:
            logger.exception("the reader died")
            self._ledger.source_failed("an error of our own; the worker's log has it")
            self.failed = True
            self._ledger.source_is("ERROR")

    def _read_until_lost(self) -> bool:
        """Whether there is reason to try again, after a pause that is over when this returns."""
        self._ledger.source_is("INITIALISING")
        try:
            capture = open_source(self._spec, max(self._frame_id, self._position) + 1)
            try:
                self._read(capture)
            finally:
                capture.close()
        except SourceLost as exc:
            pause = self._backoff.failed(random.random())
            self._ledger.source_failed(str(exc))
            self._ledger.source_is("ERROR")
            logger.warning("%s; retrying in %.1f s", exc, pause)
            self._stopped.wait(pause)
            return True
        return False

    def _read(self, capture: Capture) -> None:
        """Read until the end of a file, or until stopped. Raises: SourceLost."""
        self._frame_id = 0 if capture.finite else max(self._frame_id, self._position)
        more = capture.grab()
        if not more:
            raise SourceLost(f"{self._shown}: it opens, but holds no picture that can be decoded")
        self._ledger.source_connected(capture)
        self._backoff.succeeded()
        self._ledger.consumption("STARTED")
        while more and not self._stopped.is_set():
            self._frame_id += 1
            # What an earlier process emitted is grabbed again and not shown: seeking is not exact.
            if not capture.finite or self._frame_id > self._position:
                self._hand_on(capture)
            more = capture.grab()
        if self._stopped.is_set():
            return
        self._ledger.consumption("FINISHED")
        if not capture.finite:
            raise SourceLost(f"{self._shown}: the stream ended, or gave no frame for too long")
        self._ledger.source_is("ENDED")
        self._buffer.finish()

    def _hand_on(self, capture: Capture) -> None:
        image = capture.retrieve(self._buffer.spare())
        now = time.monotonic()
        self._ledger.grabbed(now)
        if image is None:
            self._ledger.dropped("damaged")
            return
        self._ledger.source_is("RUNNING")
        stamp = Stamp(
            frame_id=self._frame_id,
            decoded_at=now,
            wall_ns=time.time_ns(),
            boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            media_time=self._frame_id / (capture.fps or _USUAL_FPS) if capture.finite else now,
            fps=capture.fps,
        )
        dropped = self._buffer.put(Frame(stamp, image))
        if dropped:
            self._ledger.dropped("buffer", dropped)
