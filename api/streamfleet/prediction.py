"""Predictions as values, and their order within one subscription. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamfleet.errors import MissingPackage
from streamfleet_core.protocol.data_plane import Kind, pipeline_topic, split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import PredictionDocument, decode

if TYPE_CHECKING:
    import supervision as sv

MAX_PIPELINES = 20_000  # whose last key is kept; beyond that all are forgotten
RESTART_SILENCE = 10.0  # seconds of silence after which a smaller key means that the fleet was reset
_EVERYTHING = b"v1/pred/"

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model has found in one frame: objects, or classes of the whole picture.

    Attributes:
        pipeline_id: The id of the pipeline.
        device: The name of the device that ran the pipeline.
        source_id: The index of the source in the pipeline, from 0.
        frame_id: The number of the frame in its source, from 1. A gap means frames without inference.
        generation: Increases with each change of the pipeline.
        incarnation: Increases with each start of its process.
        sequence: The number of the prediction in its generation and incarnation, from 0.
        missing: The number of predictions of this pipeline that were lost directly before this one. None:
            an unknown number.
        width: The width of the frame in pixels. None: unknown.
        height: The height of the frame in pixels. None: unknown.
        captured_at: The capture time of the frame, in Unix seconds of the device's clock. None over HTTP.
        decoding_time: The time when the frame was decoded, as ISO 8601 in the device's local time.
        emission_time: The time when the prediction was sent, as ISO 8601 in the device's local time.
        truncated: The number of objects that were omitted, because one message cannot hold them.
        document: The whole document, in the format of Roboflow's inference.

    Example:
        ```python
        sure = prediction.detections[prediction.detections.confidence > 0.5]
        print(prediction.pipeline_id, prediction.frame_id, len(sure))
        ```
    """

    pipeline_id: str
    device: str
    source_id: int
    frame_id: int
    generation: int
    incarnation: int
    sequence: int
    missing: int | None
    width: int | None
    height: int | None
    captured_at: float | None
    decoding_time: str
    emission_time: str
    truncated: int
    document: PredictionDocument = field(repr=False)

    @classmethod
    def of(
        cls,
        document: PredictionDocument,
        pipeline_id: str,
        key: Key,
        *,
        missing: int | None = 0,
        captured_at: float | None = None,
    ) -> Prediction:
        """Create a prediction from its document."""
        about, image = document["inference_metadata"], document["image"]
        return cls(
            pipeline_id=pipeline_id,
            device=about.get("device", ""),
            source_id=about.get("source_id", 0),
            frame_id=about.get("frame_id", 0),
            generation=key[0],
            incarnation=key[1],
            sequence=key[2],
            missing=missing,
            width=image.get("width"),
            height=image.get("height"),
            captured_at=captured_at,
            decoding_time=about.get("frame_decoding_time", ""),
            emission_time=about.get("emission_time", ""),
            truncated=about.get("truncated", 0),
            document=document,
        )

    @property
    def objects(self) -> Sequence[Any]:
        """The detected objects, or the classes of the whole picture, as dicts.

        Keys of each: `confidence` from 0 to 1, `class` and `class_id`. Keys of an object: `x`, `y` (the
        centre), `width` and `height` in pixels of the frame, and `tracker_id` if the pipeline has a tracker.
        The task of the model adds others:

        - segment: `points`, the outline of the mask, or `rle`, its run lengths as in COCO.
        - obb: `points`, the four corners, and `rotation` in degrees. The other keys are of the enclosing box.
        - pose: `keypoints`, each with `x`, `y`, `confidence`, `class` and `class_id`.

        An object on which a stage of the pipeline has run has `stages`: by the name of the stage, the
        `predictions` of its model, and `top` and `confidence` if that classifies.
        """
        return self.document["predictions"]

    @property
    def detections(self) -> sv.Detections:
        """The objects as `supervision.Detections`, in pixels of the frame. Each access builds a new value.

        `data["class_name"]` has the names of their classes. Objects with masks have `mask`, of the size of
        the frame: it is drawn at each access, and None if it would have more than 2³¹ pixels. Oriented boxes
        have their corners in `data["xyxyxyxy"]`. Classes of a whole picture are no objects: then it is empty.

        Raises:
            MissingPackage: supervision is not installed.
        """
        with _needs_supervision("detections"):
            from streamfleet.supervision_values import detections_of
        return detections_of(self.document)

    @property
    def key_points(self) -> sv.KeyPoints:
        """The key points of the objects as `supervision.KeyPoints`. Each access builds a new value.

        They are in the order of `detections`. A key point that an object does not have is (0, 0) with a
        confidence of 0. It is empty if no object has any.

        Raises:
            MissingPackage: supervision is not installed.
        """
        with _needs_supervision("key_points"):
            from streamfleet.supervision_values import key_points_of
        return key_points_of(self.document)

    @property
    def classifications(self) -> sv.Classifications:
        """The classes of the whole picture as `supervision.Classifications`, the most confident first.

        It is empty if the model finds objects. `objects` has the names of the classes.

        Raises:
            MissingPackage: supervision is not installed.
        """
        with _needs_supervision("classifications"):
            from streamfleet.supervision_values import classifications_of
        return classifications_of(self.document)


@contextlib.contextmanager
def _needs_supervision(attribute: str) -> Iterator[None]:
    """Tell what to install if the import in this context fails. Raises: MissingPackage."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"Prediction.{attribute}", str(exc.name).partition(".")[0], "detections"
        ) from exc


class Inbox:
    """Decodes the messages of one subscription in order. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Key, float]] = {}  # by pipeline id: the last key and its arrival
        self.unreadable = 0  # messages that were not predictions

    def receive(self, frames: Sequence[bytes], now: float) -> Prediction | None:
        """Return the prediction in a message. None: it is unreadable, or older than the last one."""
        try:
            pipeline_id, header, body = split(frames)
            if header.kind is not Kind.PRED:
                raise BadData("a prediction", header.kind.name)
            document = decode(body)
        except BadData:
            self.unreadable += 1
            return None
        is_late, missing = self._order(pipeline_id, header.key, now)
        if is_late:
            return None
        captured_at = header.captured_wall_ns / 1e9 if header.captured_wall_ns else None
        return Prediction.of(document, pipeline_id, header.key, missing=missing, captured_at=captured_at)

    def _order(self, pipeline_id: str, key: Key, now: float) -> tuple[bool, int | None]:
        """Return whether a message is older than the last one, and how many are missing before it."""
        if pipeline_id not in self._last and len(self._last) >= MAX_PIPELINES:
            self._last.clear()
        last, heard = self._last.get(pipeline_id, (None, now))
        if last is not None and key <= last and now - heard <= RESTART_SILENCE:
            return True, 0
        self._last[pipeline_id] = key, now
        if last is None:
            return False, 0
        if key <= last:
            return False, None
        # How many predictions the previous incarnation sent is unknown.
        return False, key[2] - last[2] - 1 if key[:2] == last[:2] else key[2]


def topics_of(pipeline_ids: Sequence[str]) -> list[bytes]:
    """Return the ZeroMQ topics of these pipelines; without a pipeline, the topic of all."""
    return [pipeline_topic(Kind.PRED, each) for each in pipeline_ids] or [_EVERYTHING]
