"""The thread that reads a source: opens it, skips frames emitted earlier, and reopens it when it is lost.

    NOT_STARTED → INITIALISING ⇄ ERROR
                  INITIALISING → RUNNING → ERROR → RESTARTING → INITIALISING
                                 RUNNING → ENDED   (finite sources only)

A source may block this thread. No other thread waits for it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from streamfleet_core.protocol.source_reference import SourceKind, is_finite, kind_of, path_of, sanitised
from streamfleet_core.protocol.values import DecoderChoice, SourceSpec
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.frame import Frame, Picture, Stamp
from streamfleet_worker.video.hardware.choice import Decoders, NeededSize
from streamfleet_worker.video.sources.buffer import FrameBuffer
from streamfleet_worker.video.sources.buffer_policy import consumption_of, filling_of
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.open_source import open_source, timeouts_of
from streamfleet_worker.video.sources.packet_skipper import Demand, PacketSkipper
from streamfleet_worker.video.sources.retry_policy import SourceBackoff
from streamfleet_worker.video.telemetry.log_throttle import LogThrottle
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics

logger = logging.getLogger(__name__)

_USUAL_FPS = 25.0  # frames/s of a file that declares none
_SURE = 3  # attempts, after which an unchanged file counts as invalid
_UNDECODED = ("damaged", "adaptive")  # causes of frames that do not count as decoded
_LONGEST_GAP = 60.0  # seconds between two pictures of a file that plays like a camera


class Reader:
    """Fills a buffer from a source until it ends or `stop` is called."""

    def __init__(
        self,
        spec: SourceSpec,
        *,
        position: int,
        buffer: FrameBuffer,
        metrics: SourceMetrics,
        decoder: DecoderChoice = "software",
        drop_cause: Callable[[float], str | None] = lambda _: None,
        demand: Callable[[], Demand | None] = lambda: None,
        needed_size: NeededSize = lambda _width, _height: None,
        screen: Callable[[Frame], Frame | None] = lambda frame: frame,
    ) -> None:
        """Create it.

        Args:
            position: the last frame that was emitted.
            decoder: used if the source does not choose one.
            drop_cause: why a frame that is grabbed at this time would be dropped; None if it may be needed.
            demand: which pictures of a live source are needed next; None: all.
            needed_size: to which size its pictures may be scaled down.
            screen: gives the frame as it is needed, or None if it shows nothing new.
        """
        self._spec = spec
        self._shown = sanitised(spec.reference)
        self._finite = is_finite(spec)
        self._kind = kind_of(spec.reference)
        self._loops = self._kind is SourceKind.FILE and not self._finite  # a file that plays like a camera
        self._position = position  # of the last frame delivered, by this process or an earlier one
        self._is_new = True  # until a connection has shown whether it has a length
        self._frame_id = 0  # of the last grabbed frame
        self._lost_after = 0  # the frame after which a finite source was lost
        self._timeouts = timeouts_of(spec)
        self._decoders = Decoders(
            spec.decoder or decoder,
            shown=str(self._shown),
            on_change=metrics.decoder_is,
            needed_size=needed_size,
        )
        self._refused: deque[tuple[int, int] | None] = deque(maxlen=_SURE)  # versions of an invalid file
        self._buffer = buffer
        self._drop_cause = drop_cause
        self._skipper = PacketSkipper(demand)
        self._screen = screen
        self._metrics = metrics
        self._backoff = SourceBackoff()
        self._throttle = LogThrottle()
        self._stopped = threading.Event()
        self.failed = False  # the thread ended with an internal error
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        """Start to read."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Stop reading; wait up to `deadline` seconds for a source that does not respond."""
        self._stopped.set()
        self._buffer.close()
        self._thread.join(deadline)

    @property
    def running(self) -> bool:
        """Whether the thread is alive. It cannot end while its source does not respond."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set() and self._read_until_lost():
                self._metrics.source_is("RESTARTING")
        except Exception:
            logger.exception("%s: the reader failed", self._shown)
            self._metrics.source_failed("internal error; see the worker's log", "internal")
            self.failed = True
            self._metrics.source_is("ERROR")

    def _read_until_lost(self) -> bool:
        """Read one connection. Returns whether to try again; the pause before that has passed already."""
        self._metrics.source_is("INITIALISING")
        try:
            self._read_connection()
        except SourceLost as exc:
            pause = self._backoff.failed(exc.cause, random.random())
            self._metrics.source_failed(str(exc), exc.cause, final=self._is_final(exc))
            self._metrics.source_is("ERROR")
            self._log_failure(str(exc), pause)
            self._stopped.wait(pause)
            return True
        return False

    def _is_final(self, lost: SourceLost) -> bool:
        """Whether retrying is pointless: an invalid file that is not being written stays invalid."""
        if self._kind is not SourceKind.FILE or lost.cause not in ("codec", "invalid"):
            self._refused.clear()
            return False
        self._refused.append(_version_of(str(self._spec.reference)))
        return len(self._refused) == _SURE and len(set(self._refused)) == 1

    def _log_failure(self, reason: str, pause: float) -> None:
        times = self._throttle.failed(reason, time.monotonic())
        if times > 1:
            logger.warning("%s; %d attempts since the last line; retrying in %.1f s", reason, times, pause)
        elif times:
            logger.warning("%s; retrying in %.1f s", reason, pause)

    def _read_connection(self) -> None:
        """Read until the end, or until stopped. Raises: SourceLost."""
        capture = self._open()
        if capture is None:
            return
        self._metrics.source_connected(capture)
        self._backoff.succeeded()
        self._metrics.consumption("STARTED")
        pace = _MediaPace() if self._loops else None
        try:
            self._read(capture, pace)
            while pace is not None and not self._stopped.is_set():
                capture = self._open()
                if capture is not None:
                    pace.begin_again(capture)
                    self._read(capture, pace)
        finally:
            self._metrics.consumption("FINISHED")
        if capture is not None and not self._stopped.is_set():
            self._check_end(capture)

    def _open(self) -> Capture | None:
        """Open the source and grab its first picture; None if stopped meanwhile. Raises: SourceLost."""
        first = 1 if self._finite else max(self._frame_id, self._position) + 1
        capture = open_source(
            self._spec,
            first,
            timeouts=self._timeouts,
            finite=True if self._finite else None if self._is_new else False,
            on_wait=self._metrics.set_waiting_for,
            decoders=self._decoders,
            skipper=self._skipper,
        )
        if capture.finite and not self._finite:
            self._become_finite()
            first = 1
        self._is_new = False
        self._frame_id = first - 1
        with ExitStack() as on_error:
            on_error.callback(capture.close)
            while not self._stopped.is_set():
                if not capture.grab():
                    text = "it opens, but contains no decodable picture"
                    raise SourceLost("codec", f"{self._shown}: {text}")
                if not capture.damaged:
                    on_error.pop_all()
                    return capture
                self._skip_damaged()
        return None

    def _become_finite(self) -> None:
        """Treat the source as a file: its URL turned out to have a length."""
        self._finite = True
        self._metrics.become_finite()
        self._buffer.become_finite(
            filling_of(self._spec, finite=True), consumption_of(self._spec, finite=True)
        )

    def _skip_damaged(self) -> None:
        """Count a damaged frame before the first picture."""
        self._frame_id += 1
        if self._frame_id > self._position:
            self._position = self._frame_id
            self._metrics.grabbed(time.monotonic())
            self._metrics.dropped("damaged")

    def _read(self, capture: Capture, pace: _MediaPace | None) -> None:
        """Deliver frames until the source ends, or until stopped. Raises: SourceLost."""
        more = True
        with closing(capture):
            while more and not self._stopped.wait(pace.wait(capture, time.monotonic()) if pace else 0.0):
                self._frame_id += 1
                # Frames that were emitted before are grabbed again and skipped: seeking is not exact.
                if not self._finite or self._frame_id > self._position:
                    self._deliver(capture)
                more = capture.grab()

    def _check_end(self, capture: Capture) -> None:
        """Mark the source as ended. Raises: SourceLost if this was not its real end."""
        if not self._finite:
            gone = "the camera was unplugged" if self._kind is SourceKind.DEVICE else "the stream ended"
            raise SourceLost("ended", f"{self._shown}: {gone}")
        if self._kind is SourceKind.URL and self._is_too_early(capture):
            self._lost_after = self._frame_id
            of = f" of {capture.total_frames}" if capture.total_frames > self._frame_id else ""
            text = f"the stream ended after {self._frame_id}{of} frames"
            raise SourceLost("ended", f"{self._shown}: {text}")
        self._metrics.source_ended(capture.remark)
        self._buffer.finish()

    def _is_too_early(self, capture: Capture) -> bool:
        """Whether it ended early. The declared length is often wrong.

        A second end at the same frame is real.
        """
        return capture.broken and self._frame_id != self._lost_after

    def _deliver(self, capture: Capture) -> None:
        picture, drop_cause = self._retrieve(capture)
        now = time.monotonic()
        self._metrics.grabbed(now, self._timeouts.following if self._kind is SourceKind.URL else 0.0)
        self._position = self._frame_id
        if capture.skipped or drop_cause in _UNDECODED:
            self._metrics.dropped(drop_cause)
            return
        self._metrics.decoded()
        self._metrics.source_is("RUNNING")
        if picture is None:
            self._metrics.dropped(drop_cause)
            return
        stamp = Stamp(
            frame_id=self._frame_id,
            decoded_at=now,
            wall_ns=time.time_ns(),
            boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            media_time=self._media_time(capture) if self._finite else now,
            fps=capture.fps,
        )
        frame = self._screen(Frame(stamp, picture))
        if frame is None:
            self._metrics.dropped("still")
            self._buffer.await_release()
            return
        dropped = self._buffer.put(frame)
        if dropped:
            self._metrics.dropped("buffer", dropped)

    def _retrieve(self, capture: Capture) -> tuple[Picture | None, str]:
        """The grabbed picture and ""; or None and the cause for which it is dropped."""
        now = time.monotonic()
        if capture.damaged:
            return None, "damaged"
        if not self._buffer.wants(now, capture.fps):
            return None, "adaptive"
        cause = self._drop_cause(now)
        if capture.skipped:
            return None, cause or "max_fps"
        if cause is not None:
            return None, cause
        picture = capture.retrieve()
        return picture, "damaged" if picture is None else ""

    def _media_time(self, capture: Capture) -> float:
        own = capture.media_time
        return self._frame_id / (capture.fps or _USUAL_FPS) if own is None else own


def _version_of(reference: str) -> tuple[int, int] | None:
    """Time and size of a file; None if unknown."""
    try:
        found = Path(path_of(reference)).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size


class _MediaPace:
    """The pace of a file that plays like a camera: each picture is due at its own time."""

    def __init__(self) -> None:
        self._shown: tuple[float, float] | None = None  # media seconds and monotonic seconds of the last one

    def begin_again(self, capture: Capture) -> None:
        """The file is played again: its first picture is due one frame after the last one."""
        if self._shown is not None:
            first, gap = capture.media_time or 0.0, 1 / (capture.fps or _USUAL_FPS)
            self._shown = (first - gap, self._shown[1])

    def wait(self, capture: Capture, now: float) -> float:
        """Seconds until the grabbed picture is due."""
        media_time = capture.media_time or 0.0
        if self._shown is None:
            self._shown = (media_time, now)
            return 0.0
        media, shown_at = self._shown
        due = shown_at + min(_LONGEST_GAP, media_time - media)
        # A late picture causes no burst of more than one.
        self._shown = (media_time, max(due, now - (media_time - media)))
        return max(0.0, due - now)
