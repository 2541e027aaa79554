"""The thread that moves frames: from the buffers through the engine to the sinks, each source in its order.

A file loses no frame: it waits for a slot, for the engine, for its pace and for the end of a pause. A live
source is never waited for: what cannot be shown now is dropped, and counted by cause. No source waits for
another: they share the slots, of which each may always have one.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import supervision as sv

from streamfleet_broker.protocol.data import DataHeader
from streamfleet_broker.protocol.values import PipelineSpec, Want
from streamfleet_worker.camera.buffer import Wakeup
from streamfleet_worker.camera.channel import Channel, Flight
from streamfleet_worker.camera.decode import decode, post_processing
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.engine_client import EngineClient
from streamfleet_worker.camera.frame import Frame
from streamfleet_worker.camera.ledger import Journal
from streamfleet_worker.camera.letterbox import Letterbox
from streamfleet_worker.camera.picture import Painter, Sketch, Viewing
from streamfleet_worker.camera.tracker import Tracker
from streamfleet_worker.control import CameraConfig, PostProcessing
from streamfleet_worker.engine.wire import MAX_SLOTS, Done, Failed

logger = logging.getLogger(__name__)

IN_FLIGHT = 3  # frames of a source: two run while the next is prepared or the last is read
STUCK = 1.0  # seconds that an inference may take until the engine is to blame
_REPEAT = 1.0  # seconds after which the last predictions are sent once more
_LAST_FRAMES = 0.5  # seconds that the publisher may take for them, at the end of files
_IDLE = 0.5  # seconds, the longest wait: what else may need a look is seen then


@dataclass(frozen=True, slots=True)
class _Orders:
    """What of the agent's wishes can change while the sources play."""

    gen: int
    want: Want
    rules: PostProcessing
    limits: tuple[float | None, ...]  # frames/s, by source
    tracks: bool


def _orders(gen: int, want: Want, spec: PipelineSpec, defaults: PostProcessing) -> _Orders:
    return _Orders(
        gen=gen,
        want=want,
        rules=post_processing(spec, defaults),
        limits=tuple(source.max_fps or spec.max_fps for source in spec.sources),
        tracks=spec.tracker is not None,
    )


