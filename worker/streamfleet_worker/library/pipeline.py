"""`InferencePipeline`: sources, a model and the user's functions, as the original's class of this name.

init → start → (sources) → (model) → on_prediction …→ join
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from streamfleet_broker.protocol.values import Consumption, Filling, SourceSpec
from streamfleet_worker.camera.report import source_metadata, status_report
from streamfleet_worker.camera.source import quiet_libraries
from streamfleet_worker.control import PostProcessing
from streamfleet_worker.library.callbacks import Callbacks
from streamfleet_worker.library.errors import StreamOperationNotAllowedError
from streamfleet_worker.library.flow import Flow
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.inference import Function, Inference, ModelFile, ModelObject
from streamfleet_worker.library.settings import Settings, current_settings
from streamfleet_worker.library.sources import SourcePlan, Sources
from streamfleet_worker.library.tracking import Tracking
from streamfleet_worker.library.updates import PipelineWatchDog, StatusUpdateHandler, Updates

logger = logging.getLogger(__name__)

_SETTLING = 10.0  # seconds that a pause waits for the frames under way
_READERS = 2.0  # seconds that sources get at the end; one that is silent keeps its thread a little longer
_MODEL = 1.0  # seconds that the model gets at the end
_MODES = ("auto", "every_frame", "freshest", "legacy")

Reference = str | int | Path
Properties = Mapping[str, float]
Sink = Callable[[Any, Any], Any]
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
    ) -> None:
        self._sinks = tuple(sinks)
        self._batched = sink_mode is SinkMode.BATCH or (sink_mode is SinkMode.ADAPTIVE and len(plans) > 1)
        self._inference = inference
        self._on_start, self._on_end = on_start, on_end
        wakeup = threading.Event()
        if watchdog is not None:
            handlers = [*handlers, watchdog.on_status_update]
        self._updates = Updates(handlers, changed=wakeup)
        self.callbacks = Callbacks(self._updates)  # for who has functions of the user's to call himself
        self._sources = Sources(plans, updates=self._updates, wakeup=wakeup, batch_timeout=batch_timeout)
        self._flow = Flow(
            self._sources,
            inference,
            outlet=self._hand_over,
            callbacks=self.callbacks,
            updates=self._updates,
            wakeup=wakeup,
            tracking=tracking,
            watchdog=watchdog,
        )
        self._starting = threading.Lock()  # guards _started
        self._started = False
        self._thread: threading.Thread | None = None  # where the frames move
        self._background: threading.Thread | None = None  # the same, if it is not the caller's
        self._ended = threading.Event()

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
            _sinks(on_prediction),
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
            _sinks(on_prediction),
            sink_mode=SinkMode(sink_mode),
            batch_timeout=batch_collection_timeout,
            watchdog=watchdog,
            handlers=status_update_handlers or (),
            on_start=on_pipeline_start,
            on_end=on_pipeline_end,
        )

    @classmethod
    def init_with_workflow(cls, *_: Any, **__: Any) -> InferencePipeline:
        """Raises: NotImplementedError."""
        raise NotImplementedError(
            "workflows are not run here: use init_with_custom_logic with a function that does what the"
            " workflow does, or init with its model"
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
        with self._starting:
            if self._started:
                raise StreamOperationNotAllowedError("expected a pipeline that was not started yet")
            self._started = True
        if use_main_thread:
            self._thread = threading.current_thread()
            self._open()
            self._run()
            return
        self._open()
        self._background = threading.Thread(target=self._run, name="pipeline")
        self._thread = self._background
        self._background.start()

    def join(self) -> None:
        """Wait for the end, which Ctrl-C brings about. Not for functions of the pipeline itself."""
        if not self._started:
            return
        if threading.current_thread() is self._thread and not self._ended.is_set():
            raise StreamOperationNotAllowedError("expected another thread than the pipeline's own to join it")
        try:
            self._ended.wait()
        except KeyboardInterrupt:
            self.terminate()  # its thread would keep the program alive, and a camera has no end
            raise
        if self._background is not None:
            self._background.join()

    def terminate(self) -> None:
        """End after the call to a sink that is under way. Does not wait for it."""
        self._flow.stop()

    def pause_stream(self, source_id: int | None = None) -> None:
        """Let no frame of this source, or of all, come to the sinks any more; when this returns, it is so.

        It waits for the frames that are with the model, and no longer than ten seconds for a sink; it does
        not where a function of the pipeline itself calls it, and then these frames still come.
        A file goes on where it was. A live source is read on, and goes on with the present.
        """
        self._sources.pause(self._sources_named(source_id))
        if self._started and threading.current_thread() is not self._thread:
            self._flow.settle(_SETTLING)

    def mute_stream(self, source_id: int | None = None) -> None:
        """The same as `pause_stream`, which does to each source what suits it."""
        self.pause_stream(source_id)

    def resume_stream(self, source_id: int | None = None) -> None:
        """Go on with this source, or with all."""
        self._sources.resume(self._sources_named(source_id))

    def report(self) -> dict[str, Any]:
        """The original's status report."""
        channels = [feed.channel for feed in self._sources.feeds]
        stats = self._sources.stats()
        return status_report(
            events=self._updates.events,
            latencies=[channel.ledger.latencies for channel in channels],
            throughput=round(sum(stat.fps for stat in stats), 3),
            metadata=[
                source_metadata(
                    stat,
                    properties=channel.ledger.properties,
                    buffer_size=channel.buffer.capacity,
                    filling=channel.buffer.filling,
                    consumption=channel.buffer.consumption,
                )
                for stat, channel in zip(stats, channels, strict=True)
            ],
        )

    def _sources_named(self, source_id: int | None) -> range | list[int]:
        count = len(self._sources.feeds)
        if source_id is None:
            return range(count)
        if not 0 <= source_id < count:
            raise StreamOperationNotAllowedError(
                f"expected the number of a source from 0 to {count - 1}, came {source_id}"
            )
        return [source_id]

    def _open(self) -> None:
        try:
            quiet_libraries()
            self._inference.start()
            self._sources.open(self._flow.stopped)
        except BaseException:
            self._close()
            raise

    def _run(self) -> None:
        try:
            self._updates.inference_thread("STARTED")
            if self._on_start is not None and not self._flow.stopped.is_set():
                self.callbacks.call("the function for the start", self._on_start)
            self._flow.run()
            self._updates.inference_thread("FINISHED")
        finally:
            self._flow.stop()
            if self._on_end is not None:
                self.callbacks.call("the function for the end", self._on_end)
            self._close()

    def _close(self) -> None:
        """Sources before the model: nothing new comes while it ends."""
        if not self._sources.close(_READERS):
            logger.warning("a source does not answer; its thread ends when it does")
        if not self._inference.close(_MODEL):
            logger.warning("the model does not answer; its thread ends when it does")
        self._updates.deliver()
        self._ended.set()

    def _hand_over(self, predictions: list[Any], frames: list[VideoFrame | None]) -> None:
        if self._batched:
            self._call_sinks(predictions, frames)
            return
        for prediction, frame in zip(predictions, frames, strict=True):
            if frame is not None and not self._flow.stopped.is_set():
                self._call_sinks(prediction, frame)

    def _call_sinks(self, predictions: Any, frames: Any) -> None:
        for sink in self._sinks:
            self.callbacks.call("a sink", sink, predictions, frames)


