"""The thread that moves frames from the buffers through the engine to the sinks, each source in order.

A file loses no frame: it waits for a slot, the engine, its pace, and the end of a pause. A live source never
waits: frames that cannot be processed now are dropped, and counted by cause. No source waits for another:
they share the slots, and one slot is reserved for each.

Other models take over while it runs, that of the pipeline, of stages, or both: their engines are connected,
the frames at the former ones are emitted, and the next frames go to the new ones. Sources, tracks and sinks
go on.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from streamfleet_core.protocol.status import StageStat
from streamfleet_core.protocol.tasks.trials import ShadowCounts
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.frame_output import FrameOutput
from streamfleet_worker.camera.in_flight_frame import InFlightFrame
from streamfleet_worker.camera.next_models import NextModels
from streamfleet_worker.camera.run_settings import RunSettings
from streamfleet_worker.camera.shadow import ShadowModel
from streamfleet_worker.camera.slot_scheduler import IN_FLIGHT, SlotScheduler
from streamfleet_worker.camera.stages.cascade import Cascade
from streamfleet_worker.engine.client import EngineClient
from streamfleet_worker.engine.messages import MAX_SLOTS, Done, Failed, Turn
from streamfleet_worker.ipc.child_messages import CameraConfig, Change, Compare, ModelConfig
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.frame import Frame
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.telemetry.event_journal import EventJournal

logger = logging.getLogger(__name__)

_REPEAT = 1.0  # seconds after which the last predictions are repeated
_LAST_FRAMES = 0.5  # seconds for the publisher to accept them, at the end of files
_IDLE = 0.5  # seconds, the longest wait before everything is checked again
_LEAVING_LIVE = 1.0  # seconds for the former models to answer for frames of live sources
_LEAVING_FILE = 30.0  # the same for files, whose frames must not be lost


@dataclass(frozen=True, slots=True)
class _Upcoming:
    """A change, and all models of the pipeline once it is in effect: its own, then that of each stage."""

    change: Change
    models: tuple[ModelConfig, ...]


class FrameLoop:
    """Owns the client of the engine, on its own thread. Other threads may call the public methods."""

    def __init__(
        self,
        config: CameraConfig,
        lanes: Sequence[SourceLane],
        *,
        wakeup: Wakeup,
        emitter: Emitter,
        journal: EventJournal,
        changed: Wakeup,
    ) -> None:
        self._config = config
        self._lanes = tuple(lanes)
        self._scheduler: SlotScheduler[InFlightFrame] = SlotScheduler(len(self._lanes))
        self._wakeup = wakeup
        self._changed = changed  # wakes the thread that reports
        self._output = FrameOutput(config, lanes, emitter=emitter, journal=journal)
        self._journal = journal
        self._slots = min(MAX_SLOTS, IN_FLIGHT + len(lanes) - 1)
        self._models = config.models
        self._engine = EngineClient(config.engine_socket, config.manifest, slots=self._slots)
        self._letterboxes = [Letterbox(config.manifest) for _ in lanes]
        self._changing = threading.Lock()  # held during a change; guards the following
        self._upcoming: _Upcoming | None = None  # a change of models that is not in effect yet
        self._next: NextModels | None = None  # of that change
        self._compare: Compare | None = None  # as the agent said last
        self._compared: Compare | None = None  # to which the shadow belongs
        self._shadow: ShadowModel | None = None
        self._cascade = Cascade(config)
        self._applied: RunSettings | None = None  # the settings that the lanes have
        self._paused_at: float | None = None  # monotonic seconds
        self._held = 0.0  # total seconds of finished pauses
        self._repeat_at = 0.0  # monotonic seconds
        self._ready: set[int] = set()  # descriptors that were ready after the last wait
        self._stopped = False
        self._done = False
        self._began = False  # an engine was connected
        self._failed = False
        self._cpu = 0.0  # seconds of the thread
        self._thread = threading.Thread(target=self._run, name="frame loop", daemon=True)

    # for other threads ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Stop emitting; wait up to `deadline` seconds for the current frame."""
        self._stopped = True
        self._wakeup.set()
        self._thread.join(deadline)

    def change(self, change: Change) -> None:
        """Apply a change. It is in effect when this returns, under its generation.

        If models change, all else is in effect, and its generation rises when they have taken over.
        """
        with self._changing:
            models = self._models if self._upcoming is None else self._upcoming.models
            if change.models:
                models = tuple(new or now for new, now in zip(change.models, models, strict=True))
            waits = models != self._models
            self._upcoming = _Upcoming(change, models) if waits else None
            generation = self.generation if waits else change.generation
            self._output.change(generation, change.desired_status, change.spec)
        self._wakeup.set()

    def compare(self, compare: Compare) -> None:
        """Let another model infer some frames, too, or no longer."""
        self._compare = compare
        self._wakeup.set()

    @property
    def shadow(self) -> ShadowCounts | None:
        """What the shadow has done; None if there is none."""
        shadow = self._shadow
        return None if shadow is None else shadow.counts

    def show(self, wanted: bool) -> None:
        """Start or stop making previews. Only one thread may call this."""
        self._output.show(wanted)
        for lane in self._lanes:
            lane.gate.watch(wanted)

    @property
    def manifest(self) -> Manifest:
        """The first model in use. Any thread may ask."""
        return self._models[0].manifest

    @property
    def generation(self) -> int:
        """The generation of everything that is emitted."""
        return self._output.settings.generation

    @property
    def paused(self) -> bool:
        """Whether it is paused: nothing is emitted."""
        return self._output.settings.paused

    @property
    def problem(self) -> str:
        """What is wrong with the settings, although it runs; "" if nothing is."""
        return self._output.settings.problem

    @property
    def began(self) -> bool:
        """Whether an engine was connected since the start of the process."""
        return self._began

    @property
    def done(self) -> bool:
        """Whether all sources have ended, and all their frames were emitted."""
        return self._done

    @property
    def failed(self) -> bool:
        """Whether the thread ended with an internal error."""
        return self._failed

    @property
    def cpu(self) -> float:
        """The CPU time of the thread in seconds."""
        return self._cpu

    def waits_for_engine(self, now: float) -> bool:
        """Whether no frame moves, and the cause is the engine."""
        return not self._engine.connected or not self._cascade.connected or self._scheduler.is_stuck(now)

    @property
    def stages(self) -> tuple[StageStat, ...]:
        """The counters of each stage."""
        return self._cascade.stats

    # the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._apply_settings(time.monotonic())  # first: a paused file must not play on
            self._output.await_sinks()
            self._journal.inference_thread("STARTED")
            while not self._stopped and not self._done:
                self._step()
            self._repeat_last_predictions(time.monotonic())
            self._journal.inference_thread("FINISHED")
        except Exception:
            logger.exception("the frame loop failed")
            self._failed = True
        finally:
            self._engine.close()
            self._forget_next()
            self._forget_shadow()
            self._cascade.close()
            self._output.close(_LAST_FRAMES if self._done else 0.0)
            self._changed.set()

    def _step(self) -> None:
        if self._wakeup.fileno() in self._ready:
            self._wakeup.clear()
        now = time.monotonic()
        self._apply_settings(now)
        self._reconnect_engine(now)
        if self._engine.fileno() in self._ready:
            self._read_engine(now)
        self._step_shadow(now)
        self._submit_frames()
        self._cascade.step(now)
        self._emit_ready_frames()
        self._change_model(now)
        self._submit_frames()
        self._advance_past_still()
        self._record_ends()
        if now >= self._repeat_at:
            self._repeat_last_predictions(now)
        self._cpu = time.thread_time()
        if not self._done:
            self._wait()

    def _apply_settings(self, now: float) -> None:
        """Apply changed settings to the lanes and the engine."""
        settings = self._output.settings
        if settings is self._applied:
            return
        self._applied = settings
        paused_at, paused = self._paused_at, settings.paused
        self._paused_at = (now if paused_at is None else paused_at) if paused else None
        if paused_at is not None and not paused:
            self._held += now - paused_at
        self._engine.set_priority(settings.priority, now)
        self._cascade.set_priority(settings.priority, now)
        for lane, limit, gate in zip(self._lanes, settings.limits, settings.gates, strict=True):
            lane.pace.limit(limit)
            lane.gate.use(*gate)
            lane.muted = paused
            lane.buffer.hold(lane.finite and paused)
            if paused_at is not None and not paused:
                lane.holds.add(paused_at, now)

    def _reconnect_engine(self, now: float) -> None:
        if self._engine.connected:
            return
        for lane in self._lanes:
            if not lane.finite:
                self._abandon_frames(lane)
        if self._engine.connect(now) and not self._began:
            self._began = True
            self._changed.set()

    def _abandon_frames(self, lane: SourceLane) -> None:
        """Drop frames of a live source after the engine died: it will have newer ones."""
        requested = self._scheduler.forget_request(lane.source_id)
        if requested is not None:
            self._engine.forget_request(requested)
        self._drop_unanswered(lane)

    def _drop_unanswered(self, lane: SourceLane) -> None:
        for frame in self._scheduler.remove_unanswered(lane.source_id):
            self._engine.give_back(frame.slot)
            lane.metrics.dropped("engine")
            lane.gate.forget()

    def _change_model(self, now: float) -> None:
        """Let other models take over, as soon as no frame is at the former ones."""
        upcoming = self._upcoming
        if upcoming is None:
            self._forget_next()
            return
        if self._next is None or self._next.models != upcoming.models:
            self._forget_next()
            self._next = NextModels(
                *(self._models, upcoming.models, self._config.spec.stages, self._config.defaults),
                slots=self._slots,
            )
        if not self._next.connect(now):
            return
        self._abandon_late_frames(self._next, now)
        if any(self._scheduler.has_frames(lane.source_id) for lane in self._lanes):
            return
        if self._changing.acquire(blocking=False):  # otherwise it changes again, and the next step sees it
            try:
                if self._upcoming is upcoming:
                    self._take_over(upcoming.change, self._next)
            finally:
                self._changing.release()

    def _take_over(self, change: Change, by: NextModels) -> None:
        first, *others = (model.manifest for model in by.models)
        if by.engine is not None:
            for lane in self._lanes:
                self._scheduler.forget_request(lane.source_id)
            self._engine.close()
            self._engine = by.engine
            self._letterboxes = [Letterbox(first) for _ in self._lanes]
        self._cascade.take_over(first.labels, by.stages)
        self._models, self._next, self._upcoming = by.models, None, None
        self._output.use_models(first, others, change.generation, change.desired_status, change.spec)
        self._apply_settings(time.monotonic())
        self._changed.set()

    def _abandon_late_frames(self, following: NextModels, now: float) -> None:
        """Drop frames of live sources that the former models do not answer for. A file waits.

        Raises: RuntimeError if it waits for too long: the next process begins with the new models.
        """
        assert following.connected_at is not None
        waited = now - following.connected_at
        for lane in self._lanes:
            if not lane.finite and waited > _LEAVING_LIVE:
                self._drop_unanswered(lane)
            elif lane.finite and waited > _LEAVING_FILE and not self.paused:
                raise RuntimeError(f"the former models have not answered for {_LEAVING_FILE:.0f} s")

    def _forget_next(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None

    def _step_shadow(self, now: float) -> None:
        wanted = self._compare
        if wanted is not self._compared:
            self._compared = wanted
            self._forget_shadow()
            if wanted is not None and wanted.model is not None:
                self._shadow = ShadowModel(wanted.model, wanted, self._output.keep_differing)
        if self._shadow is not None:
            self._shadow.step(now)

    def _forget_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            shadow.close()

    def _offer_to_shadow(self, lane: SourceLane, frame: InFlightFrame) -> None:
        """Let the shadow infer an emitted frame that it wanted."""
        shadow = self._shadow
        if shadow is None or not frame.shadowed:
            return
        shadowed = self._output.shadowed(lane, frame, shadow.model.manifest)
        if shadowed is not None:
            shadow.offer(shadowed, time.monotonic())

    def _read_engine(self, now: float) -> None:
        match self._engine.answer(now):
            case Turn(slot):
                self._take_turn(slot, now)
            case Done(slot) | Failed(slot) as answer:
                source_id, frame = self._scheduler.find(slot)
                self._handle_answer(answer, self._lanes[source_id], frame, now)

    def _handle_answer(
        self, answer: Done | Failed, lane: SourceLane, frame: InFlightFrame, now: float
    ) -> None:
        frame.ready_at = now
        if isinstance(answer, Failed):
            frame.failure = answer.reason
            lane.metrics.inference_failed(answer.reason)
            lane.gate.forget()
        else:
            lane.metrics.inferred(decoded_at=frame.began_at, started_at=frame.submitted_at, ready_at=now)

    def _submit_frames(self) -> None:
        """Submit frames while there are free slots."""
        self._scheduler.submit_in_turn(self._submit_next)

    def _submit_next(self, source_id: int) -> bool:
        """Submit a frame of this source, and return whether there was one."""
        lane, now = self._lanes[source_id], time.monotonic()
        if not self._may_submit(lane, now):
            return False
        if not lane.finite:
            return self._request_turn(lane, now)
        if not self._scheduler.has_room(source_id, self._engine.free):
            return False
        slot = self._engine.borrow()
        if slot is None:
            return False
        frame = lane.take(now)
        if frame is None:
            self._engine.give_back(slot)
            return False
        self._submit(lane, frame, slot, now)
        return True

    def _request_turn(self, lane: SourceLane, now: float) -> bool:
        """Request a turn for the newest frame of a live source, and return whether it took a slot."""
        decoded_at = lane.next_decoded_at
        if decoded_at is None:
            return False
        if self._scheduler.waits_for_turn(lane.source_id):
            waiting = self._scheduler.refresh_request(lane.source_id, decoded_at)
            if waiting is not None:
                self._engine.request_turn(waiting, lane.source_id, decoded_at, now)
            return False
        if not self._scheduler.has_room(lane.source_id, self._engine.free):
            return False
        slot = self._engine.borrow()
        if slot is None:
            return False
        self._scheduler.request_turn(lane.source_id, slot, decoded_at, now)
        self._engine.request_turn(slot, lane.source_id, decoded_at, now)
        return True

    def _take_turn(self, slot: int, now: float) -> None:
        """Submit the newest frame of the live source whose turn has come."""
        lane = self._lanes[self._scheduler.source_in_turn(slot)]
        frame = lane.take(now) if self._may_submit(lane, now) else None
        if frame is None:
            self._engine.decline(slot, now)
        else:
            self._submit(lane, frame, slot, now)

    def _may_submit(self, lane: SourceLane, now: float) -> bool:
        if self._next is not None and self._next.is_ready:
            return False
        early = lane.pace.wait(now) > 0
        if lane.finite:
            return not self.paused and not early
        if self.paused or early:
            lane.drop_waiting(now, muted=self.paused)
            return False
        return self._engine.connected

    def _submit(self, lane: SourceLane, frame: Frame, slot: int, now: float) -> None:
        letterbox = self._letterboxes[lane.source_id]
        geometry = letterbox.write(frame.picture, self._engine.slot(slot).input)
        decoded_at = frame.stamp.decoded_at
        in_flight = InFlightFrame(
            stamp=frame.stamp,
            geometry=geometry,
            slot=slot,
            began_at=decoded_at + (lane.holds.within(decoded_at, now) if lane.finite else 0.0),
            held=self._held,
            submitted_at=time.monotonic(),
            skipped=frame.skipped,
        )
        in_flight.shown = self._output.wants_preview(lane.source_id, now)
        in_flight.shadowed = self._shadow is not None and self._shadow.wants(now)
        if in_flight.shown or in_flight.shadowed or self._output.wants_pictures or self._cascade:
            in_flight.picture = frame.picture
        lane.submitted(frame)
        lane.pace.went(now)
        lane.holds.add(now, lane.pace.due)
        self._scheduler.add(lane.source_id, in_flight)
        self._engine.submit(slot, lane.source_id, now)

    def _emit_ready_frames(self) -> None:
        for lane in self._lanes:
            self._emit_ready_frames_of(lane)

    def _emit_ready_frames_of(self, lane: SourceLane) -> None:
        """Emit the frames that the engine has answered for, oldest first.

        The process may be killed at any line. Then the frame of a file is emitted twice, as it must not be
        lost; and the number of a live frame is skipped, as it must not be used twice.
        """
        now = time.monotonic()
        if self._cascade:
            self._begin_stages(lane, now)
        while (frame := self._scheduler.next_ready(lane.source_id)) is not None:
            if frame.nested is not None and not frame.nested.is_complete(now):
                return
            if not lane.finite:
                lane.advance(frame.stamp.frame_id)
            if not frame.failure and not self._emit(lane, frame):
                return
            self._offer_to_shadow(lane, frame)
            if lane.finite:
                lane.advance(frame.stamp.frame_id)
            if frame.nested is not None:
                frame.nested.close()
            self._scheduler.remove_oldest(lane.source_id)
            self._engine.give_back(frame.slot)

    def _begin_stages(self, lane: SourceLane, now: float) -> None:
        """Begin the stages of frames that the engine has answered for, in their order."""
        for frame in self._scheduler.ready_frames(lane.source_id):
            if frame.nested is not None or frame.failure:
                continue
            frame.findings = self._output.find(lane, frame, self._engine.slot(frame.slot).outputs)
            assert frame.picture is not None
            frame.nested = self._cascade.begin(
                frame.findings, frame.picture, lane.source_id, now, is_live=not lane.finite
            )
        self._cascade.step(now)

    def _emit(self, lane: SourceLane, frame: InFlightFrame) -> bool:
        """Emit a frame, and return whether it is done. The frame of a paused file is kept."""
        held = self._held - frame.held if lane.finite else 0.0
        return self._output.emit(lane, frame, self._engine.slot(frame.slot).outputs, held=held)

    def _repeat_last_predictions(self, now: float) -> None:
        self._repeat_at = now + _REPEAT
        self._output.repeat_last_predictions()

    def _advance_past_still(self) -> None:
        for lane in self._lanes:
            if not self._scheduler.has_frames(lane.source_id):
                lane.advance_past_still()

    def _record_ends(self) -> None:
        for lane in self._lanes:
            if not lane.done and lane.exhausted and not self._scheduler.has_frames(lane.source_id):
                lane.metrics.over()  # first: so that `done` is never visible before the state
                lane.done = True
                self._scheduler.end(lane.source_id)
        self._done = all(lane.done for lane in self._lanes)

    def _wait(self) -> None:
        """Wait for a frame, an answer or a change, or until something is due."""
        now = time.monotonic()
        dues = [_IDLE]
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        engine = self._engine.fileno()
        if engine is not None:
            poll.register(engine, select.POLLIN)
        else:
            dues.append(self._engine.wait(now))
        if self._next is not None and not self._next.is_ready:
            dues.append(self._next.wait(now))
        if self._shadow is not None:
            shadow = self._shadow.fileno()
            if shadow is not None:
                poll.register(shadow, select.POLLIN)
            else:
                dues.append(self._shadow.wait(now))
        for descriptor in self._cascade.descriptors():
            poll.register(descriptor, select.POLLIN)
        dues += self._cascade.waits(now)
        dues += [
            frame.nested.wait(now)
            for lane in self._lanes
            if (frame := self._scheduler.next_ready(lane.source_id)) is not None and frame.nested is not None
        ]
        paces = (lane.pace.wait(now) for lane in self._lanes if lane.finite)
        dues += [pause for pause in paces if pause > 0]
        self._ready = {descriptor for descriptor, _ in poll.poll(max(0.0, min(dues)) * 1000)}
