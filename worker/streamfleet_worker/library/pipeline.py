"""`InferencePipeline`: sources, a model and the user's functions, as Roboflow's class of this name.

init → start → (sources) → (model) → on_prediction …→ join
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamfleet_worker.library.arguments import (
    Classes,
    Corners,
    MotionRule,
    Properties,
    Reference,
    Sink,
    inference_of,
    plans_of,
    rules_of,
    sinks_of,
    source_numbers,
    tracking_of,
)
from streamfleet_worker.library.execution.callbacks import Callbacks, SinkDispatcher
from streamfleet_worker.library.execution.frame_batches import SourcePlan, Sources
from streamfleet_worker.library.execution.frame_loop import FrameLoop
from streamfleet_worker.library.execution.pipeline_run import PipelineRun
from streamfleet_worker.library.execution.wakeup import Wakeup
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.inference import Function, Inference
from streamfleet_worker.library.settings import current_settings
from streamfleet_worker.library.status_updates import StatusUpdateHandler, Updates
from streamfleet_worker.library.tracking import Tracking
from streamfleet_worker.library.video_source import VideoSource
from streamfleet_worker.library.watchdogs import PipelineWatchDog

Hook = Callable[[], Any]


class SinkMode(enum.Enum):
    """Way in which predictions are passed to the sinks."""

    ADAPTIVE = "adaptive"  # SEQUENTIAL for one source, BATCH for several
    BATCH = "batch"  # lists by source, with None for each without a frame
    SEQUENTIAL = "sequential"  # one call per frame


class InferencePipeline:
    """Constructed by `init` or `init_with_custom_logic`, started once, and ended when `join` returns.

    One thread calls all functions of the user: the one that called `start`, or the pipeline's own. A model
    that is a function is called on another thread.
    """

    def __init__(
        self,
        plans: Sequence[SourcePlan],
        inference: Inference,
        sinks: Sequence[Sink],
        *,
        sink_mode: SinkMode = SinkMode.ADAPTIVE,
        batch_timeout: float | None = None,
        tracking: Tracking | None = None,
        watchdog: PipelineWatchDog | None = None,
        handlers: Sequence[StatusUpdateHandler] = (),
        on_start: Hook | None = None,
        on_end: Hook | None = None,
        results: Callable[[Any, VideoFrame], Any] | None = None,
    ) -> None:
        """`results` converts a prediction and its frame to the value that the sinks get."""
        wakeup, stopped = Wakeup(), Wakeup()
        if watchdog is not None:
            handlers = [*handlers, watchdog.on_status_update]
        self._updates = Updates(handlers, changed=wakeup)
        self.callbacks = Callbacks(self._updates)  # for owners that call functions of the user themselves
        self._sources = Sources(plans, updates=self._updates, wakeup=wakeup, batch_timeout=batch_timeout)
        self.video_sources = tuple(VideoSource(feed.lane) for feed in self._sources.feeds)
        if watchdog is not None:
            watchdog.register_video_sources(self.video_sources)
        batched = sink_mode is SinkMode.BATCH or (sink_mode is SinkMode.ADAPTIVE and len(plans) > 1)
        dispatcher = SinkDispatcher(
            sinks, batched=batched, results=results, callbacks=self.callbacks, stopped=stopped
        )
        loop = FrameLoop(
            self._sources,
            inference,
            dispatch=dispatcher.dispatch,
            callbacks=self.callbacks,
            updates=self._updates,
            wakeup=wakeup,
            stopped=stopped,
            tracking=tracking,
            watchdog=watchdog,
        )
        self._run = PipelineRun(
            self._sources,
            inference,
            loop,
            callbacks=self.callbacks,
            updates=self._updates,
            on_start=on_start,
            on_end=on_end,
        )

    @classmethod
    def init(
        cls,
        video_reference: Reference | Sequence[Reference],
        model_id: str | Path | Any,
        on_prediction: Sink | Sequence[Sink] | None = None,
        api_key: str | None = None,
        max_fps: float | None = None,
        watchdog: PipelineWatchDog | None = None,
        status_update_handlers: Sequence[StatusUpdateHandler] | None = None,
        source_buffer_filling_strategy: str | enum.Enum | None = None,
        source_buffer_consumption_strategy: str | enum.Enum | None = None,
        class_agnostic_nms: bool | None = None,
        confidence: float | None = None,
        iou_threshold: float | None = None,
        max_candidates: int | None = None,
        max_detections: int | None = None,
        mask_decode_mode: str | None = "accurate",
        tradeoff_factor: float | None = 0.0,
        active_learning_enabled: bool | None = None,
        video_source_properties: Properties | Sequence[Properties | None] | None = None,
        active_learning_target_dataset: str | None = None,
        batch_collection_timeout: float | None = None,
        video_processing_mode: str | enum.Enum = "auto",
        max_staleness: float | None = None,
        sink_mode: SinkMode | str = SinkMode.ADAPTIVE,
        predictions_queue_size: int | None = None,
        decoding_buffer_size: int | None = None,
        exec_session_id: str | None = None,
        tracker: str | None = None,
        decoder: str | None = None,
        classes: Classes | Sequence[Classes | None] | None = None,
        region: Corners | Sequence[Corners | None] | None = None,
        motion: MotionRule | Sequence[MotionRule | None] | None = None,
    ) -> InferencePipeline:
        """Create a pipeline with a model.

        `model_id` is an id, a path, a function of an image, or an object like Roboflow's models.

        Accepted and ignored: `mask_decode_mode` and `tradeoff_factor` (there are no masks),
        `active_learning_*` (nothing is uploaded), `max_staleness` (frames of a live source never wait),
        `predictions_queue_size` (predictions are not queued), `exec_session_id`. `max_fps` applies to each
        source. `tracker` is "bytetrack", "sort", "ocsort", "botsort", "cbiou" or None.

        `decoder` decodes H.264, H.265 and AV1: "nv" or "va" with hardware, "auto" with the one that is there,
        "software" or None without.

        Of each source, `classes` keeps objects of these classes of the model, `region` those with the center
        of their box in this polygon, whose corners are parts of the width and the height of the picture, and
        `motion` infers only frames with motion in the region: True, or a dict with `sensitivity` (0 to 1) and
        `max_still` (seconds). A list has one of them, or None, for each source.

        Raises: ValueError, TypeError, ConfigError, and the errors of `load`.
        """
        settings = current_settings()
        rules = rules_of(
            settings.rules,
            class_agnostic_nms=class_agnostic_nms,
            confidence=confidence,
            iou_threshold=iou_threshold,
            max_candidates=max_candidates,
            max_detections=max_detections,
        )
        plans = plans_of(
            video_reference,
            settings=settings,
            max_fps=max_fps,
            filling=source_buffer_filling_strategy,
            consumption=source_buffer_consumption_strategy,
            properties=video_source_properties,
            buffer_size=decoding_buffer_size,
            mode=video_processing_mode,
            decoder=decoder,
            classes=classes,
            region=region,
            motion=motion,
        )
        tracking = tracking_of(tracker, model_id, rules)
        return cls(
            plans,
            inference_of(
                model_id,
                rules,
                settings=settings,
                sources=[plan.spec for plan in plans],
                tracking=tracking,
                api_key=api_key,
            ),
            sinks_of(on_prediction),
            sink_mode=SinkMode(sink_mode),
            batch_timeout=batch_collection_timeout,
            tracking=tracking,
            watchdog=watchdog,
            handlers=status_update_handlers or (),
        )

    @classmethod
    def init_with_custom_logic(
        cls,
        video_reference: Reference | Sequence[Reference],
        on_video_frame: Callable[[list[VideoFrame]], Sequence[Any]],
        on_prediction: Sink | Sequence[Sink] | None = None,
        on_pipeline_start: Hook | None = None,
        on_pipeline_end: Hook | None = None,
        max_fps: float | None = None,
        watchdog: PipelineWatchDog | None = None,
        status_update_handlers: Sequence[StatusUpdateHandler] | None = None,
        source_buffer_filling_strategy: str | enum.Enum | None = None,
        source_buffer_consumption_strategy: str | enum.Enum | None = None,
        video_source_properties: Properties | Sequence[Properties | None] | None = None,
        batch_collection_timeout: float | None = None,
        video_processing_mode: str | enum.Enum = "auto",
        max_staleness: float | None = None,
        sink_mode: SinkMode | str = SinkMode.ADAPTIVE,
        predictions_queue_size: int | None = None,
        decoding_buffer_size: int | None = None,
        decoder: str | None = None,
        region: Corners | Sequence[Corners | None] | None = None,
        motion: MotionRule | Sequence[MotionRule | None] | None = None,
    ) -> InferencePipeline:
        """Create a pipeline with a function instead of a model.

        It maps a list of frames to a list of results. The result for a frame is passed to `on_prediction`
        unchanged. With `motion` it gets only frames with motion in the `region`. Other arguments: see
        `init`.

        Raises: ValueError, TypeError, ConfigError.
        """
        plans = plans_of(
            video_reference,
            settings=current_settings(),
            max_fps=max_fps,
            filling=source_buffer_filling_strategy,
            consumption=source_buffer_consumption_strategy,
            properties=video_source_properties,
            buffer_size=decoding_buffer_size,
            mode=video_processing_mode,
            decoder=decoder,
            region=region,
            motion=motion,
        )
        return cls(
            plans,
            Function(on_video_frame),
            sinks_of(on_prediction),
            sink_mode=SinkMode(sink_mode),
            batch_timeout=batch_collection_timeout,
            watchdog=watchdog,
            handlers=status_update_handlers or (),
            on_start=on_pipeline_start,
            on_end=on_pipeline_end,
        )

    @classmethod
    def init_with_workflow(
        cls,
        video_reference: Reference | Sequence[Reference],
        workflow_specification: Mapping[str, Any] | None = None,
        workspace_name: str | None = None,
        workflow_id: str | None = None,
        api_key: str | None = None,
        image_input_name: str = "image",
        workflows_parameters: Mapping[str, Any] | None = None,
        on_prediction: Sink | Sequence[Sink] | None = None,
        max_fps: float | None = None,
        watchdog: PipelineWatchDog | None = None,
        status_update_handlers: Sequence[StatusUpdateHandler] | None = None,
        source_buffer_filling_strategy: str | enum.Enum | None = None,
        source_buffer_consumption_strategy: str | enum.Enum | None = None,
        video_source_properties: Properties | Sequence[Properties | None] | None = None,
        batch_collection_timeout: float | None = None,
        sink_mode: SinkMode | str = SinkMode.ADAPTIVE,
        decoding_buffer_size: int | None = None,
        video_processing_mode: str | enum.Enum = "auto",
        serialize_results: bool = False,
        workflow_version_id: str | None = None,
        workflow_init_parameters: Mapping[str, Any] | None = None,
        workflows_thread_pool_workers: int = 4,
        cancel_thread_pool_tasks_on_exit: bool = True,
        video_metadata_input_name: str = "video_metadata",
        profiling_directory: str | None = None,
        use_workflow_definition_cache: bool = True,
        predictions_queue_size: int | None = None,
        max_staleness: float | None = None,
        decoder: str | None = None,
    ) -> InferencePipeline:
        """Create a pipeline from a workflow with one detection model, a byte tracker, visualizations, counts.

        Sinks get its outputs by name: predictions as supervision's Detections, pictures as `WorkflowImage`;
        with `serialize_results` both as dicts. Options of the workflow engine are accepted and ignored:
        thread pools, caches, profiling, `video_metadata_input_name`. Other arguments: see `init`.

        Raises: BadWorkflow, ValueError, TypeError, ConfigError, and the errors of `load`.
        """
        if workflow_specification is None:
            raise ValueError(
                "expected a workflow_specification: there is no Roboflow server here that would know a"
                f" workflow by its ids, got {workspace_name!r} and {workflow_id!r}"
            )
        # Imported here: it needs the annotators, which programs without a workflow may lack.
        from streamfleet_core.protocol.workflow import read
        from streamfleet_worker.library.workflow_results import WorkflowResults

        workflow = read(workflow_specification, workflows_parameters, image=image_input_name)
        settings = current_settings()
        rules = rules_of(settings.rules, **asdict(workflow.filtering))
        plans = plans_of(
            video_reference,
            settings=settings,
            max_fps=max_fps,
            filling=source_buffer_filling_strategy,
            consumption=source_buffer_consumption_strategy,
            properties=video_source_properties,
            buffer_size=decoding_buffer_size,
            mode=video_processing_mode,
            decoder=decoder,
        )
        tracking = tracking_of(workflow.tracker, workflow.model_id, rules)
        return cls(
            plans,
            inference_of(workflow.model_id, rules, settings=settings, tracking=tracking, api_key=api_key),
            sinks_of(on_prediction),
            sink_mode=SinkMode(sink_mode),
            batch_timeout=batch_collection_timeout,
            tracking=tracking,
            watchdog=watchdog,
            handlers=status_update_handlers or (),
            results=WorkflowResults(workflow, serialised=serialize_results),
        )

    @classmethod
    def init_with_yolo_world(cls, *_: Any, **__: Any) -> InferencePipeline:
        """Not supported. Raises: NotImplementedError."""
        raise NotImplementedError(
            "YOLO-World is not supported: use init_with_custom_logic with a function that calls it,"
            " or init with a model of fixed classes"
        )

    def start(self, use_main_thread: bool = True) -> None:
        """Open the sources and run: until the end, or in the background.

        Raises: SourceConnectionError if a source delivers no picture. Later failures are retried silently.
        """
        self._run.start(here=use_main_thread)

    def join(self) -> None:
        """Wait for the end. Ctrl-C ends the pipeline.

        On the pipeline's own thread, as in a signal handler, call `terminate` first; it then returns at once.

        Raises: StreamOperationNotAllowedError on the pipeline's own thread without `terminate`.
        """
        self._run.join()

    @property
    def stopped(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._run.stopped

    def terminate(self) -> None:
        """End after the current call to a sink. Does not wait for it."""
        self._run.stop()

    def pause_stream(self, source_id: int | str | None = None) -> None:
        """Pause this source, or all: when it returns, the sinks get no more of its frames.

        It waits for the frames that the model is processing, and up to ten seconds for a sink. Called from a
        function of the pipeline itself it does not wait, and the sinks still get these frames.
        A file resumes at the same position. A live source is still read, and resumes with the current frame.
        """
        self._sources.pause(source_numbers(source_id, count=len(self.video_sources)))
        self._run.settle()

    def mute_stream(self, source_id: int | str | None = None) -> None:
        """The same as `pause_stream`, which handles both files and live sources."""
        self.pause_stream(source_id)

    def resume_stream(self, source_id: int | str | None = None) -> None:
        """Resume this source, or all."""
        self._sources.resume(source_numbers(source_id, count=len(self.video_sources)))

    def report(self) -> dict[str, Any]:
        """Roboflow's status report."""
        return self._run.report()