def plans_of(
    references: Reference | Sequence[Reference],
    *,
    settings: Settings,
    max_fps: float | None = None,
    filling: str | enum.Enum | None = None,
    consumption: str | enum.Enum | None = None,
    properties: Properties | Sequence[Properties | None] | None = None,
    buffer_size: int | None = None,
    mode: str | enum.Enum = "auto",
) -> list[SourcePlan]:
    """What the arguments say of each source. Raises: ValueError, TypeError."""
    several = list(references) if isinstance(references, (list, tuple)) else [references]
    if not several:
        raise ValueError("video_reference: expected at least one source")
    for reference in several:
        if not isinstance(reference, (str, int, Path)):
            raise TypeError(
                "video_reference: expected a path, a URL, the index of a camera, or a list of them;"
                f" came {type(reference).__name__}"
            )
    if max_fps is not None and max_fps <= 0:
        raise ValueError(f"max_fps: expected a number above 0, came {max_fps!r}")
    processing = _word("video_processing_mode", mode, _MODES, str.lower) or "auto"
    fill = _word("source_buffer_filling_strategy", filling, get_args(Filling), str.upper)
    consume = _word("source_buffer_consumption_strategy", consumption, get_args(Consumption), str.upper)
    if processing == "every_frame":
        fill, consume = fill or "WAIT", consume or "LAZY"
    return [
        SourcePlan(
            SourceSpec(
                reference if isinstance(reference, int) else str(reference),
                properties=dict(of_this or {}),
                max_fps=max_fps,
                filling=fill,  # type: ignore[arg-type]
                consumption=consume,  # type: ignore[arg-type]
            ),
            buffer_size=buffer_size or settings.buffer_size,
            native=processing == "freshest",
            strides=settings.strides,
        )
        for reference, of_this in zip(several, _properties(properties, len(several)), strict=True)
    ]


