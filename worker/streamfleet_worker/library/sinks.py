"""What to do with predictions, by the original's names: draw them, send them, film them, keep them.

A sink is any function of predictions and frames. From one source it gets one of each; from several it gets
two lists in the order of the sources, with None where a source gave nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
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
import numpy as np
import supervision as sv
from supervision.annotators.base import BaseAnnotator

from streamfleet_broker.protocol.values import UdpSink, from_plain
from streamfleet_worker.camera.complaints import Complaints
from streamfleet_worker.camera.document import to_json
from streamfleet_worker.camera.frame import Image
from streamfleet_worker.camera.udp import UdpDoor
from streamfleet_worker.library.frame import VideoFrame

logger = logging.getLogger(__name__)

Prediction = dict[str, Any]
Predictions = Prediction | list[Prediction | None]
VideoFrames = VideoFrame | list[VideoFrame | None]
Sink = Callable[[Any, Any], object]
Size = tuple[int, int]  # pixels, width and height
Rendered = tuple[int | None, Image]  # the source, or the position in the list; the picture
OnRendered = Callable[[Any], object]  # gets one Rendered, or a list of them

DEFAULT_BBOX_ANNOTATOR = sv.BoxAnnotator()
DEFAULT_LABEL_ANNOTATOR = sv.LabelAnnotator()
DEFAULT_FPS_MONITOR = sv.FPSMonitor()  # of all who bring none of their own

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v"}  # every other container gets Motion JPEG
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")  # without all of them no window can be
_ABSENT = (256, 256, 3)  # the black picture of a source that gave nothing
_complaints, _complaining = Complaints(), threading.Lock()
_silencing = threading.Lock()  # OpenCV has one level for the whole program


# drawing --------------------------------------------------------------------------------------------------


def display_image(image: Rendered | list[Rendered]) -> None:
    """Show it in a window: one for each source, or one with a tile for each.

    Raises: OSError where there is no display. OpenCV's own window would end the whole program.
    """
    if not any(os.environ.get(name) for name in _DISPLAYS):
        raise OSError("there is no display for a window: give on_frame_rendered, or film with VideoFileSink")
    if isinstance(image, list):
        cv2.imshow("Predictions - tiles", _tiled([picture for _, picture in image]))
    else:
        source_id, picture = image
        cv2.imshow(f"Predictions - video: {'N/A' if source_id is None else source_id}", picture)
    cv2.waitKey(1)


def render_boxes(
    predictions: Predictions,
    video_frame: VideoFrames,
    annotator: BaseAnnotator | list[BaseAnnotator] | None = None,
    display_size: Size | None = (1280, 720),
    fps_monitor: sv.FPSMonitor | None = DEFAULT_FPS_MONITOR,
    display_statistics: bool = False,
    on_frame_rendered: OnRendered = display_image,
) -> None:
    """Draw what was found, and hand the pictures on: to a window when nothing else is said.

    `annotator`: one of supervision's, or several, in their order; None: boxes and labels.
    `display_size`: what each picture is made to fit, with black beside it; None: its own size.
    `display_statistics`: write latency and throughput into it.
    `on_frame_rendered`: gets (source_id, picture); for several sources a list of (position, picture).
    """
    pairs = list(_pairs(predictions, video_frame))
    if fps_monitor is not None:
        for _prediction, frame in pairs:
            if frame is not None:
                fps_monitor.tick()
    throughput = None if fps_monitor is None else fps_monitor.fps
    pictures = []
    for prediction, frame in pairs:
        picture = np.zeros(_ABSENT, np.uint8) if frame is None else _annotated(prediction, frame, annotator)
        if display_size is not None:
            picture = _fitted(picture, display_size)
        if display_statistics:
            _write_statistics(picture, frame, throughput)
        pictures.append(picture)
    if isinstance(video_frame, list):
        on_frame_rendered(list(enumerate(pictures)))
    else:
        on_frame_rendered((video_frame.source_id, pictures[0]))


def _annotated(
    prediction: Prediction | None,
    frame: VideoFrame,
    annotator: BaseAnnotator | list[BaseAnnotator] | None,
) -> Image:
    """A copy of the frame with what was found in it, as far as that can be drawn."""
    picture: Image = frame.image.copy()
    if prediction is None:
        return picture
    try:
        detections = sv.Detections.from_inference(prediction)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        _complain(f"render_boxes: expected the predictions of object detection, they lack {exc!r}")
        return picture
    if annotator is None:
        annotator = [DEFAULT_BBOX_ANNOTATOR, DEFAULT_LABEL_ANNOTATOR]
    for each in annotator if isinstance(annotator, list) else [annotator]:
        picture = each.annotate(scene=picture, detections=detections)
    return picture


def _write_statistics(picture: Image, frame: VideoFrame | None, throughput: float | None) -> None:
    if frame is not None:
        latency = (datetime.now() - frame.frame_timestamp).total_seconds()
        _write(picture, f"LATENCY: {latency * 1000:.2f} ms", 10)
    if throughput is not None:
        _write(picture, f"THROUGHPUT: {throughput:.2f}", 50)


def _write(picture: Image, text: str, above: int) -> None:
    """So many pixels above the lower edge."""
    place, green = (10, picture.shape[0] - above), (0, 255, 0)
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, green, 2)


def _tiled(pictures: list[Image]) -> Image:
    """All in one, row by row, each as large as the largest."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    whole = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        whole[top : top + height, left : left + width] = _fitted(picture, (width, height))
    return whole


