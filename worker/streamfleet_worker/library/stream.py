"""`Stream` and `UdpStream`: one source, one model, and predictions by callback or datagram.

a file        plays at its own frame rate and drops late frames; with `enforce_fps` every frame is processed
a live source the newest frame is processed, and a lost source is reopened
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2

from streamfleet_core.protocol.hosts import host_of
from streamfleet_core.protocol.limits import MAX_PORT
from streamfleet_core.protocol.values import UdpSink
from streamfleet_worker.library.arguments import Reference, inference_of, plans_of, rules_of, tracking_of
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.inference import ModelFile
from streamfleet_worker.library.pipeline import Hook, InferencePipeline
from streamfleet_worker.library.settings import Settings, current_settings
from streamfleet_worker.library.video_source import SourceProperties
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.encoding import to_json
from streamfleet_worker.video.outputs.prediction import Document
from streamfleet_worker.video.outputs.udp import UdpSender

logger = logging.getLogger(__name__)

OnPrediction = Callable[[Document, Image], Any]
Unsubscribe = Callable[[], None]
CallbackT = TypeVar("CallbackT", bound=Callable[..., Any])


class _BaseStream:
    """The common part of both streams: a source, a model, and the attributes of Roboflow's classes."""

    task_type = "object-detection"  # unless the model is a file of another task
    # Attributes of Roboflow's internals that have no counterpart here.
    active_learning_middleware = byte_tracker = inference_request_type = None
    img_dims = img_in = preproc_result = None
    queue_control = False

    def __init__(
        self,
        settings: Settings,
        *,
        api_key: str | None,
        enforce_fps: bool | None,
        model: Any,
        source: Reference | None,
        use_bytetrack: bool | None,
        sink: Callable[[Document, VideoFrame], None],
        on_start: Hook | None = None,
        on_end: Hook | None = None,
        **rules: Any,
    ) -> None:
        """Build the pipeline.

        Raises: ValueError with Roboflow's text if the source or the model is missing.
        """
        source = settings.stream_id if source is None else source
        model = settings.model_id if model is None else model
        if source is None:
            raise ValueError("STREAM_ID is not defined")
        if model is None:
            raise ValueError("MODEL_ID is not defined")
        self.api_key = api_key or settings.api_key
        self.stream_id = source
        self.model = model
        self.model_id = model if isinstance(model, (str, Path)) else None
        self.enforce_fps = settings.enforce_fps if enforce_fps is None else enforce_fps
        self.use_bytetrack = settings.bytetrack if use_bytetrack is None else use_bytetrack
        checked = rules_of(settings.rules, **rules)
        self.class_agnostic_nms = checked.class_agnostic_nms
        self.confidence = checked.confidence
        self.iou_threshold = checked.iou_threshold
        self.max_candidates = checked.max_candidates
        self.max_detections = checked.max_detections
        self.frame_count = 0  # predictions so far
        self.frame_id: int | None = None  # of the last frame with a prediction
        self._frame: VideoFrame | None = None
        self.inference_response: Document | None = None
        tracking = tracking_of("bytetrack" if self.use_bytetrack else None, model, checked)
        inference = inference_of(model, checked, settings=settings, tracking=tracking, api_key=api_key)
        if isinstance(inference, ModelFile):
            self.task_type = inference.task_type
        self._pipeline = InferencePipeline(
            plans_of(
                source,
                settings=settings,
                properties=settings.properties or None,
                mode="auto" if self.enforce_fps else "freshest",
            ),
            inference,
            [sink],
            tracking=tracking,
            on_start=on_start,
            on_end=on_end,
        )
        self.webcam_stream = WebcamStream(self._pipeline)

    @property
    def frame_cv(self) -> Image | None:
        """The picture of the last frame with a prediction, BGR."""
        return None if self._frame is None else self._frame.image

    @property
    def frame(self) -> Image | None:
        """The picture of the last frame with a prediction, RGB."""
        image = self.frame_cv
        return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    @property
    def stop(self) -> StopFlag:
        """Whether it was stopped. `stop()` and `stop = True` end it after the current callback."""
        return StopFlag(self._pipeline)

    @stop.setter
    def stop(self, wanted: bool) -> None:
        if wanted:
            self._pipeline.terminate()

    def init_infer(self) -> None:
        """Do nothing, as the next two methods: the pipeline does this itself."""

    def preprocess_thread(self) -> None:
        """Do nothing."""

    def inference_request_thread(self) -> None:
        """Do nothing."""

    def _record(self, prediction: Document, frame: VideoFrame) -> None:
        self.frame_count += 1
        self.frame_id = frame.frame_id
        self._frame = frame
        self.inference_response = {"frame_id": frame.frame_id, **prediction}