class Player:
    """Owns the engine's client, in a thread of its own. Other threads call what is public."""

    def __init__(
        self,
        config: CameraConfig,
        channels: Sequence[Channel],
        *,
        wakeup: Wakeup,
        emitter: Emitter,
        journal: Journal,
        changed: Wakeup,
    ) -> None:
        self._config = config
        self._channels = tuple(channels)
        self._turns = deque(channels)  # whose frame goes next
        self._wakeup = wakeup
        self._changed = changed  # wakes the thread that reports
        self._emitter = emitter
        self._journal = journal
        slots = min(MAX_SLOTS, IN_FLIGHT + len(channels) - 1)
        self._engine = EngineClient(config.engine_socket, config.manifest, slots=slots)
        self._letterboxes = [Letterbox(config.manifest) for _ in channels]
        self._failing_sinks: set[str] = set()
        self._emission = threading.Lock()  # held while anything leaves; guards _orders and the emitter
        self._orders = _orders(config.gen, config.want, config.spec, config.defaults)
        self._obeyed: _Orders | None = None  # the orders that the channels know
        self._tell_ledgers()
        self._paused_at: float | None = None  # monotonic seconds
        self._held = 0.0  # seconds of all pauses that are over
        self._fresh_from = 0.0  # monotonic seconds of the end of the last pause
        self._viewing = Viewing()
        self._repeat_at = 0.0  # monotonic seconds
        self._ready: set[int] = set()  # descriptors to which something had come when the last wait ended
        self._showing = False
        self._painter: Painter | None = None  # there is none until somebody looks
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

    def change(self, gen: int, want: Want, spec: PipelineSpec) -> None:
        """Emit under this generation and by this spec, or pause. When this returns, it is so."""
        orders = _orders(max(self._orders.gen, gen), want, spec, self._config.defaults)
        doors = self._emitter.doors_to(spec.sinks)
        with self._emission:
            if self.paused and want == "run":
                self._fresh_from = time.monotonic()
            self._orders = orders
            self._emitter.use(doors)
            self._tell_ledgers()
        self._wakeup.set()

    def show(self, wanted: bool) -> None:
        """Make pictures for people, or no more. One thread calls this."""
        if wanted and self._painter is None:
            self._painter = Painter(self._config.manifest.labels, self._leave)
            self._painter.start()
        self._showing = wanted

    @property
    def gen(self) -> int:
        """What is emitted is emitted under this generation."""
        return self._orders.gen

    @property
    def paused(self) -> bool:
        """Nothing is emitted."""
        return self._orders.want == "pause"

    @property
    def began(self) -> bool:
        """An engine has been reached since the process began."""
        return self._began

    @property
    def done(self) -> bool:
        """All sources are at their end, and every frame of them has been emitted."""
        return self._done

    @property
    def failed(self) -> bool:
        """The thread ended by an error of ours."""
        return self._failed

    def waits_for_engine(self, now: float) -> bool:
        """No frame moves, and the camera is not to blame."""
        return not self._engine.connected or any(_is_stuck(channel, now) for channel in self._channels)

    def _tell_ledgers(self) -> None:
        for channel in self._channels:
            channel.ledger.paused(self.paused)

    # the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._obey(time.monotonic())  # first: what is to be paused must not run through meanwhile
            self._emitter.await_sinks()
            self._journal.inference_thread("STARTED")
            while not self._stopped and not self._done:
                self._turn()
            self._repeat_lasts(time.monotonic())
            self._journal.inference_thread("FINISHED")
        except Exception:
            logger.exception("the player died")
            self._failed = True
        finally:
            self._engine.close()
            with self._emission:
                self._emitter.close(_LAST_FRAMES if self._done else 0.0)
            if self._painter is not None:
                self._painter.stop()
            self._changed.set()

    def _turn(self) -> None:
        if self._wakeup.fileno() in self._ready:
            self._wakeup.clear()
        now = time.monotonic()
        self._obey(now)
        self._tend_engine(now)
        if self._engine.fileno() in self._ready:
            self._hear_engine(now)
        self._submit_frames()
        self._land_flights()
        self._submit_frames()
        self._note_ends()
        if now >= self._repeat_at:
            self._repeat_lasts(now)
        if not self._done:
            self._wait()

    def _obey(self, now: float) -> None:
        """Tell the channels what the agent has changed."""
        orders = self._orders
        if orders is self._obeyed:
            return
        self._obeyed = orders
        paused_at, paused = self._paused_at, orders.want == "pause"
        self._paused_at = (now if paused_at is None else paused_at) if paused else None
        if paused_at is not None and not paused:
            self._held += now - paused_at
        for channel, limit in zip(self._channels, orders.limits, strict=True):
            channel.pace.limit(limit)
            channel.buffer.hold(channel.finite and paused)
            if paused_at is not None and not paused:
                channel.holds.add(paused_at, now)

    def _tend_engine(self, now: float) -> None:
        if self._engine.connected:
            return
        for channel in self._channels:
            if not channel.finite:
                self._abandon_flights(channel)
        if self._engine.connect(now) and not self._began:
            self._began = True
            self._changed.set()

    def _abandon_flights(self, channel: Channel) -> None:
        """The engine died. By the time that there is another, a live source has newer frames."""
        for flight in [flight for flight in channel.flights if flight.ready_at is None]:
            channel.flights.remove(flight)
            self._release(channel, flight)
            channel.ledger.dropped("engine")

    def _hear_engine(self, now: float) -> None:
        answer = self._engine.answer(now)
        if answer is not None:
            channel, flight = self._flight_in(answer.slot)
            self._hear(answer, channel, flight, now)

    def _flight_in(self, slot: int) -> tuple[Channel, Flight]:
        return next(
            (channel, flight)
            for channel in self._channels
            for flight in channel.flights
            if flight.slot == slot
        )

    def _hear(self, answer: Done | Failed, channel: Channel, flight: Flight, now: float) -> None:
        flight.ready_at = now
        if isinstance(answer, Failed):
            flight.failure = answer.reason
            channel.ledger.inference_failed(answer.reason)
        else:
            channel.ledger.inferred(decoded_at=flight.began_at, started_at=flight.submitted_at, ready_at=now)

    def _submit_frames(self) -> None:
        """Bring frames into free slots, one of each source in turn, for as long as there are both."""
        idle = 0
        while idle < len(self._turns):
            channel = self._turns[0]
            self._turns.rotate(-1)
            idle = 0 if self._submit_next(channel, time.monotonic()) else idle + 1

    def _submit_next(self, channel: Channel, now: float) -> bool:
        """Whether a frame of this source went."""
        if not self._may_submit(channel, now) or not self._has_room(channel):
            return False
        slot = self._engine.borrow()
        if slot is None:
            return False
        frame = channel.take(now)
        if frame is None:
            self._engine.give_back(slot)
            return False
        self._submit(channel, frame, slot, now)
        return True

    def _may_submit(self, channel: Channel, now: float) -> bool:
        early = channel.pace.wait(now) > 0
        if channel.finite:
            return not self.paused and not early
        if self.paused or early:
            channel.drain("muted" if self.paused else "max_fps", now)
            return False
        return self._engine.connected

    def _has_room(self, channel: Channel) -> bool:
        """Whether there is a slot beyond those that are kept for sources which have none."""
        if len(channel.flights) >= IN_FLIGHT:
            return False
        kept = sum(
            1 for other in self._channels if other is not channel and not other.flights and not other.done
        )
        return not channel.flights or self._engine.free > kept

    def _submit(self, channel: Channel, frame: Frame, slot: int, now: float) -> None:
        letterbox = self._letterboxes[channel.source_id]
        geometry = letterbox.write(frame.image, self._engine.slot(slot).input)
        decoded_at = frame.stamp.decoded_at
        flight = Flight(
            frame.stamp,
            geometry,
            slot,
            began_at=decoded_at + (channel.holds.within(decoded_at, now) if channel.finite else 0.0),
            held=self._held,
            submitted_at=time.monotonic(),
        )
        flight.shown = self._showing and self._viewing.wants(channel.source_id, now)
        if flight.shown or self._emitter.wants_images:
            flight.image = frame.image
        else:
            channel.buffer.give_back(frame.image)
        channel.pace.went(now)
        channel.holds.add(now, channel.pace.due)
        channel.flights.append(flight)
        self._engine.submit(slot, now)

    def _land_flights(self) -> None:
        for channel in self._channels:
            self._land_flights_of(channel)

    def _land_flights_of(self, channel: Channel) -> None:
        """Emit what the engine is through with, oldest first.

        A process may be killed between two lines of this. Then a file's frame comes twice, as it must not be
        lost; and the number of a live source's frame is left out, as it must not be given to another.
        """
        while channel.flights and channel.flights[0].ready_at is not None:
            flight = channel.flights[0]
            if not channel.finite:
                channel.advance(flight.stamp.frame_id)
            if not flight.failure and not self._emit(channel, flight):
                return
            if channel.finite:
                channel.advance(flight.stamp.frame_id)
            channel.flights.popleft()
            self._release(channel, flight)

    def _emit(self, channel: Channel, flight: Flight) -> bool:
        """Whether the frame is dealt with; a file's frame that meets a pause is not, and is kept."""
        with self._emission:
            orders = self._orders
            if orders.want == "pause" and channel.finite:
                return False
            # A live source shows what is now: not what was under way when a pause began, nor after it.
            if not channel.finite and (orders.want == "pause" or flight.stamp.decoded_at < self._fresh_from):
                channel.ledger.dropped("muted")
                return True
            detections = self._detect(channel, flight, orders)
            header = self._emitter.emit(
                detections,
                flight.stamp,
                flight.geometry,
                source_id=channel.source_id,
                gen=orders.gen,
                image=flight.image,
            )
        if header is None:
            channel.ledger.dropped("fenced")
            return True
        now = time.monotonic()
        held = self._held - flight.held if channel.finite else 0.0
        channel.ledger.emitted(now, latency=now - flight.began_at - held)
        self._note_sinks()
        self._sketch(channel, flight, detections, header)
        return True

    def _detect(self, channel: Channel, flight: Flight, orders: _Orders) -> sv.Detections:
        output = self._engine.slot(flight.slot).output
        detections = decode(output, flight.geometry, manifest=self._config.manifest, rules=orders.rules)
        if not orders.tracks:
            channel.tracker = None
            return detections
        confidence = orders.rules.confidence
        if channel.tracker is None:
            channel.tracker = Tracker(confidence=confidence, fps=flight.stamp.fps)
        channel.tracker.retune(confidence=confidence)
        return channel.tracker.update(detections, flight.stamp.media_time)

    def _sketch(
        self, channel: Channel, flight: Flight, detections: sv.Detections, header: DataHeader
    ) -> None:
        """Have a picture made, if this is a frame for one."""
        if not flight.shown or flight.image is None or self._painter is None:
            return
        image, flight.image = flight.image, None
        self._painter.offer(Sketch(image, detections, channel.source_id, header, channel.buffer.give_back))

    def _leave(self, jpeg: bytes, sketch: Sketch) -> None:
        """Called by the painter's thread."""
        with self._emission:
            if self._showing and self._orders.want == "run":
                self._emitter.emit_picture(jpeg, sketch.header)

    def _release(self, channel: Channel, flight: Flight) -> None:
        self._engine.give_back(flight.slot)
        if flight.image is not None:
            channel.buffer.give_back(flight.image)

    def _note_sinks(self) -> None:
        """One event when a sink begins to fail, not one a frame."""
        errors = self._emitter.errors
        if not errors and not self._failing_sinks:
            return
        for sink in errors.keys() - self._failing_sinks:
            self._journal.sink_failed(sink, errors[sink])
        self._failing_sinks = set(errors)

    def _repeat_lasts(self, now: float) -> None:
        self._repeat_at = now + _REPEAT
        with self._emission:
            self._emitter.repeat_lasts()

    def _note_ends(self) -> None:
        for channel in self._channels:
            if not channel.done and channel.over:
                channel.done = True
                channel.ledger.over()
        self._done = all(channel.done for channel in self._channels)

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
        paces = (channel.pace.wait(now) for channel in self._channels if channel.finite)
        dues += [pause for pause in paces if pause > 0]
        self._ready = {descriptor for descriptor, _ in poll.poll(min(dues) * 1000)}


def _is_stuck(channel: Channel, now: float) -> bool:
    """Whether the engine takes too long for a frame. Any thread may ask."""
    try:
        oldest = channel.flights[0]
    except IndexError:
        return False
    return oldest.ready_at is None and now - oldest.submitted_at > STUCK
