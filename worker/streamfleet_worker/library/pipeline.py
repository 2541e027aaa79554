"""`InferencePipeline`: sources, a model and the user's functions, as the original's class of this name.

init → start → (sources) → (model) → on_prediction …→ join
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamfleet_worker.library.arguments import (
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
from streamfleet_worker.library.execution.frame_loop import Flow
from streamfleet_worker.library.execution.pipeline_run import PipelineRun
from streamfleet_worker.library.execution.rounds import SourcePlan, Sources
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
    """How predictions come to the sinks."""

    ADAPTIVE = "adaptive"  # one source: as SEQUENTIAL; several: as BATCH
    BATCH = "batch"  # lists by source, with None for each that gave nothing
    SEQUENTIAL = "sequential"  # one call a frame


class InferencePipeline:
    """Made by `init` or `init_with_custom_logic`, started once, and over when `join` returns.

    All functions of the user's are called by one thread: that of `start`, or one of the pipeline's own. A
    model that is a function has a thread of its own.
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
        """`results`: what sinks get in the place of what was found in a frame."""
        wakeup, stopped = Wakeup(), Wakeup()
        if watchdog is not None:
            handlers = [*handlers, watchdog.on_status_update]
        self._updates = Updates(handlers, changed=wakeup)
        self.callbacks = Callbacks(self._updates)  # for who has functions of the user's to call himself
        self._sources = Sources(plans, updates=self._updates, wakeup=wakeup, batch_timeout=batch_timeout)
        self.video_sources = tuple(VideoSource(feed.lane) for feed in self._sources.feeds)
        if watchdog is not None:
            watchdog.register_video_sources(self.video_sources)
        batched = sink_mode is SinkMode.BATCH or (sink_mode is SinkMode.ADAPTIVE and len(plans) > 1)
        dispatcher = SinkDispatcher(
            sinks, batched=batched, results=results, callbacks=self.callbacks, stopped=stopped
        )
        flow = Flow(
            self._sources,
            inference,
            hand_over=dispatcher.hand_over,
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
            flow,
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
    ) -> InferencePipeline:
        """A pipeline with a model: its id, a path, a function of an image, or an object as the original's.

        What has no meaning here is accepted and does nothing: `mask_decode_mode` and `tradeoff_factor` (there
        are no masks), `active_learning_*` (nothing is sent anywhere), `max_staleness` (a live source's frames
        never wait), `predictions_queue_size` (nothing is queued behind the model), `exec_session_id`.
        `max_fps` is of each source. `tracker` is "bytetrack" or None.

        Raises: ValueError, TypeError, ConfigError; and whatever the model cannot be loaded by.
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
        )
        return cls(
            plans,
            inference_of(model_id, rules, settings=settings, api_key=api_key),
            sinks_of(on_prediction),
            sink_mode=SinkMode(sink_mode),
            batch_timeout=batch_collection_timeout,
            tracking=tracking_of(tracker, model_id, rules),
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
    ) -> InferencePipeline:
        """A pipeline with a function in the place of the model: a list of frames in, a list of results out.

        What it gives for a frame is handed to `on_prediction` as it is. Else as `init`.

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
    ) -> InferencePipeline:
        """A pipeline of a workflow that the fleet could run: one detection model, a byte tracker,
        visualizations, counts. Sinks get its outputs by name: predictions as supervision's Detections,
        pictures as `WorkflowImage`; with `serialize_results` both as dicts.

        What is about the engine of workflows has no meaning here, and is accepted: thread pools, caches,
        profiling, `video_metadata_input_name`. Else as `init`.

        Raises: BadWorkflow, ValueError, TypeError, ConfigError; and whatever the model cannot be loaded by.
        """
        if workflow_specification is None:
            raise ValueError(
                "expected a workflow_specification: there is no Roboflow server here that would know a"
                f" workflow by its ids, got {workspace_name!r} and {workflow_id!r}"
            )
        # Here, because it brings the annotators, which programs without a workflow need not have.
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
        )
        return cls(
            plans,
            inference_of(workflow.model_id, rules, settings=settings, api_key=api_key),
            sinks_of(on_prediction),
            sink_mode=SinkMode(sink_mode),
            batch_timeout=batch_collection_timeout,
            tracking=tracking_of(workflow.tracker, workflow.model_id, rules),
            watchdog=watchdog,
            handlers=status_update_handlers or (),
            results=WorkflowResults(workflow, serialised=serialize_results),
        )

    @classmethod
    def init_with_yolo_world(cls, *_: Any, **__: Any) -> InferencePipeline:
        """Raises: NotImplementedError."""
        raise NotImplementedError(
            "YOLO-World is not run here: use init_with_custom_logic with a function that calls it,"
            " or init with a model of fixed classes"
        )

    def start(self, use_main_thread: bool = True) -> None:
        """Open the sources and play: until the end, or in the background.

        Raises: SourceConnectionError when a source gives no picture; later it is opened again without a word.
        """
        self._run.start(here=use_main_thread)

    def join(self) -> None:
        """Wait for the end, which Ctrl-C brings about.

        On the pipeline's own thread, as in a signal handler, it returns at once after `terminate`.

        Raises: StreamOperationNotAllowedError there without it.
        """
        self._run.join()

    @property
    def stopped(self) -> bool:
        """It has ended, or is about to."""
        return self._run.stopped

    def terminate(self) -> None:
        """End after the call to a sink that is under way. Does not wait for it."""
        self._run.stop()

    def pause_stream(self, source_id: int | str | None = None) -> None:
        """Let no frame of this source, or of all, come to the sinks any more; when this returns, it is so.

        It waits for the frames that are with the model, and no longer than ten seconds for a sink; it does
        not where a function of the pipeline itself calls it, and then these frames still come.
        A file goes on where it was. A live source is read on, and goes on with the present.
        """
        self._sources.pause(source_numbers(source_id, count=len(self.video_sources)))
        self._run.settle()

    def mute_stream(self, source_id: int | str | None = None) -> None:
        """The same as `pause_stream`, which does to each source what suits it."""
        self.pause_stream(source_id)

    def resume_stream(self, source_id: int | str | None = None) -> None:
        """Go on with this source, or with all."""
        self._sources.resume(source_numbers(source_id, count=len(self.video_sources)))

    def report(self) -> dict[str, Any]:
        """The original's status report."""
        return self._run.report()