class StopFlag(int):
    """A boolean that stops the stream when it is called."""

    def __new__(cls, pipeline: InferencePipeline) -> StopFlag:
        flag = super().__new__(cls, pipeline.stopped)
        flag._stop = pipeline.terminate
        return flag

    _stop: Callable[[], None]

    def __call__(self) -> None:
        """End after the current callback. Does not wait for it."""
        self._stop()

    def __repr__(self) -> str:
        return repr(bool(self))


class WebcamStream:
    """The properties of a stream's source; 0 until it is open."""

    def __init__(self, pipeline: InferencePipeline) -> None:
        self._pipeline = pipeline

    @property
    def width(self) -> int:
        """Pixels."""
        return 0 if self._properties is None else self._properties.width

    @property
    def height(self) -> int:
        """Pixels."""
        return 0 if self._properties is None else self._properties.height

    @property
    def max_fps(self) -> float:
        """The declared frames per second; 30 if unknown, as in Roboflow's class."""
        return (0.0 if self._properties is None else self._properties.fps) or 30.0

    @property
    def fps(self) -> float:
        """The same as `max_fps`."""
        return self.max_fps

    @property
    def stopped(self) -> bool:
        """Whether the stream has ended."""
        return self._pipeline.stopped

    @property
    def _properties(self) -> SourceProperties | None:
        return self._pipeline.video_sources[0].properties


