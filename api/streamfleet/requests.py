"""What a program may ask of the api, as types for keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import NotRequired, Required, TypedDict


class Source(TypedDict):
    """Where frames come from, and how they are taken. A plain address or camera index stands for one, too.

    Attributes:
        reference: A path on the device, a URL, or the index of a camera.
        mode: `file` takes every frame and ends, `live` takes the newest and reconnects.
        max_fps: Frames a second.
        properties: OpenCV's `CAP_PROP_…` in lower case without the prefix, as `frame_width`.
        filling: What to do with a frame for which there is no room, as `DROP_OLDEST`.
        consumption: `LAZY` takes the oldest frame next, `EAGER` the newest.
    """

    reference: str | int
    mode: NotRequired[str | None]
    max_fps: NotRequired[float | None]
    properties: NotRequired[Mapping[str, float]]
    filling: NotRequired[str | None]
    consumption: NotRequired[str | None]


class Sink(TypedDict):
    """Where the device sends a datagram for each prediction.

    Attributes:
        host: A name or an address.
        port: From 1 to 65535.
        type: `udp`, the only one.
    """

    host: str
    port: int
    type: NotRequired[str]


class _Settings(TypedDict, total=False):
    sinks: Sequence[Sink]
    max_fps: float | None
    confidence: float | None
    iou_threshold: float | None
    class_agnostic_nms: bool | None
    max_candidates: int | None
    max_detections: int | None
    tracker: str | None
    sampling: Mapping[str, Any] | None
    device: str | None
    paused: bool


class PipelineSettings(_Settings, total=False):
    """A pipeline as it should be: the keyword arguments of `create_pipeline` and `put_pipeline`.

    Attributes:
        model: The id of a model.
        sources: Addresses, camera indexes, or `Source` tables; at least one.
        sinks: Where the device sends a datagram for each prediction.
        max_fps: Frames a second of each source. None: all.
        confidence: Objects below it are left out, from 0 to 1. None: the device's default.
        iou_threshold: Boxes that overlap more are one object, from 0 to 1. None: the device's default.
        class_agnostic_nms: Whether boxes of different classes that overlap are one object too.
        max_candidates: Boxes that are considered. None: the device's default.
        max_detections: Objects of a frame. None: the device's default.
        tracker: `bytetrack`, which gives objects an id from frame to frame, or None.
        sampling: Which frames are kept for labelling, as in the HTTP reference. None: none.
        device: Run on this device and nowhere else. None: on the device with the most room.
        selector: Labels that the device must have.
        labels: What the pipeline can be found by.
        paused: Whether it starts paused.
    """

    model: Required[str]
    sources: Required[Sequence[str | int | Source]]
    selector: Mapping[str, str]
    labels: Mapping[str, str]


class PipelineChanges(_Settings, total=False):
    """What to change of a pipeline: the keyword arguments of `patch_pipeline`.

    They mean what they mean in `PipelineSettings`. None puts the default back, sequences and `sampling` are
    replaced as a whole, and the keys of `selector` and `labels` are changed one by one: None removes a key.
    """

    model: str
    sources: Sequence[str | int | Source]
    selector: Mapping[str, str | None]
    labels: Mapping[str, str | None]
