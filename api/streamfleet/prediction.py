"""One prediction, whichever way it came, and the order of those of one subscription. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamfleet.errors import MissingPackage
from streamfleet_core.protocol.data_plane import Kind, pipeline_topic, split
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import PredictionDocument, decode

if TYPE_CHECKING:
    import supervision as sv

MAX_PIPELINES = 20_000  # whose order is known; beyond that all begin again
RESTART_SILENCE = 10.0  # seconds after which a smaller key means that the fleet began again
_EVERYTHING = b"v1/pred/"

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model found in one frame.

    Attributes:
        pipeline_id: The pipeline.
        device: The device that ran it.
        source_id: The index of the source in the pipeline, from 0.
        frame_id: Counts the frames of the source from 1. Gaps are frames that were not looked at.
        generation: Rises with each change of the pipeline.
        incarnation: Rises with each start of its process.
        sequence: Counts the predictions of this generation and incarnation from 0.
        missing: Predictions of this pipeline that were lost just before this one. None: some may be lost, and
            it is not known how many.
        width: Of the frame in pixels. None: unknown.
        height: Of the frame in pixels. None: unknown.
        captured_at: When the frame was captured, in Unix seconds of the device. None over HTTP.
        decoding_time: When it was decoded, as ISO 8601 in local time of the device.
        emission_time: When the prediction was sent, as ISO 8601 in local time of the device.
        truncated: Objects that were left out, as there were too many for one message.
        document: The whole document, as Roboflow's inference gives it.

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
        """The prediction in a document."""
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
        """What was found: dicts with `x`, `y` (the centre), `width` and `height` in pixels of the frame,
        `confidence` from 0 to 1, `class`, `class_id`, and `tracker_id` if the pipeline tracks.
        """
        return self.document["predictions"]

    @property
    def detections(self) -> sv.Detections:
        """The objects as `supervision.Detections`, in pixels of the frame; made again at each use.

        Raises:
            MissingPackage: supervision is not installed.
        """
        try:
            import supervision as sv
        except ModuleNotFoundError as exc:
            raise MissingPackage("Prediction.detections", str(exc.name), "detections") from exc
        return sv.Detections.from_inference(self.document)


class Inbox:
    """The messages of one subscription, as predictions in order. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Key, float]] = {}  # by pipeline: its last key, and when it came
        self.unreadable = 0  # messages that were no predictions

    def receive(self, frames: Sequence[bytes], now: float) -> Prediction | None:
        """The prediction in a message. None: it is unreadable, or came too late."""
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
        """Whether a message came too late, and how many are missing before it."""
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
        # Of an incarnation that has ended, nobody can tell how many it had.
        return False, key[2] - last[2] - 1 if key[:2] == last[:2] else key[2]


def topics_of(pipeline_ids: Sequence[str]) -> list[bytes]:
    """What to subscribe to; of no pipeline: to all."""
    return [pipeline_topic(Kind.PRED, each) for each in pipeline_ids] or [_EVERYTHING]
