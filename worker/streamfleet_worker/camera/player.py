"""The thread that moves frames: from the buffer through the engine to the sinks, strictly in order.

A file loses no frame: it waits for a slot, for the engine, for its pace and for the end of a pause. A live
source is never waited for: what cannot be shown now is dropped, and counted by cause.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from dataclasses import dataclass

import supervision as sv

from streamfleet_broker.protocol.reference import SourceKind, kind_of
from streamfleet_broker.protocol.values import Want
from streamfleet_worker.camera.buffer import FrameBuffer, Wakeup
from streamfleet_worker.camera.decode import decode, post_processing
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.engine_client import EngineClient
from streamfleet_worker.camera.frame import Frame, Stamp
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.letterbox import Geometry, Letterbox
from streamfleet_worker.camera.pace import Pace
from streamfleet_worker.camera.tracker import Tracker
from streamfleet_worker.control import CameraConfig
from streamfleet_worker.engine.wire import Failed
from streamfleet_worker.progress import Progress

logger = logging.getLogger(__name__)

STUCK = 1.0  # seconds that an inference may take until the engine is to blame
_IDLE = 0.5  # seconds, the longest wait: what else may need a look is seen then


@dataclass(slots=True)
class Flight:
    """A frame in a slot."""

    stamp: Stamp
    geometry: Geometry
    slot: int
    submitted_at: float  # monotonic seconds
    ready_at: float | None = None  # monotonic seconds, when the engine was through with it
    failure: str = ""  # why there is no output
    detections: sv.Detections | None = None  # once they have been read and tracked


class Player:
    """Owns the engine's client and the sinks, in a thread of its own. Other threads call what is public."""

    def __init__(
        self,
        config: CameraConfig,
        *,
        buffer: FrameBuffer,
        wakeup: Wakeup,
        emitter: Emitter,
        progress: Progress,
        ledger: Ledger,
        changed: Wakeup,
    ) -> None:
        self._config = config
        self._finite = kind_of(config.spec.sources[0].reference) is SourceKind.FILE
        self._rules = post_processing(config.spec, config.defaults)
        self._buffer = buffer
        self._wakeup = wakeup
        self._changed = changed  # wakes the thread that reports
        self._emitter = emitter
        self._progress = progress
        self._ledger = ledger
        self._engine = EngineClient(config.engine_socket, config.manifest)
        self._letterbox = Letterbox(config.manifest)
        self._pace = Pace(config.spec.max_fps)
        self._tracker: Tracker | None = None
        self._flights: deque[Flight] = deque()  # in the order of their frames
        self._failing_sinks: set[str] = set()
        self._emission = threading.Lock()  # held while a frame leaves; guards _gen and _want
        self._gen = config.gen
        self._want: Want = config.want
        self._stopped = False
        self._done = False
        self._began = False  # an engine has been there
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="player", daemon=True)

    # for other threads ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to move frames."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Emit nothing any more; wait at most so many seconds for the frame under way."""
        self._stopped = True
        self._wakeup.set()
        self._thread.join(deadline)

    def change(self, gen: int, want: Want) -> None:
        """Emit under this generation, or pause. When this returns, it is so."""
        with self._emission:
            self._gen = max(self._gen, gen)
            self._want = want
        self._wakeup.set()

    @property
    def gen(self) -> int:
        """What is emitted is emitted under this generation."""
        return self._gen

    @property
    def paused(self) -> bool:
        """Nothing is emitted."""
        return self._want == "pause"

    @property
    def began(self) -> bool:
        """An engine has been reached since the process began."""
        return self._began

    @property
    def done(self) -> bool:
        """The file is at its end, and every frame of it has been emitted."""
        return self._done

    @property
    def failed(self) -> bool:
        """The thread ended by an error of ours."""
        return self._failed

    def waits_for_engine(self, now: float) -> bool:
        """No frame moves, and the camera is not to blame."""
        if not self._engine.connected:
            return True
        try:
            oldest = self._flights[0]
        except IndexError:
            return False
        return oldest.ready_at is None and now - oldest.submitted_at > STUCK

    # the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._emitter.await_sinks()
            self._ledger.inference_thread("STARTED")
            while not self._stopped and not self._done:
                self._turn()
            self._ledger.inference_thread("FINISHED")
        except Exception:
            logger.exception("the player died")
            self._failed = True
        finally:
            self._engine.close()
            self._emitter.close()
            self._changed.set()

    def _turn(self) -> None:
        self._wakeup.clear()
        now = time.monotonic()
        self._tend_engine(now)
        self._hear_engine(now)
        self._submit_frames()
        self._land_flights()
        self._submit_frames()
        if self._buffer.exhausted and not self._flights:
            self._done = True
            return
        self._wait()

    def _tend_engine(self, now: float) -> None:
        if self._engine.connected:
            return
        if not self._finite:
            self._abandon_flights()
        if self._engine.connect(now) and not self._began:
            self._began = True
            self._changed.set()

    def _abandon_flights(self) -> None:
        """The engine died. By the time that there is another, a live source has newer frames."""
        for flight in [flight for flight in self._flights if flight.ready_at is None]:
            self._flights.remove(flight)
            self._engine.give_back(flight.slot)
            self._ledger.dropped("engine")

    def _hear_engine(self, now: float) -> None:
        for answer in self._engine.answers(now):
            flight = next(flight for flight in self._flights if flight.slot == answer.slot)
            flight.ready_at = now
            if isinstance(answer, Failed):
                flight.failure = answer.reason
                self._ledger.inference_failed(answer.reason)
            else:
                self._ledger.inferred(
                    decoded_at=flight.stamp.decoded_at, started_at=flight.submitted_at, ready_at=now
                )

    def _submit_frames(self) -> None:
        """Bring frames into free slots, for as long as there are both."""
        while (now := time.monotonic()) and self._may_submit(now):
            slot = self._engine.borrow()
            if slot is None:
                return
            frame = self._buffer.take()
            if frame is None:
                self._engine.give_back(slot)
                return
            self._submit(frame, slot, now)

    def _may_submit(self, now: float) -> bool:
        if self._finite:
            return not self.paused and self._pace.wait(now) == 0
        cause = "muted" if self.paused else "max_fps" if self._pace.wait(now) else ""
        if not cause:
            return self._engine.connected
        while (frame := self._buffer.take()) is not None:
            self._ledger.dropped(cause)
            self._buffer.give_back(frame.image)
        return False

    def _submit(self, frame: Frame, slot: int, now: float) -> None:
        geometry = self._letterbox.write(frame.image, self._engine.slot(slot).input)
        self._buffer.give_back(frame.image)
        self._pace.went(now)
        self._flights.append(Flight(frame.stamp, geometry, slot, time.monotonic()))
        self._engine.submit(slot, now)

    def _land_flights(self) -> None:
        """Emit what the engine is through with, oldest first.

        A process may be killed between two lines of this. Then a file's frame comes twice, as it must not be
        lost; and the number of a live source's frame is left out, as it must not be given to another.
        """
        while self._flights and self._flights[0].ready_at is not None:
            flight = self._flights[0]
            if not self._finite:
                self._progress.advance(flight.stamp.frame_id)
            if not flight.failure and not self._emit(flight):
                return
            if self._finite:
                self._progress.advance(flight.stamp.frame_id)
            self._flights.popleft()
            self._engine.give_back(flight.slot)

    def _emit(self, flight: Flight) -> bool:
        """Whether the frame is dealt with; a file's frame that meets a pause is not, and is kept."""
        if flight.detections is None:
            flight.detections = self._detect(flight)
        with self._emission:
            if self._want == "pause":
                if self._finite:
                    return False
                self._ledger.dropped("muted")
            elif self._emitter.emit(flight.detections, flight.stamp, flight.geometry, gen=self._gen):
                self._ledger.emitted(time.monotonic())
            else:
                self._ledger.dropped("fenced")
        self._note_sinks()
        return True

    def _detect(self, flight: Flight) -> sv.Detections:
        output = self._engine.slot(flight.slot).output
        detections = decode(output, flight.geometry, manifest=self._config.manifest, rules=self._rules)
        if self._config.spec.tracker is None:
            return detections
        if self._tracker is None:
            self._tracker = Tracker(confidence=self._rules.confidence, fps=flight.stamp.fps)
        return self._tracker.update(detections, flight.stamp.media_time)

    def _note_sinks(self) -> None:
        """One update when a sink begins to fail, not one a frame."""
        errors = self._emitter.errors
        for sink in errors.keys() - self._failing_sinks:
            self._ledger.sink_failed(sink, errors[sink])
        self._failing_sinks = set(errors)

    def _wait(self) -> None:
        """Until a frame, an answer or a wish comes, or something is due."""
        now = time.monotonic()
        dues = [_IDLE]
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        engine = self._engine.fileno()
        if engine is not None:
            poll.register(engine, select.POLLIN)
        else:
            dues.append(self._engine.wait(now))
        if self._finite and (pause := self._pace.wait(now)) > 0:
            dues.append(pause)
        poll.poll(min(dues) * 1000)
