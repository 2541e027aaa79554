"""Sinks under Roboflow's names: send, record or buffer predictions. `rendering` draws them.

A sink is any function of predictions and frames. With one source it gets one of each; with several it gets
two lists in the order of the sources, with None for a source without a frame.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from supervision.annotators.base import BaseAnnotator

from streamfleet_core.protocol.hosts import host_of
from streamfleet_core.protocol.values import UdpSink, from_plain
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.rendering import (
    FPSMonitor,
    Prediction,
    Predictions,
    Rendered,
    Size,
    VideoFrames,
    by_source,
    create_tiles,
    display_image,
    fitted,
    render_boxes,
)
from streamfleet_worker.library.sink_resources import ThrottledWarnings, shared
from streamfleet_worker.video.outputs.encoding import to_json
from streamfleet_worker.video.outputs.udp import UdpSender

logger = logging.getLogger(__name__)

__all__ = [  # and the functions of `rendering` that Roboflow exports with its sinks
    "InMemoryBufferSink",
    "UDPSink",
    "VideoFileSink",
    "create_tiles",
    "display_image",
    "multi_sink",
    "render_boxes",
]

Sink = Callable[[Any, Any], object]

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v"}  # other containers: Motion JPEG


# sending --------------------------------------------------------------------------------------------------


class UDPSink:
    """Sends a datagram for each frame, like the sinks of the fleet. Only one thread may use it.

    A datagram that is too large is reduced: first shorter numbers, then without the least confident
    predictions. `inference_metadata.truncated` counts the missing ones.
    """

    @classmethod
    def init(cls, ip_address: str, port: int) -> UDPSink:
        """Same as the constructor. Raises: ValueError."""
        return cls(ip_address, port)

    def __init__(self, ip_address: str, port: int) -> None:
        """`ip_address` may be a host name, which is resolved now. Raises: ValueError."""
        self._sender = UdpSender(
            from_plain({"host": host_of(ip_address), "port": port}, UdpSink), time.monotonic()
        )
        self._sender.await_address()

    @property
    def dropped(self) -> int:
        """The number of datagrams that were not sent."""
        return self._sender.dropped

    def send_predictions(self, predictions: Predictions, video_frame: VideoFrames) -> None:
        """Send a datagram for each source with a frame.

        Raises: OSError if one could not be sent; the others were.
        """
        sent = True
        for prediction, frame in by_source(predictions, video_frame):
            if prediction is not None and frame is not None:
                document = {**prediction, "inference_metadata": _metadata(frame)}
                sent = self._sender.send(to_json(document).content, time.monotonic()) and sent
        if not sent:
            raise OSError(f"{self._sender.name}: {self._sender.error}")

    def close(self) -> None:
        """Close the socket."""
        self._sender.close()


def _metadata(frame: VideoFrame) -> dict[str, Any]:
    return {
        "source_id": frame.source_id,
        "frame_id": frame.frame_id,
        "frame_decoding_time": frame.frame_timestamp.isoformat(),
        "emission_time": datetime.now().isoformat(),
    }


# recording ------------------------------------------------------------------------------------------------


class VideoFileSink:
    """Records frames with their predictions into a video file. `release` finishes the file.

    Only one thread may use it. `with VideoFileSink.init("seen.avi") as sink:` releases it.
    """

    @classmethod
    def init(
        cls,
        video_file_name: str,
        annotator: BaseAnnotator | list[BaseAnnotator] | None = None,
        display_size: Size | None = (1280, 720),
        fps_monitor: FPSMonitor = "shared",
        display_statistics: bool = False,
        output_fps: int = 25,
        quiet: bool = False,
        video_frame_size: Size = (1280, 720),
    ) -> VideoFileSink:
        """Open a video file. Its suffix chooses the container: .avi, .mp4, .mkv.

        `display_size`: the size of one source's picture, which is a tile if there are several.
        `output_fps`: frames per second of the file, independent of the rate of the input.
        `quiet`: do not log how many frames were written.
        `video_frame_size`: the size of the file; pictures are resized to fit.
        The other arguments are those of `render_boxes`.

        Raises: OSError if the file cannot be written.
        """
        render = partial(
            render_boxes,
            annotator=annotator,
            display_size=display_size,
            fps_monitor=fps_monitor,
            display_statistics=display_statistics,
        )
        codec = cv2.VideoWriter.fourcc(*_CODECS.get(Path(video_file_name).suffix.lower(), "MJPG"))
        with shared(_SilentOpenCV).silent():
            writer = cv2.VideoWriter(str(video_file_name), codec, output_fps, video_frame_size)
        if not writer.isOpened():
            raise OSError(f"{video_file_name}: expected a name such as seen.avi in a writable folder")
        return cls(str(video_file_name), writer, video_frame_size, render, quiet=quiet)

    def __init__(
        self, name: str, writer: cv2.VideoWriter, size: Size, render: Callable[..., None], *, quiet: bool
    ) -> None:
        """Use `init`."""
        self._name = name
        self._writer = writer
        self._size = size
        self._quiet = quiet
        self._written = 0
        self.on_prediction = partial(render, on_frame_rendered=self._write)  # the sink to pass to a pipeline

    def release(self) -> None:
        """Finish the file. Later frames are refused, later calls do nothing."""
        if not self._writer.isOpened():
            return
        self._writer.release()
        if not self._quiet:
            logger.info("%s: %d frames written", self._name, self._written)

    def __enter__(self) -> VideoFileSink:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.release()

    def _write(self, rendered: Rendered | list[Rendered]) -> None:
        if not self._writer.isOpened():
            raise ValueError(f"{self._name}: expected no frame after release, got one")
        if isinstance(rendered, list):
            picture = create_tiles([each for _, each in rendered])
        else:
            _, picture = rendered
        self._writer.write(fitted(picture, self._size))
        self._written += 1


class _SilentOpenCV:
    """Suppresses OpenCV's warnings about the writers that it tried: we raise one error instead.

    OpenCV has one log level for the whole program, so only one thread at a time may change it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Suppress OpenCV's log within the context."""
        with self._lock:
            before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            try:
                yield
            finally:
                cv2.utils.logging.setLogLevel(before)