def _fitted(picture: Image, size: Size) -> Image:
    """In this size, with black beside it where the shape differs."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    fitted: Image = sv.letterbox_image(picture, size)
    return fitted


# sending --------------------------------------------------------------------------------------------------


class UDPSink:
    """Sends a datagram for each frame, as the fleet's own sinks do. One thread uses it.

    Too large a datagram is made smaller: shorter numbers, then without the least confident predictions, of
    which `inference_metadata.truncated` says how many are missing.
    """

    @classmethod
    def init(cls, ip_address: str, port: int) -> UDPSink:
        """As the constructor. Raises: ValueError."""
        return cls(ip_address, port)

    def __init__(self, ip_address: str, port: int) -> None:
        """`ip_address` may be a name, which is looked up now. Raises: ValueError."""
        self._door = UdpDoor(from_plain({"host": ip_address, "port": port}, UdpSink), time.monotonic())
        self._door.await_address()

    @property
    def dropped(self) -> int:
        """Datagrams that did not leave this host."""
        return self._door.dropped

    def send_predictions(self, predictions: Predictions, video_frame: VideoFrames) -> None:
        """Send what there is; a source that gave nothing sends nothing.

        Raises: OSError when a datagram did not leave; the others have been sent.
        """
        sent = True
        for prediction, frame in _pairs(predictions, video_frame):
            if prediction is not None and frame is not None:
                document = {**prediction, "inference_metadata": _metadata(frame)}
                sent = self._door.send(to_json(document).content, time.monotonic()) and sent
        if not sent:
            raise OSError(f"{self._door.name}: {self._door.error}")

    def close(self) -> None:
        """Close the socket."""
        self._door.close()


def _metadata(frame: VideoFrame) -> dict[str, Any]:
    return {
        "source_id": frame.source_id,
        "frame_id": frame.frame_id,
        "frame_decoding_time": frame.frame_timestamp.isoformat(),
        "emission_time": datetime.now().isoformat(),
    }


# filming --------------------------------------------------------------------------------------------------


class VideoFileSink:
    """Writes frames with what was found into a video file, which `release` makes whole. One thread uses it.

    `with VideoFileSink.init("seen.avi") as sink:` releases it.
    """

    @classmethod
    def init(
        cls,
        video_file_name: str,
        annotator: BaseAnnotator | list[BaseAnnotator] | None = None,
        display_size: Size | None = (1280, 720),
        fps_monitor: sv.FPSMonitor | None = DEFAULT_FPS_MONITOR,
        display_statistics: bool = False,
        output_fps: int = 25,
        quiet: bool = False,
        video_frame_size: Size = (1280, 720),
    ) -> VideoFileSink:
        """The ending of the name says which container: .avi, .mp4, .mkv. The rest is as in `render_boxes`.

        `display_size`: of one source's picture, which is one tile of several.
        `output_fps`: frames a second of the file, whatever the rate at which they come.
        `quiet`: do not log how many frames were written.
        `video_frame_size`: of the file, which all of it is made to fit.

        Raises: OSError when such a file cannot be written.
        """
        render = partial(
            render_boxes,
            annotator=annotator,
            display_size=display_size,
            fps_monitor=fps_monitor,
            display_statistics=display_statistics,
        )
        codec = cv2.VideoWriter.fourcc(*_CODECS.get(Path(video_file_name).suffix.lower(), "MJPG"))
        with _silent_opencv():
            writer = cv2.VideoWriter(str(video_file_name), codec, output_fps, video_frame_size)
        if not writer.isOpened():
            raise OSError(
                f"{video_file_name}: expected a name such as seen.avi in a folder that can be written"
            )
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
        self.on_prediction = partial(render, on_frame_rendered=self._write)  # what a pipeline is given

    def release(self) -> None:
        """Finish the file, once; what comes later is refused."""
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
            raise ValueError(f"{self._name}: a frame came after the release")
        if isinstance(rendered, list):
            picture = _tiled([each for _, each in rendered])
        else:
            _, picture = rendered
        self._writer.write(_fitted(picture, self._size))
        self._written += 1


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """It warns of the writers that it tried in vain, of which we tell in one error."""
    with _silencing:
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            cv2.utils.logging.setLogLevel(before)


# keeping --------------------------------------------------------------------------------------------------


class InMemoryBufferSink:
    """Keeps what came until somebody takes it; when it is full, the oldest goes. Any thread may use it."""

    @classmethod
    def init(cls, queue_size: int) -> InMemoryBufferSink:
        """As the constructor."""
        return cls(queue_size)

    def __init__(self, queue_size: int) -> None:
        self._buffer: deque[tuple[list[Prediction | None], list[VideoFrame | None]]] = deque(
            maxlen=queue_size
        )

    def on_prediction(self, predictions: Predictions, video_frame: VideoFrames) -> None:
        """Keep it."""
        pairs = list(_pairs(predictions, video_frame))
        self._buffer.append(([prediction for prediction, _ in pairs], [frame for _, frame in pairs]))

    def empty(self) -> bool:
        """Is there nothing to take?"""
        return not self._buffer

    def consume_prediction(self) -> tuple[list[Prediction | None], list[VideoFrame | None]]:
        """Take the oldest: predictions and frames, as lists also of one source. Raises: IndexError."""
        return self._buffer.popleft()


# several --------------------------------------------------------------------------------------------------


def multi_sink(predictions: Predictions, video_frame: VideoFrames, sinks: Sequence[Sink]) -> None:
    """Give it to one sink after the other. What goes wrong in one is logged, and the next one gets it too.

    `functools.partial(multi_sink, sinks=[…])` is a sink.
    """
    for sink in sinks:
        _give(sink, predictions, video_frame)


def _give(sink: Sink, predictions: Predictions, video_frame: VideoFrames) -> None:
    try:
        sink(predictions, video_frame)
    except Exception as exc:  # the user's code: whatever it raises is its own
        name = getattr(sink, "__qualname__", None) or repr(sink)
        _complain(f"the sink {name} failed: {type(exc).__name__}: {exc}", exc)


# helpers --------------------------------------------------------------------------------------------------


def _pairs(
    predictions: Predictions, video_frame: VideoFrames
) -> Iterator[tuple[Prediction | None, VideoFrame | None]]:
    """One pair a source."""
    frames = video_frame if isinstance(video_frame, list) else [video_frame]
    yield from zip(predictions if isinstance(predictions, list) else [predictions], frames, strict=True)


def _complain(text: str, error: Exception | None = None) -> None:
    """Once in a while, or a sink that always fails fills the log."""
    with _complaining:
        often = _complaints.failed(text, time.monotonic())
    if often:
        logger.warning("%s", text, exc_info=error)
