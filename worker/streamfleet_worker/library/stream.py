"""`Stream` and `UdpStream`: one source, one model, and predictions as a call or as a datagram.

a file        plays at its own pace, what is late is left out; with `enforce_fps` every frame is shown
a live source the newest frame is shown, and a source that is lost is opened again
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2

from streamfleet_broker.protocol.values import UdpSink
from streamfleet_worker.camera.document import Document, to_json
from streamfleet_worker.camera.frame import Image
from streamfleet_worker.camera.udp import UdpDoor
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.pipeline import (
    Hook,
    InferencePipeline,
    Reference,
    inference_of,
    plans_of,
    rules_of,
    tracking_of,
)
from streamfleet_worker.library.settings import Settings, current_settings

logger = logging.getLogger(__name__)

OnPrediction = Callable[[Document, Image], Any]
Unsubscribe = Callable[[], None]
CallbackT = TypeVar("CallbackT", bound=Callable[..., Any])


class Stream:
    """Plays as soon as it is made: until the end where `use_main_thread` is set, or else in the background.

    What is None is taken from the environment. `model` is an id, a path, a function of an image, or an object
    with `infer`, or with `preprocess`, `predict` and `postprocess`. The key is accepted, and not needed.
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
        """Raises: ValueError, TypeError, ConfigError, SourceConnectionError; and what `load` raises."""
        if output_channel_order not in ("RGB", "BGR"):
            raise ValueError(f"output_channel_order: expected RGB or BGR, came {output_channel_order!r}")
        self._swaps = output_channel_order == "RGB"
        self._on_prediction: list[OnPrediction] = [] if on_prediction is None else [on_prediction]
        self._on_start: list[Hook] = [] if on_start is None else [on_start]
        self._on_stop: list[Hook] = [] if on_stop is None else [on_stop]
        self._pipeline = _pipeline_of(
            current_settings(),
            api_key=api_key,
            class_agnostic_nms=class_agnostic_nms,
            confidence=confidence,
            enforce_fps=enforce_fps,
            iou_threshold=iou_threshold,
            max_candidates=max_candidates,
            max_detections=max_detections,
            model=model,
            source=0 if source == "webcam" else source,
            use_bytetrack=use_bytetrack,
            sink=self._tell_prediction,
            on_start=lambda: self._tell("on_start", self._on_start),
            on_end=lambda: self._tell("on_stop", self._on_stop),
        )
        self._pipeline.start(use_main_thread=use_main_thread)

    def on_prediction(self, callback: OnPrediction) -> Unsubscribe:
        """Call it with the predictions and the picture of each frame, until what is returned is called."""
        return _subscribe(self._on_prediction, callback)

    def on_start(self, callback: Hook) -> Unsubscribe:
        """Call it before the first frame. Who was registered last is called first."""
        return _subscribe(self._on_start, callback)

    def on_stop(self, callback: Hook) -> Unsubscribe:
        """Call it after the last frame. Who was registered last is called first."""
        return _subscribe(self._on_stop, callback)

    def stop(self) -> None:
        """End after the call that is under way. Does not wait for it."""
        self._pipeline.terminate()

    def join(self) -> None:
        """Wait for the end."""
        self._pipeline.join()

    def _tell_prediction(self, prediction: Document, frame: VideoFrame) -> None:
        image: Any = cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB) if self._swaps else frame.image
        for callback in self._on_prediction.copy():
            if callback not in self._on_prediction:
                continue  # the one before has taken it back
            self._pipeline.callbacks.call("on_prediction", callback, prediction, image)

    def _tell(self, what: str, hooks: list[Hook]) -> None:
        for hook in reversed(hooks.copy()):
            self._pipeline.callbacks.call(what, hook)


class UdpStream:
    """Sends one datagram a frame: compact JSON, with `frame_id` at its top. `run_thread` plays it.

    What is None is taken from the environment. The key is accepted, and not needed.
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
        """Raises: ValueError, TypeError, ConfigError; and whatever the model cannot be loaded by."""
        settings = current_settings()
        port = settings.broadcast_port if ip_broadcast_port is None else ip_broadcast_port
        if not 1 <= port <= 65535:
            raise ValueError(f"ip_broadcast_port: expected a port from 1 to 65535, came {port!r}")
        self._sink = UdpSink(ip_broadcast_addr or settings.broadcast_host, port)
        self._door: UdpDoor | None = None  # while it plays
        self._pipeline = _pipeline_of(
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
        """Play until the end of the stream, until `stop`, or until Ctrl-C. Raises: SourceConnectionError."""
        self._door = UdpDoor(self._sink, time.monotonic())
        try:
            self._door.await_address()
            self._pipeline.start(use_main_thread=True)
        except KeyboardInterrupt:
            logger.info("stopped by Ctrl-C")
        finally:
            self._door.close()

    def stop(self) -> None:
        """End after the datagram that is under way. Does not wait for it."""
        self._pipeline.terminate()

    def _send(self, prediction: Document, frame: VideoFrame) -> None:
        assert self._door is not None
        datagram = to_json({"frame_id": frame.frame_id, **prediction}, compact=True).content
        if not self._door.send(datagram, time.monotonic()):
            raise ConnectionError(f"{self._door.name}: {self._door.error}")


def _pipeline_of(
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
) -> InferencePipeline:
    """The pipeline of one stream. Raises: ValueError with the original's text where something is missing."""
    source = settings.stream_id if source is None else source
    model = settings.model_id if model is None else model
    if source is None:
        raise ValueError("STREAM_ID is not defined")
    if model is None:
        raise ValueError("MODEL_ID is not defined")
    every = settings.enforce_fps if enforce_fps is None else enforce_fps
    tracks = settings.bytetrack if use_bytetrack is None else use_bytetrack
    checked = rules_of(settings.rules, **rules)
    return InferencePipeline(
        plans_of(
            source,
            settings=settings,
            properties=settings.properties or None,
            mode="auto" if every else "freshest",
        ),
        inference_of(model, checked, settings=settings, api_key=api_key),
        [sink],
        tracking=tracking_of("bytetrack" if tracks else None, model, checked),
        on_start=on_start,
        on_end=on_end,
    )


def _subscribe(callbacks: list[CallbackT], callback: CallbackT) -> Unsubscribe:
    def unsubscribe() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    callbacks.append(callback)
    return unsubscribe