def rules_of(defaults: PostProcessing, **wished: Any) -> PostProcessing:
    """The defaults, where nothing is wished for. Raises: ValueError."""
    rules = PostProcessing(
        **{name: getattr(defaults, name) if value is None else value for name, value in wished.items()}
    )
    for name in ("confidence", "iou_threshold"):
        if not 0 <= getattr(rules, name) <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, came {getattr(rules, name)!r}")
    for name in ("max_candidates", "max_detections"):
        if getattr(rules, name) < 1:
            raise ValueError(f"{name}: expected a number above 0, came {getattr(rules, name)!r}")
    return rules


def inference_of(
    model: Any, rules: PostProcessing, *, settings: Settings, api_key: str | None = None
) -> Inference:
    """The model that is meant. Raises: TypeError, or whatever it cannot be loaded by."""
    if not isinstance(model, (str, Path)):
        return Function(ModelObject(model, rules))
    # Here, because a program with a model of its own needs none of what this brings.
    from streamfleet_worker.library.models import load

    path, manifest = load(model, cache_dir=settings.cache_dir, api_key=api_key or settings.api_key)
    return ModelFile(path, manifest, rules)


def tracking_of(tracker: str | None, model: Any, rules: PostProcessing) -> Tracking | None:
    """The tracker that is meant. Raises: ValueError."""
    if _word("tracker", tracker, ("bytetrack",), str.lower) is None:
        return None
    # What another's model gives may be of less confidence than ours would be, and all of it shall have ids.
    return Tracking(confidence=rules.confidence if isinstance(model, (str, Path)) else 0.0)


def _word(
    name: str, given: str | enum.Enum | None, known: Sequence[str], case: Callable[[str], str]
) -> str | None:
    if given is None:
        return None
    word = case(str(given.value if isinstance(given, enum.Enum) else given))
    if word not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, came {given!r}")
    return word


def _properties(
    given: Properties | Sequence[Properties | None] | None, count: int
) -> Sequence[Properties | None]:
    if given is None or isinstance(given, Mapping):
        return [given] * count
    if len(given) != count:
        raise ValueError(
            f"video_source_properties: expected a list for {count} sources, came one for {len(given)}"
        )
    return given


def _sinks(given: Sink | Sequence[Sink] | None) -> Sequence[Sink]:
    if given is None:
        return ()
    return [given] if callable(given) else list(given)
