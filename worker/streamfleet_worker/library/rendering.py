"""Renders predictions: boxes and labels in frames, tiles of several sources, a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

import cv2
import numpy as np
import supervision as sv
from supervision.annotators.base import BaseAnnotator

from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.settings import has_display
from streamfleet_worker.library.sink_resources import ThrottledWarnings, shared
from streamfleet_worker.video.detection.findings import CORNERS
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.drawing import draw_classes, draw_shapes
from streamfleet_worker.video.outputs.reading import findings_in, is_classified, supervision_detections

Prediction = dict[str, Any]
Predictions = Prediction | list[Prediction | None]
VideoFrames = VideoFrame | list[VideoFrame | None]
Size = tuple[int, int]  # pixels, width and height
Rendered = tuple[int | None, Image]  # the source, or the position in the list; the picture
OnRendered = Callable[[Any], object]  # receives one Rendered, or a list of them
FPSMonitor = sv.FPSMonitor | Literal["shared"] | None

_MOST_CLASSES = 3  # of a classified picture that are written into it
_TEXT_SCALE = 0.5  # as supervision's labels have
_ABSENT = (256, 256, 3)  # the black picture shown for a source without a frame


def display_image(image: Rendered | list[Rendered]) -> None:
    """Show rendered frames in a window: one window per source, or one window with a tile per source.

    Raises: OSError if there is no display. OpenCV itself would abort the whole program.
    """
    if not has_display():
        raise OSError("no display for a window: pass on_frame_rendered, or record with VideoFileSink")
    if isinstance(image, list):
        cv2.imshow("Predictions - tiles", create_tiles([picture for _, picture in image]))
    else:
        source_id, picture = image
        cv2.imshow(f"Predictions - video: {'N/A' if source_id is None else source_id}", picture)
    cv2.waitKey(1)


def render_boxes(
    predictions: Predictions,
    video_frame: VideoFrames,
    annotator: BaseAnnotator | list[BaseAnnotator] | None = None,
    display_size: Size | None = (1280, 720),
    fps_monitor: FPSMonitor = "shared",
    display_statistics: bool = False,
    on_frame_rendered: OnRendered = display_image,
) -> None:
    """Draw predictions into their frames, and pass the pictures to `on_frame_rendered`.

    `annotator`: one or several of supervision's annotators, applied in order; None: boxes, labels,
        and what the task of the model adds.
    `display_size`: each picture is resized to fit, with black borders; None: keep its size.
    `fps_monitor`: measures the throughput; "shared": one for all calls with this value; None: do not measure.
    `display_statistics`: write latency and throughput into the picture.
    `on_frame_rendered`: gets (source_id, picture); for several sources a list of (position, picture).
    """
    pairs = list(by_source(predictions, video_frame))
    monitor = shared(sv.FPSMonitor) if isinstance(fps_monitor, str) else fps_monitor
    if monitor is not None:
        for _prediction, frame in pairs:
            if frame is not None:
                monitor.tick()
    throughput = None if monitor is None else monitor.fps
    pictures = []
    for prediction, frame in pairs:
        picture = np.zeros(_ABSENT, np.uint8) if frame is None else annotated(prediction, frame, annotator)
        if display_size is not None:
            picture = fitted(picture, display_size)
        if display_statistics:
            _write_statistics(picture, frame, throughput)
        pictures.append(picture)
    if isinstance(video_frame, list):
        on_frame_rendered(list(enumerate(pictures)))
    else:
        on_frame_rendered((video_frame.source_id, pictures[0]))


def annotated(
    prediction: Prediction | None,
    frame: VideoFrame,
    annotator: BaseAnnotator | list[BaseAnnotator] | None,
) -> Image:
    """A copy of the frame with its predictions drawn, if they can be drawn."""
    picture: Image = frame.image.copy()
    if prediction is None:
        return picture
    try:
        if annotator is None:
            return _drawn(picture, prediction)
        detections = supervision_detections(prediction)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        shared(ThrottledWarnings).warn(f"render_boxes: expected predictions of a model, got {exc!r}")
        return picture
    for each in annotator if isinstance(annotator, list) else [annotator]:
        picture = each.annotate(scene=picture, detections=detections)
    return picture


def _drawn(picture: Image, prediction: Prediction) -> Image:
    """Draw what the model found, whatever its task. Raises: as `findings_in`, before anything is drawn."""
    if is_classified(prediction):
        best = prediction["predictions"][:_MOST_CLASSES]
        texts = [f"{each['class']} {each['confidence']:.2f}" for each in best]
        return draw_classes(picture, texts, text_scale=_TEXT_SCALE)
    detections = findings_in(prediction)
    picture = draw_shapes(picture, detections)
    if CORNERS not in detections.data:
        picture = shared(sv.BoxAnnotator).annotate(picture, detections)
    return shared(sv.LabelAnnotator).annotate(picture, detections)


def _write_statistics(picture: Image, frame: VideoFrame | None, throughput: float | None) -> None:
    if frame is not None:
        latency = (datetime.now() - frame.frame_timestamp).total_seconds()
        _write(picture, f"LATENCY: {latency * 1000:.2f} ms", 10)
    if throughput is not None:
        _write(picture, f"THROUGHPUT: {throughput:.2f}", 50)


def _write(picture: Image, text: str, above: int) -> None:
    """Write text `above` pixels over the lower edge."""
    place, green = (10, picture.shape[0] - above), (0, 255, 0)
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, green, 2)


def create_tiles(
    images: Sequence[Image],
    grid_size: tuple[int | None, int | None] | None = None,
    single_tile_size: Size | None = None,
) -> Image:
    """Arrange pictures in a grid, row by row; empty tiles are black.

    `grid_size`: rows and columns, of which one may be None; None: about as many rows as columns.
    `single_tile_size`: each picture is resized to fit; None: the size of the largest.

    Raises: ValueError for no pictures, or more than the grid has tiles.
    """
    if not images:
        raise ValueError("images: expected at least one picture, got none")
    rows, columns = grid_size or (None, None)
    if columns is None:
        columns = math.ceil(math.sqrt(len(images))) if rows is None else math.ceil(len(images) / rows)
    if rows is None:
        rows = math.ceil(len(images) / columns)
    if rows * columns < len(images):
        raise ValueError(f"expected a grid_size for {len(images)} pictures, got {rows} rows of {columns}")
    return _tiled(list(images), rows, columns, single_tile_size)


def _tiled(pictures: list[Image], rows: int, columns: int, size: Size | None) -> Image:
    width = max(picture.shape[1] for picture in pictures) if size is None else size[0]
    height = max(picture.shape[0] for picture in pictures) if size is None else size[1]
    whole = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        whole[top : top + height, left : left + width] = fitted(picture, (width, height))
    return whole


def fitted(picture: Image, size: Size) -> Image:
    """Resize a picture to a size, with black borders if the aspect ratio differs."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    image: Image = sv.letterbox_image(picture, size)
    return image


def by_source(
    predictions: Predictions, video_frame: VideoFrames
) -> Iterator[tuple[Prediction | None, VideoFrame | None]]:
    """Pairs of prediction and frame, one per source."""
    frames = video_frame if isinstance(video_frame, list) else [video_frame]
    yield from zip(predictions if isinstance(predictions, list) else [predictions], frames, strict=True)
