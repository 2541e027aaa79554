"""Types of the keyword arguments of the clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import NotRequired, Required, TypedDict


class Motion(TypedDict, total=False):
    """Which frames of a source count as still, and are not processed. `{}` has the defaults.

    Attributes:
        sensitivity: From 0, only strong changes are motion, to 1, faint ones are too. 0.5 is the default.
        max_still: The seconds after which a frame is processed without any motion. 10 is the default.
    """

    sensitivity: float
    max_still: float


class Source(TypedDict):
    """A video source. A string or a camera index is short for a source with this `reference`.

    Attributes:
        reference: A path on the device, a URL, or the index of a camera.
        mode: `file` processes every frame and ends, `live` processes the newest frame and reconnects.
        max_fps: The maximum frames per second. None: no limit.
        properties: OpenCV's `CAP_PROP_…` in lower case without the prefix, for example `frame_width`.
        filling: The strategy when the frame buffer is full, for example `DROP_OLDEST`.
        consumption: `LAZY` processes the oldest buffered frame next, `EAGER` the newest.
        decoder: `software`, hardware (`nv`, `va`), or `auto`. None: as the worker's `--decoder` says.
        classes: Names of the model's classes. Objects of all others are dropped. None: no object is dropped.
        region: The corners of a polygon, each x and y from 0 to 1, from the top left of the frame. Objects
            with the center of their box outside of it are dropped. None: no object is dropped.
        motion: Only frames with motion in the region are processed. None: all frames.

    Example:
        ```python
        source = {"reference": "rtsp://10.0.0.9/door", "mode": "live", "max_fps": 10}
        ```
    """

    reference: str | int
    mode: NotRequired[str | None]
    max_fps: NotRequired[float | None]
    properties: NotRequired[Mapping[str, float]]
    filling: NotRequired[str | None]
    consumption: NotRequired[str | None]
    decoder: NotRequired[str | None]
    classes: NotRequired[Sequence[str] | None]
    region: NotRequired[Sequence[Sequence[float]] | None]
    motion: NotRequired[Motion | None]


class Sink(TypedDict):
    """A UDP receiver. The device sends it one datagram per prediction.

    Attributes:
        host: A host name or an IP address.
        port: The port, from 1 to 65535.
        type: `udp`, the only type.
    """

    host: str
    port: int
    type: NotRequired[str]


class Stage(TypedDict):
    """A further model, which runs on the objects that the first one has found, each cut out of the frame.

    Its results are under `stages` and its name in the prediction of the object.

    Attributes:
        name: The name of its results.
        model: The id of the model.
        classes: Only objects of these classes of the first model. None: all.
        max_objects: The maximum objects of a frame, the most confident first. Default: 8.
        margin: Added to each side of an object, in parts of its width and height. Default: 0.
        max_delay: Seconds that a live frame waits for it. Later results are dropped. Default: 0.5.
        confidence: The minimum confidence of its detections. None: the device's default.
        max_detections: The maximum detections in an object. Default: 32.
    """

    name: str
    model: str
    classes: NotRequired[Sequence[str] | None]
    max_objects: NotRequired[int]
    margin: NotRequired[float]
    max_delay: NotRequired[float]
    confidence: NotRequired[float | None]
    max_detections: NotRequired[int]


class Keep(TypedDict, total=False):
    """What a device keeps of a pipeline's predictions, for subscribers that missed them.

    Attributes:
        age: Seconds; 0: nothing. None: as of others.
        size: Bytes; 0: nothing. None: as much as the device has room for.
    """

    age: float | None
    size: int | None


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
    priority: str
    mask_format: str
    stages: Sequence[Stage]
    keep: Keep | None
    device: str | None
    on_disconnect: str | None
    paused: bool


class PipelineSettings(_Settings, total=False):
    """The desired state of a pipeline: the keyword arguments of `create_pipeline` and `put_pipeline`.

    Attributes:
        model: The id of a model.
        sources: Paths, URLs, camera indexes, or `Source` tables; at least one.
        sinks: UDP receivers of the predictions.
        max_fps: The maximum frames per second of each source. None: no limit.
        confidence: The minimum confidence of an object, from 0 to 1. None: the device's default.
        iou_threshold: Of boxes that overlap more than this (IoU, from 0 to 1), only the most confident stays.
            None: the device's default.
        class_agnostic_nms: Whether `iou_threshold` applies also between different classes.
            None: the device's default.
        max_candidates: The maximum boxes before suppression. None: the device's default.
        max_detections: The maximum objects per frame. None: the device's default.
        tracker: `bytetrack`, `sort`, `ocsort`, `botsort` or `cbiou` gives each object an id that persists
            between frames. None: no tracking.
        sampling: The rules that select frames for labelling, as in the HTTP reference. None: no frames.
        priority: `high`, `normal` or `low`: whose frames a busy device infers first.
        mask_format: `polygon`: predictions have the outline of a mask in `points`; `rle`: all of it in `rle`.
        stages: Further models, which run on the objects that this one has found.
        keep: How long and how many of its predictions a device keeps. None: as of others.
        device: Run only on this device. None: the scheduler selects a device.
        selector: Labels that the device must have.
        labels: Labels of the pipeline, for selectors.
        on_disconnect: `stop` or `continue` on a device that has lost the broker. A pipeline that continues
            never moves. None: `continue` with a named device, a file or a local camera, otherwise `stop`.
        paused: Whether the pipeline starts paused.
    """

    model: Required[str]
    sources: Required[Sequence[str | int | Source]]
    selector: Mapping[str, str]
    labels: Mapping[str, str]


class RolloutSettings(TypedDict, total=False):
    """Optional settings of a roll-out.

    Attributes:
        selector: Labels of the pipelines. Without it, all that use the old model move.
        canary: The share of the pipelines that go first.
        max_unavailable: The maximum of pipelines that are down, or not proven yet, at the same time.
        observe: Seconds for which each pipeline is measured, with either model.
        shadow: Seconds for which the new model infers some frames beside the old one before. 0: not at all.
        start: Seconds until a pipeline must run with the new model.
        min_objects: Objects per frame that it must find, as a share of those that the old model found.
        min_agreement: The share of the old model's objects that it must find in the same frames, as a shadow.
        max_latency: The latency that it may have, times that of the old model (and 50 ms).
        min_fps: Frames per second that it must give, as a share of those with the old model.
        share: The share of the frames that the shadow infers, at most.
        dataset: Frames in which both models differ become samples of this dataset. None: none do.
    """

    selector: Mapping[str, str]
    canary: float
    max_unavailable: int
    observe: float
    shadow: float
    start: float
    min_objects: float
    min_agreement: float
    max_latency: float
    min_fps: float
    share: float
    dataset: str | None


class PipelineChanges(_Settings, total=False):
    """Changes of a pipeline: the keyword arguments of `patch_pipeline`.

    The fields are those of `PipelineSettings`. None restores the default. Sequences and `sampling` are
    replaced as a whole. `selector` and `labels` are merged key by key: None removes a key.
    """

    model: str
    sources: Sequence[str | int | Source]
    selector: Mapping[str, str | None]
    labels: Mapping[str, str | None]
