"""Previews: which frames of a watched pipeline get one, and how it is drawn.

Drawing and JPEG encoding take some milliseconds, so they run on their own thread; frames that it has no time
for get no preview.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import supervision as sv

from streamfleet_core.protocol.data_plane import DataHeader
from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_core.protocol.values import Region
from streamfleet_worker.video.detection.findings import Findings, Nested, resized
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.outputs.drawing import class_captions, draw_findings, draw_region
from streamfleet_worker.video.sources.pacing import Pace

logger = logging.getLogger(__name__)

_MAX_FPS = 5.0  # previews of one pipeline
_INTERVAL = 1 / _MAX_FPS  # seconds
_NEVER = float("-inf")
_WIDEST, _HIGHEST = 640, 1280  # pixels
_QUALITY = 75  # of the JPEG
_SOURCE_TIMEOUT = 0.4  # seconds without a frame, after which a source loses its turn
_TEXT_SCALE = 0.4


class PreviewThrottle:
    """Selects the frames that get a preview: a few per second, the sources in turn. Pure."""

    def __init__(self) -> None:
        self._pace = Pace(_MAX_FPS)
        self._seen: dict[int, float] = {}  # monotonic seconds of the last frame, by source
        self._shown: dict[int, float] = {}  # monotonic seconds of the last preview, by source

    def wants(self, source_id: int, now: float) -> bool:
        """Return whether this frame of this source gets a preview."""
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
        """Whether no other active source has waited longer for a preview."""
        mine = self._shown.get(source_id, _NEVER)
        return all(self._shown.get(source, _NEVER) >= mine for source in self._in_view(now))

    def _is_overdue(self, source_id: int, now: float) -> bool:
        """Whether a source with few frames may get a preview early: it would rarely hit its turn."""
        return now - self._shown.get(source_id, _NEVER) > 2 * _INTERVAL * len(self._in_view(now))

    def _in_view(self, now: float) -> list[int]:
        return [source for source, at in self._seen.items() if now - at < _SOURCE_TIMEOUT]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewFrame:
    """The input of one preview."""

    picture: Picture
    findings: Findings  # in pixels of the picture
    labels: Sequence[str]  # the classes of the model
    source_id: int
    header: DataHeader  # of the predictions
    nested: Nested = field(default_factory=dict)
    stage_labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # classes of each stage, by name
    region: Region | None = None  # of the source


class PreviewRenderer:
    """A thread that draws previews one by one, and passes each JPEG to `send`."""

    def __init__(self, send: Callable[[bytes, PreviewFrame], None]) -> None:
        self._send = send
        self._changed = threading.Condition()  # guards _next and _stopped
        self._next: PreviewFrame | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="preview renderer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, preview: PreviewFrame) -> None:
        """Draw this next. If one is waiting already, this one is dropped."""
        with self._changed:
            if self._next is None and not self._stopped:
                self._next = preview
                self._changed.notify()

    def stop(self) -> None:
        """Stop drawing. Does not wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            while (preview := self._wait()) is not None:
                self._render(preview)
        except Exception:
            logger.exception("the preview renderer failed")
            self.stop()

    def _render(self, preview: PreviewFrame) -> None:
        picture = preview.picture
        frame_size = (picture.width, picture.height)
        image = picture.scaled(*preview_size(*frame_size)) if picture.is_reduced else picture.bgr()
        jpeg = draw(
            image,
            preview.findings,
            preview.labels,
            frame_size=frame_size,
            nested=preview.nested,
            stage_labels=preview.stage_labels,
            region=preview.region,
        )
        if len(jpeg) <= MAX_DATA_BODY:
            self._send(jpeg, preview)

    def _wait(self) -> PreviewFrame | None:
        with self._changed:
            while self._next is None and not self._stopped:
                self._changed.wait()
            preview, self._next = self._next, None
            return None if self._stopped else preview


def preview_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the preview of a frame of this size, in pixels."""
    scale = _scale_of(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw(
    image: Image,
    findings: Findings,
    labels: Sequence[str],
    *,
    frame_size: tuple[int, int],
    nested: Nested | None = None,
    stage_labels: Mapping[str, Sequence[str]] | None = None,
    region: Region | None = None,
) -> bytes:
    """Draw the findings on a copy of the picture in the size of a preview, and encode it as a JPEG.

    `frame_size`: width and height of the frame in whose pixels the detections are.
    `nested`: what stages have found in the objects; `stage_labels`: the classes of each stage.
    `region`: where objects are kept.
    """
    size, scale = preview_size(*frame_size), _scale_of(*frame_size)
    canvas = image.copy() if image.shape[1::-1] == size else _smaller(image, size)
    if region is not None:
        canvas = draw_region(canvas, region)
    notes: dict[int, str] = {}
    for index, stages in (nested or {}).items():
        for name, found in stages.items():
            own = (stage_labels or {})[name]
            if isinstance(found, sv.Classifications):
                notes[index] = " ".join([*filter(None, [notes.get(index)]), *class_captions(found, own)[:1]])
            else:
                canvas = draw_findings(canvas, resized(found, scale), own, text_scale=_TEXT_SCALE)
    canvas = draw_findings(canvas, resized(findings, scale), labels, text_scale=_TEXT_SCALE, notes=notes)
    _, jpeg = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return jpeg.tobytes()


def _scale_of(width: int, height: int) -> float:
    """Pixels of the preview for one of the frame."""
    return min(1.0, _WIDEST / width, _HIGHEST / height)


def _smaller(image: Image, size: tuple[int, int]) -> Image:
    smaller: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return smaller
