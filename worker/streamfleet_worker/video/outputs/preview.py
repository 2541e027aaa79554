"""Pictures with boxes, for people who look at a pipeline right now: which frames, and what is drawn on them.

Drawing and JPEG take some milliseconds, so they have a thread of their own; what it cannot take is left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import supervision as sv

from streamfleet_core.protocol.data_plane import MAX_BODY, DataHeader
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.sources.pacing import Pace

logger = logging.getLogger(__name__)

_A_SECOND = 5.0  # pictures of one pipeline
_INTERVAL = 1 / _A_SECOND  # seconds
_NEVER = float("-inf")
_WIDEST, _HIGHEST = 640, 1280  # pixels
_QUALITY = 75  # of the JPEG
_GONE = 0.4  # seconds without a frame, after which no other source waits for its turn
_COLOURS = sv.ColorPalette.DEFAULT


class PreviewThrottle:
    """Of which frames pictures are made: some a second, the sources in turn. Pure."""

    def __init__(self) -> None:
        self._pace = Pace(_A_SECOND)
        self._seen: dict[int, float] = {}  # monotonic seconds of the last frame, by source
        self._shown: dict[int, float] = {}  # monotonic seconds of the last picture, by source

    def wants(self, source_id: int, now: float) -> bool:
        """Whether a picture is made of this frame of this source."""
        self._seen[source_id] = now
        wait = self._pace.wait(now)
        if wait > 0 and (wait > _INTERVAL or not self._is_overdue(source_id, now)):
            return False
        if wait == 0 and not self._is_next(source_id, now):
            return False
        self._shown[source_id] = now
        self._pace.went(now)
        return True

    def _is_next(self, source_id: int, now: float) -> bool:
        """Is there no other source in view that was shown longer ago?"""
        mine = self._shown.get(source_id, _NEVER)
        return all(self._shown.get(source, _NEVER) >= mine for source in self._in_view(now))

    def _is_overdue(self, source_id: int, now: float) -> bool:
        """A source of few frames would never hit the moment, so it may take the next one before its time."""
        return now - self._shown.get(source_id, _NEVER) > 2 * _INTERVAL * len(self._in_view(now))

    def _in_view(self, now: float) -> list[int]:
        return [source for source, at in self._seen.items() if now - at < _GONE]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewFrame:
    """What a picture is made of."""

    image: Image  # as it was decoded; not written to
    detections: sv.Detections  # in pixels of the image
    source_id: int
    header: DataHeader  # of the predictions
    give_back: Callable[[Image], None]  # the image is not looked at any more


class PreviewRenderer:
    """One thread that draws one preview after the other, and hands the JPEG to `leave`."""

    def __init__(self, labels: Sequence[str], leave: Callable[[bytes, PreviewFrame], None]) -> None:
        self._labels = labels
        self._leave = leave
        self._changed = threading.Condition()  # guards _next and _stopped
        self._next: PreviewFrame | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="preview renderer", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def offer(self, preview: PreviewFrame) -> None:
        """Draw this next; if one is waiting already, this is left out."""
        with self._changed:
            if self._next is None and not self._stopped:
                self._next = preview
                self._changed.notify()
                return
        preview.give_back(preview.image)

    def stop(self) -> None:
        """Draw nothing more. Does not wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            while (preview := self._wait()) is not None:
                self._render(preview)
        except Exception:
            logger.exception("the preview renderer died")
            self.stop()

    def _render(self, preview: PreviewFrame) -> None:
        try:
            jpeg = draw(preview.image, preview.detections, self._labels)
        finally:
            preview.give_back(preview.image)
        if len(jpeg) <= MAX_BODY:
            self._leave(jpeg, preview)

    def _wait(self) -> PreviewFrame | None:
        with self._changed:
            while self._next is None and not self._stopped:
                self._changed.wait()
            preview, self._next = self._next, None
            return None if self._stopped else preview


def draw(image: Image, detections: sv.Detections, labels: Sequence[str]) -> bytes:
    """A JPEG of the picture, made smaller, with its detections drawn on it."""
    height, width = image.shape[:2]
    scale = min(1.0, _WIDEST / width, _HIGHEST / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = _smaller(image, size) if scale < 1 else image.copy()
    if len(detections):
        smaller = detections[::-1]  # the surest is drawn last, so that nothing covers its label
        assert isinstance(smaller, sv.Detections)
        smaller.xyxy = smaller.xyxy * np.float32(scale)
        canvas = sv.BoxAnnotator(color=_COLOURS, thickness=2).annotate(canvas, smaller)
        labeller = sv.LabelAnnotator(color=_COLOURS, text_scale=0.4, text_padding=3)
        canvas = labeller.annotate(canvas, smaller, labels=captions(smaller, labels))
    _, jpeg = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return jpeg.tobytes()


def _smaller(image: Image, size: tuple[int, int]) -> Image:
    smaller: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return smaller


def captions(detections: sv.Detections, labels: Sequence[str]) -> list[str]:
    """What stands at each box: the class, how sure that is, and which track it is."""
    assert detections.confidence is not None
    assert detections.class_id is not None
    texts = [
        f"{labels[number]} {sure:.2f}"
        for number, sure in zip(detections.class_id.tolist(), detections.confidence.tolist(), strict=True)
    ]
    if detections.tracker_id is None:
        return texts
    return [f"{text} #{name}" for text, name in zip(texts, detections.tracker_id.tolist(), strict=True)]
