"""The way of a frame from the engine's output to the sinks: detections, tracks, messages, previews.

Settings may change at any time. A change is in effect when `change` returns: nothing is emitted meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import supervision as sv

from streamfleet_core.protocol.data_plane import DataHeader
from streamfleet_core.protocol.values import DesiredStatus, Manifest, PipelineSpec
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.in_flight_frame import InFlightFrame
from streamfleet_worker.camera.run_settings import RunSettings, settings_of
from streamfleet_worker.camera.shadow import Shadowed
from streamfleet_worker.families.adapter import Outputs
from streamfleet_worker.ipc.child_messages import CameraConfig
from streamfleet_worker.video.detection.findings import Findings, count_of
from streamfleet_worker.video.detection.postprocess import findings_of
from streamfleet_worker.video.detection.selection import selection_of
from streamfleet_worker.video.detection.trackers import rules_with_weak, tracker_of
from streamfleet_worker.video.outputs.preview import PreviewFrame, PreviewRenderer, PreviewThrottle
from streamfleet_worker.video.source_lane import SourceLane
from streamfleet_worker.video.telemetry.event_journal import EventJournal


class FrameOutput:
    """Emits frames on the thread of the frame loop. Other threads may change what is emitted."""

    def __init__(
        self, config: CameraConfig, lanes: Sequence[SourceLane], *, emitter: Emitter, journal: EventJournal
    ) -> None:
        self._config = config
        self._lanes = tuple(lanes)
        self._emitter = emitter
        self._journal = journal
        self._lock = threading.Lock()  # held during any emission; guards the settings and the emitter
        self._settings = self._settings_of(
            config.generation, config.desired_status, config.spec, config.manifest
        )
        self._fresh_from = 0.0  # monotonic seconds of the end of the last pause
        self._failing_sinks: set[str] = set()
        self._throttle = PreviewThrottle()
        self._showing = False
        self._renderer: PreviewRenderer | None = None  # None before the first preview
        self._name_stages([each.manifest for each in config.stages])
        self._record_pause()

    @property
    def settings(self) -> RunSettings:
        """What is in effect now."""
        return self._settings

    def change(self, generation: int, desired_status: DesiredStatus, spec: PipelineSpec) -> None:
        """Apply a generation, a spec, and pause or run. It is in effect when this returns."""
        newest = max(self._settings.generation, generation)
        settings = self._settings_of(newest, desired_status, spec, self._settings.manifest)
        senders = self._emitter.senders_to(spec.sinks)
        with self._lock:
            self._emitter.use(senders)
            self._use(settings)

    def use_models(
        self,
        manifest: Manifest,
        stages: Sequence[Manifest],
        generation: int,
        desired_status: DesiredStatus,
        spec: PipelineSpec,
    ) -> None:
        """Read outputs of other models from now on, under this generation. Sinks stay as they are.

        `manifest`: of the pipeline's model; `stages`: of each of its stages.
        """
        settings = self._settings_of(generation, desired_status, spec, manifest)
        with self._lock:
            self._emitter.use_models(manifest, stages)
            self._name_stages(stages)
            self._use(settings)

    def _name_stages(self, manifests: Sequence[Manifest]) -> None:
        stages = zip(self._config.spec.stages, manifests, strict=True)
        self._stage_labels = {stage.name: manifest.labels for stage, manifest in stages}

    def _use(self, settings: RunSettings) -> None:
        if self._settings.paused and not settings.paused:
            self._fresh_from = time.monotonic()
        self._settings = settings
        self._record_pause()

    def show(self, wanted: bool) -> None:
        """Start or stop making previews. Only one thread may call this."""
        if wanted and self._renderer is None:
            self._renderer = PreviewRenderer(self._send_preview)
            self._renderer.start()
        self._showing = wanted

    def wants_preview(self, source_id: int, now: float) -> bool:
        """Return whether the frame that the source submits now gets a preview."""
        return self._showing and self._throttle.wants(source_id, now)

    @property
    def wants_pictures(self) -> bool:
        """Whether frames without a preview need their pictures too."""
        return self._emitter.wants_pictures

    def await_sinks(self) -> None:
        """Wait up to a few seconds until the addresses of the sinks are known."""
        self._emitter.await_sinks()

    def emit(self, lane: SourceLane, frame: InFlightFrame, outputs: Outputs, *, held: float) -> bool:
        """Emit a frame, and return whether it is done. The frame of a paused file is kept.

        `held`: seconds of pauses since the frame was submitted, which its latency excludes.
        """
        with self._lock:
            settings = self._settings
            if settings.paused and lane.finite:
                return False
            # Drop live frames that were in flight when a pause began.
            if not lane.finite and (settings.paused or frame.stamp.decoded_at < self._fresh_from):
                lane.metrics.dropped("muted")
                lane.gate.forget()
                return True
            findings = frame.findings
            if findings is None:
                findings = self._find(lane, frame, outputs, settings)
            header = self._emitter.emit(
                findings,
                frame.stamp,
                frame.geometry,
                source_id=lane.source_id,
                generation=settings.generation,
                picture=frame.picture,
                nested={} if frame.nested is None else frame.nested.close(),
                mask_format=settings.mask_format,
            )
        if header is None:
            lane.metrics.dropped("fenced")
            lane.gate.forget()
            return True
        if frame.shadowed:
            frame.findings = findings
        now = time.monotonic()
        lane.metrics.emitted(now, latency=now - frame.began_at - held, objects=count_of(findings))
        self._record_sink_failures()
        self._offer_preview(lane, frame, findings, header, settings.manifest.labels)
        return True

    def shadowed(self, lane: SourceLane, frame: InFlightFrame, manifest: Manifest) -> Shadowed | None:
        """An emitted frame for the shadow, which has this manifest; None if nothing was emitted."""
        if frame.findings is None:
            return None
        settings = self._settings
        return Shadowed(
            frame=frame,
            source_id=lane.source_id,
            findings=frame.findings,
            labels=settings.manifest.labels,
            rules=settings.rules,
            selection=selection_of(settings.sources[lane.source_id], manifest.labels),
        )

    def keep_differing(self, shadowed: Shadowed) -> bool:
        """Keep a frame as a sample in which the shadow differs; return whether it was picked."""
        frame, settings = shadowed.frame, self._settings
        if frame.picture is None or settings.manifest.labels is not shadowed.labels:
            return False
        with self._lock:
            return self._emitter.keep_differing(
                shadowed.findings,
                frame.stamp,
                frame.geometry,
                source_id=shadowed.source_id,
                picture=frame.picture,
                mask_format=settings.mask_format,
            )

    def find(self, lane: SourceLane, frame: InFlightFrame, outputs: Outputs) -> Findings:
        """Read the outputs of a frame before it is emitted. The frames of a source must come in order."""
        with self._lock:
            return self._find(lane, frame, outputs, self._settings)

    def repeat_last_predictions(self) -> None:
        """Repeat the last predictions, for subscribers that do not follow all of them."""
        with self._lock:
            self._emitter.repeat_last_predictions()

    def close(self, timeout: float) -> None:
        """Emit nothing more. `timeout`: seconds for the publisher to accept the remaining messages."""
        with self._lock:
            self._emitter.close(timeout)
        if self._renderer is not None:
            self._renderer.stop()

    def _settings_of(
        self, generation: int, desired_status: DesiredStatus, spec: PipelineSpec, manifest: Manifest
    ) -> RunSettings:
        return settings_of(
            generation, desired_status, spec, defaults=self._config.defaults, manifest=manifest
        )

    def _find(
        self, lane: SourceLane, frame: InFlightFrame, outputs: Outputs, settings: RunSettings
    ) -> Findings:
        manifest = settings.manifest
        found = findings_of(
            outputs,
            frame.geometry,
            manifest=manifest,
            rules=rules_with_weak(settings.rules, settings.tracker, manifest.task),
            selection=settings.selections[lane.source_id],
        )
        if settings.tracker is None or not isinstance(found, sv.Detections):
            lane.tracker = None
            return found
        confidence = settings.rules.confidence
        if lane.tracker is None or lane.tracker.name != settings.tracker:
            lane.tracker = tracker_of(settings.tracker, confidence=confidence, fps=frame.stamp.fps)
        lane.tracker.retune(confidence=confidence)
        return lane.tracker.update(found, frame.stamp.media_time - frame.skipped)

    def _offer_preview(
        self,
        lane: SourceLane,
        frame: InFlightFrame,
        findings: Findings,
        header: DataHeader,
        labels: Sequence[str],
    ) -> None:
        """Pass the frame to the preview renderer, if it gets a preview."""
        if not frame.shown or frame.picture is None or self._renderer is None:
            return
        self._renderer.offer(
            PreviewFrame(
                picture=frame.picture,
                findings=findings,
                labels=labels,
                source_id=lane.source_id,
                header=header,
                nested={} if frame.nested is None else frame.nested.close(),
                stage_labels=self._stage_labels,
                region=self._settings.gates[lane.source_id][1],
            )
        )

    def _send_preview(self, jpeg: bytes, preview: PreviewFrame) -> None:
        """Send a preview. Called by the thread of the renderer."""
        with self._lock:
            if self._showing and not self._settings.paused:
                self._emitter.emit_preview(jpeg, preview.header)

    def _record_pause(self) -> None:
        for lane in self._lanes:
            lane.metrics.paused(self._settings.paused)

    def _record_sink_failures(self) -> None:
        """Record one event when a sink starts to fail, not one per frame."""
        errors = self._emitter.errors
        if not errors and not self._failing_sinks:
            return
        for sink in errors.keys() - self._failing_sinks:
            self._journal.sink_failed(sink, errors[sink])
        self._failing_sinks = set(errors)