# buffering ------------------------------------------------------------------------------------------------


class InMemoryBufferSink:
    """Buffers predictions until they are consumed. If it is full, the oldest is dropped. Thread-safe."""

    @classmethod
    def init(cls, queue_size: int) -> InMemoryBufferSink:
        """Same as the constructor."""
        return cls(queue_size)

    def __init__(self, queue_size: int) -> None:
        self._buffer: deque[tuple[list[Prediction | None], list[VideoFrame | None]]] = deque(
            maxlen=queue_size
        )

    def on_prediction(self, predictions: Predictions, video_frame: VideoFrames) -> None:
        """Add predictions and their frames."""
        pairs = list(by_source(predictions, video_frame))
        self._buffer.append(([prediction for prediction, _ in pairs], [frame for _, frame in pairs]))

    def empty(self) -> bool:
        """Whether the buffer is empty."""
        return not self._buffer

    def consume_prediction(self) -> tuple[list[Prediction | None], list[VideoFrame | None]]:
        """Take the oldest entry: lists of predictions and frames, also for one source. Raises: IndexError."""
        return self._buffer.popleft()


# several --------------------------------------------------------------------------------------------------


def multi_sink(predictions: Predictions, video_frame: VideoFrames, sinks: Sequence[Sink]) -> None:
    """Call several sinks in turn. The error of a sink is logged, and the next one is called.

    `functools.partial(multi_sink, sinks=[…])` is a sink.
    """
    for sink in sinks:
        _call_sink(sink, predictions, video_frame)


def _call_sink(sink: Sink, predictions: Predictions, video_frame: VideoFrames) -> None:
    try:
        sink(predictions, video_frame)
    except Exception as exc:  # user code may raise anything
        name = getattr(sink, "__qualname__", None) or repr(sink)
        shared(ThrottledWarnings).warn(f"the sink {name} failed: {type(exc).__name__}: {exc}", exc)
