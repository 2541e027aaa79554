"""A camera process: the sources, the model and the sinks of a pipeline. This module only connects the parts.

reader ──┐
reader ──┼─frames─► frame loop ⇄ engine    each a thread; the main thread talks to the agent,
reader ──┘             ├──► sinks          and waits for none of them
                       └──► renderer       previews, while a client watches
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import signal
import sys
import time
from multiprocessing.connection import Connection

import cv2

from streamfleet_core.protocol.source_reference import is_finite, shown_reason
from streamfleet_core.protocol.values import ObservedState, SourceSpec
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.frame_loop import FrameLoop
from streamfleet_worker.camera.needed_size import needed_size
from streamfleet_worker.host.cpu_priority import use_batch_scheduling
from streamfleet_worker.host.own_memory import OwnMemory
from streamfleet_worker.ipc.child_messages import (
    CameraConfig,
    CameraCostReport,
    CameraReport,
    Change,
    Compare,
    Show,
    Stop,
    next_report_after,
    receive,
    send,
)
from streamfleet_worker.ipc.parent_death import die_with_parent
from streamfleet_worker.ipc.playback_position import Progress
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.source_reader import Reader
from streamfleet_worker.video.sources.open_source import quiet_libraries
from streamfleet_worker.video.telemetry.event_journal import EventJournal
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics
from streamfleet_worker.video.telemetry.status_report import (
    SourceFacts,
    observed_state,
    reason_of,
    source_metadata,
    status_report,
)

logger = logging.getLogger(__name__)

_STOPPING = 0.7  # seconds for the frame loop to end, and then for all readers together


class Camera:
    """The parts of one camera process."""

    def __init__(self, config: CameraConfig) -> None:
        """Create the parts. Raises: OSError if the fence cannot be opened."""
        self._config = config
        self.changed = Wakeup()
        self._wakeup = Wakeup()
        self._journal = EventJournal()
        self._progress = Progress.open(config.progress_path, sources=len(config.spec.sources))
        self._emitter = Emitter(config)
        now = time.monotonic()
        self._lanes = [self._lane(*numbered, now) for numbered in enumerate(config.spec.sources)]
        self._readers = [
            Reader(
                spec,
                position=self._progress.position(lane.source_id),
                buffer=lane.buffer,
                metrics=lane.metrics,
                decoder=config.decoder,
                drop_cause=lane.drop_cause,
                demand=lane.demand,
                needed_size=self._needed_size,
                screen=lane.screen,
            )
            for spec, lane in zip(config.spec.sources, self._lanes, strict=True)
        ]
        self._memory = OwnMemory()
        self.frame_loop = FrameLoop(
            config,
            self._lanes,
            wakeup=self._wakeup,
            emitter=self._emitter,
            journal=self._journal,
            changed=self.changed,
        )

    def start(self) -> None:
        """Start all threads."""
        self.frame_loop.start()
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """Stop within two seconds, even if sources do not respond."""
        self.frame_loop.stop(_STOPPING)  # first: nothing is emitted afterwards
        for reader in self._readers:
            reader.stop(0.0)  # tell all of them before waiting for one
        until = time.monotonic() + _STOPPING
        for reader in self._readers:
            reader.stop(max(0.0, until - time.monotonic()))

    def change(self, change: Change) -> None:
        """Apply it. It is in effect when this returns, except for a model that takes over."""
        self.frame_loop.change(change)
        self._emitter.sample(change.spec.sampling)

    def compare(self, compare: Compare) -> None:
        """Let another model infer some frames, too, or no longer."""
        self._emitter.sample_differing(compare.dataset if compare.model is not None else None)
        self.frame_loop.compare(compare)

    @property
    def failed(self) -> bool:
        """Whether a thread ended with an internal error: only a new process helps."""
        return self.frame_loop.failed or any(reader.failed for reader in self._readers)

    def report(self) -> CameraReport:
        """The current state. Does not block."""
        now = time.monotonic()
        loop, lanes = self.frame_loop, self._lanes
        # Read once, and before the counters: a source reported as paused must emit no more.
        paused, done, over = loop.paused, loop.done, [lane.done for lane in lanes]
        states = [lane.metrics.state for lane in lanes]
        sources = tuple(lane.metrics.source_stat(now) for lane in lanes)
        facts = [
            SourceFacts(
                state=state,
                attempts=source.attempts,
                over=ended,
                failed=lane.metrics.final,
                overdue=lane.metrics.is_overdue(now),
            )
            for state, source, ended, lane in zip(states, sources, over, lanes, strict=True)
        ]
        fps = round(sum(source.fps for source in sources), 3)
        return CameraReport(
            generation=loop.generation,
            state=observed_state(facts, paused=paused, engine_met=loop.began),
            reason=reason_of(sources) or shown_reason(loop.problem) or self._progress.error,
            ready=observed_state(facts, paused=False, engine_met=loop.began) is ObservedState.RUNNING,
            waiting_for_engine=not done and loop.waits_for_engine(now),
            emitted=sum(source.emitted for source in sources),
            sources=sources,
            dropped=self._emitter.dropped,
            samples=self._emitter.samples,
            stages=loop.stages,
            shadow=loop.shadow,
            cost=CameraCostReport(time.process_time(), loop.cpu, self._memory.at(now)),
            source_timeout=max(lane.metrics.timeout for lane in lanes),
            fps=fps,
            report=status_report(
                events=self._journal.events,
                latencies=[lane.metrics.latencies for lane in lanes],
                throughput=fps,
                metadata=[
                    source_metadata(
                        source,
                        properties=lane.metrics.properties,
                        buffer_size=lane.buffer.capacity,
                        filling=lane.buffer.filling,
                        consumption=lane.buffer.consumption,
                    )
                    for source, lane in zip(sources, lanes, strict=True)
                ],
            ),
        )

    def _needed_size(self, width: int, height: int) -> tuple[int, int] | None:
        """The size that is enough for pictures of this size; None: they are needed as they are."""
        # Whether a frame is sampled may depend on its predictions, when it is decoded already.
        if self._emitter.is_sampling or self._config.stages:
            return None
        return needed_size(width, height, self.frame_loop.manifest)

    def _lane(self, source_id: int, spec: SourceSpec, now: float) -> SourceLane:
        metrics = SourceMetrics(
            spec.reference,
            now=now,
            changed=self.changed,
            source_id=source_id,
            journal=self._journal,
            finite=is_finite(spec),
        )
        return SourceLane(source_id, spec, wakeup=self._wakeup, metrics=metrics, progress=self._progress)


def main(config: CameraConfig, connection: Connection) -> None:
    """Run the process until the agent stops it, or is gone."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_batch_scheduling()
    quiet_libraries()
    cv2.setNumThreads(1)  # a camera uses one core, the engine the others
    camera = Camera(config)
    camera.start()
    try:
        _serve(camera, connection)
    except (EOFError, OSError):
        logger.info("the agent is gone")
    camera.stop()
    with contextlib.suppress(OSError):
        send(connection, camera.report())  # it includes the last frames and samples
    if camera.failed:
        sys.exit(1)


def _serve(camera: Camera, connection: Connection) -> None:
    """Report at each change and in intervals, and apply messages of the agent until Stop."""
    while not camera.failed:
        camera.changed.clear()
        send(connection, camera.report())
        next_report = next_report_after(time.monotonic())
        while (left := next_report - time.monotonic()) > 0:
            ready = multiprocessing.connection.wait([connection, camera.changed.fileno()], left)
            if connection in ready:
                match receive(connection):
                    case Stop():
                        return
                    case Change() as change:
                        camera.change(change)
                    case Compare() as compare:
                        camera.compare(compare)
                    case Show(wanted):
                        camera.frame_loop.show(wanted)
            if ready:
                break
