"""The original's requests, field by field: names, coercions and defaults, and its answer to what is wrong.

What the original accepted is accepted here; `wishes` looks at what it means.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamfleet_api.wire import BadJson, parse

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MODEL_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"

M = TypeVar("M", bound=BaseModel)

Name = Annotated[str, Field(pattern=ID_PATTERN)]


class Invalid(Exception):
    """A request that is not what it should be: the errors as FastAPI lists them."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        first = errors[0]
        where = ".".join(map(str, first["loc"]))
        super().__init__(f"{where}: {first['msg']}")
        self.errors = errors


class UDPSinkConfiguration(BaseModel):
    """Where datagrams go."""

    type: str = "udp_sink"
    host: str
    port: int


class ObjectDetectionModelConfiguration(BaseModel):
    """How detections are filtered; null is the device's own default."""

    type: str = "object-detection"
    class_agnostic_nms: bool | None = None
    confidence: float | None = None
    iou_threshold: float | None = None
    max_candidates: int | None = None
    max_detections: int | None = None


class PipelineInitialisationRequest(BaseModel):
    """The body of `/initialise`. Unknown keys are ignored, as they were."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    video_reference: str | int | list[str | int]
    sink_configuration: UDPSinkConfiguration
    api_key: str | None = None
    max_fps: float | int | None = None
    source_buffer_filling_strategy: str | None = None
    source_buffer_consumption_strategy: str | None = None
    model_configuration: ObjectDetectionModelConfiguration = Field(
        default_factory=ObjectDetectionModelConfiguration
    )
    active_learning_enabled: bool | None = None
    video_source_properties: dict[str, float] | list[dict[str, float] | None] | None = Field(
        default_factory=dict
    )
    active_learning_target_dataset: str | None = None
    batch_collection_timeout: float | None = None
    # Ours: which device, and whether objects get an id from frame to frame.
    device: str | None = None
    tracker: str | None = None


class DeviceRequest(BaseModel):
    """The body of `POST /v2/devices`."""

    name: Name
    ttl: Annotated[float, Field(gt=0, le=30 * 86_400)] = 900.0  # seconds


class SubscriberRequest(BaseModel):
    """The body of `POST /v2/subscribers`."""

    name: Name
    device: Name | None = None


class ModelRequest(BaseModel):
    """The body of `PUT /v2/models/{id}`."""

    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    family: Literal["yolox", "ultralytics"] | None = None
    labels: list[str] | None = None
    replace: bool = False  # an id that stands for other content already is refused without


def read(body: bytes, is_json: bool, of: type[M]) -> M:
    """The request in a body. Raises: Invalid."""
    return validate(_value(body, is_json), of)


def validate(value: Any, of: type[M]) -> M:
    """The request in a JSON value. Raises: Invalid."""
    if value is None:
        raise Invalid([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
    try:
        return of.model_validate(value, from_attributes=True)
    except ValidationError as exc:
        raise Invalid(_errors(exc, "body")) from exc


def check_id(value: str, name: str) -> str:
    """A name in the path. Raises: Invalid."""
    return _check(value, name, ID_PATTERN)


def check_model_id(value: str) -> str:
    """A model's id in the path. Raises: Invalid."""
    return _check(value, "model_id", MODEL_ID_PATTERN)


def _check(value: str, name: str, pattern: str) -> str:
    try:
        checked: str = TypeAdapter(Annotated[str, Field(pattern=pattern)]).validate_python(value)
    except ValidationError as exc:
        raise Invalid(_errors(exc, "path", name)) from exc
    return checked


def _value(body: bytes, is_json: bool) -> Any:
    if not body:
        return None
    if not is_json:
        return body.decode("utf-8", "replace")
    try:
        return parse(body)
    except BadJson as exc:
        error = {
            "type": "json_invalid",
            "loc": ["body", exc.position],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": exc.reason},
        }
        raise Invalid([error]) from exc


def _errors(exc: ValidationError, *where: str) -> list[dict[str, Any]]:
    return [
        {**error, "loc": [*where, *error["loc"]]}
        for error in exc.errors(include_url=False, include_context=True)
    ]