class Stream(_BaseStream):
    """Runs when it is constructed: until the end with `use_main_thread`, otherwise in the background.

    Arguments that are None are taken from the environment. `model` is an id, a path, a function of an image,
    or an object with `infer`, or with `preprocess`, `predict` and `postprocess`. `api_key` is not needed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        class_agnostic_nms: bool | None = None,
        confidence: float | None = None,
        enforce_fps: bool | None = None,
        iou_threshold: float | None = None,
        max_candidates: int | None = None,
        max_detections: int | None = None,
        model: str | Path | Any = None,
        source: Reference | None = None,
        use_bytetrack: bool | None = None,
        use_main_thread: bool = False,
        output_channel_order: str = "RGB",
        on_prediction: OnPrediction | None = None,
        on_start: Hook | None = None,
        on_stop: Hook | None = None,
    ) -> None:
        """Start it.

        Raises: ValueError, TypeError, ConfigError, SourceConnectionError, and the errors of `load`.
        """
        if output_channel_order not in ("RGB", "BGR"):
            raise ValueError(f"output_channel_order: expected RGB or BGR, got {output_channel_order!r}")
        self._swaps = output_channel_order == "RGB"
        self.output_channel_order = output_channel_order
        self.use_main_thread = use_main_thread
        self.on_prediction_callbacks: list[OnPrediction] = [] if on_prediction is None else [on_prediction]
        self.on_start_callbacks: list[Hook] = [] if on_start is None else [on_start]
        self.on_stop_callbacks: list[Hook] = [] if on_stop is None else [on_stop]
        super().__init__(
            current_settings(),
            api_key=api_key,
            class_agnostic_nms=class_agnostic_nms,
            confidence=confidence,
            enforce_fps=enforce_fps,
            iou_threshold=iou_threshold,
            max_candidates=max_candidates,
            max_detections=max_detections,
            model=model,
            source=source,
            use_bytetrack=use_bytetrack,
            sink=self._notify_prediction,
            on_start=lambda: self._notify("on_start", self.on_start_callbacks),
            on_end=lambda: self._notify("on_stop", self.on_stop_callbacks),
        )
        self._pipeline.start(use_main_thread=use_main_thread)

    def on_prediction(self, callback: OnPrediction) -> Unsubscribe:
        """Register a callback for each prediction and its picture. Returns a function that removes it."""
        return _subscribe(self.on_prediction_callbacks, callback)

    def on_start(self, callback: Hook) -> Unsubscribe:
        """Register a callback before the first frame. The last one registered is called first."""
        return _subscribe(self.on_start_callbacks, callback)

    def on_stop(self, callback: Hook) -> Unsubscribe:
        """Register a callback after the last frame. The last one registered is called first."""
        return _subscribe(self.on_stop_callbacks, callback)

    def join(self) -> None:
        """Wait for the end."""
        self._pipeline.join()

    def run_thread(self) -> None:
        """Wait for the end: the stream runs since its construction."""
        self.join()

    def _notify_prediction(self, prediction: Document, frame: VideoFrame) -> None:
        self._record(prediction, frame)
        image: Any = self.frame if self._swaps else frame.image
        for callback in self.on_prediction_callbacks.copy():
            if callback not in self.on_prediction_callbacks:
                continue  # the previous callback has removed it
            self._pipeline.callbacks.call("on_prediction", callback, self.inference_response, image)

    def _notify(self, what: str, hooks: list[Hook]) -> None:
        for hook in reversed(hooks.copy()):
            self._pipeline.callbacks.call(what, hook)


class UdpStream(_BaseStream):
    """Sends one datagram per frame: compact JSON, with `frame_id` at the top level. `run_thread` runs it.

    Arguments that are None are taken from the environment. `api_key` is not needed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        class_agnostic_nms: bool | None = None,
        confidence: float | None = None,
        enforce_fps: bool | None = None,
        ip_broadcast_addr: str | None = None,
        ip_broadcast_port: int | None = None,
        iou_threshold: float | None = None,
        max_candidates: int | None = None,
        max_detections: int | None = None,
        model_id: str | Path | Any = None,
        stream_id: Reference | None = None,
        use_bytetrack: bool | None = None,
    ) -> None:
        """Load the model. Raises: ValueError, TypeError, ConfigError, and the errors of `load`."""
        settings = current_settings()
        self.ip_broadcast_addr = ip_broadcast_addr or settings.broadcast_host
        self.ip_broadcast_port = settings.broadcast_port if ip_broadcast_port is None else ip_broadcast_port
        if not 1 <= self.ip_broadcast_port <= MAX_PORT:
            raise ValueError(
                f"ip_broadcast_port: expected a port from 1 to {MAX_PORT}, got {self.ip_broadcast_port!r}"
            )
        self._sink = UdpSink(host_of(self.ip_broadcast_addr), self.ip_broadcast_port)
        self._sender: UdpSender | None = None  # while it runs
        super().__init__(
            settings,
            api_key=api_key,
            class_agnostic_nms=class_agnostic_nms,
            confidence=confidence,
            enforce_fps=enforce_fps,
            iou_threshold=iou_threshold,
            max_candidates=max_candidates,
            max_detections=max_detections,
            model=model_id,
            source=stream_id,
            use_bytetrack=use_bytetrack,
            sink=self._send,
        )

    def run_thread(self) -> None:
        """Run until the end of the stream, `stop`, or Ctrl-C. Raises: SourceConnectionError."""
        self._sender = UdpSender(self._sink, time.monotonic())
        try:
            self._sender.await_address()
            self._pipeline.start(use_main_thread=True)
        except KeyboardInterrupt:
            logger.info("stopped by Ctrl-C")
        finally:
            self._sender.close()

    def _send(self, prediction: Document, frame: VideoFrame) -> None:
        assert self._sender is not None
        self._record(prediction, frame)
        assert self.inference_response is not None
        datagram = to_json(self.inference_response, compact=True).content
        if not self._sender.send(datagram, time.monotonic()):
            raise ConnectionError(f"{self._sender.name}: {self._sender.error}")


def _subscribe(callbacks: list[CallbackT], callback: CallbackT) -> Unsubscribe:
    def unsubscribe() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    callbacks.append(callback)
    return unsubscribe
