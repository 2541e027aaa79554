"""The original's requests, field by field: names, coercions and defaults, and its answer to what is wrong.

What the original accepted is accepted here; `wishes` looks at what it means.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamfleet_api.wire import BadJson, parse
from streamfleet_broker.protocol.reference import redacted

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MODEL_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"

MAX_SHOWN = 20  # errors of one request
MAX_INPUT = 80  # characters of what came
MAX_REDACTED = 4096  # characters of a text that is looked through for addresses
_HIDDEN = "***"
_KEY_IN_TEXT = re.compile(r'("api_key"\s*:\s*)"(?:[^"\\]|\\.)*"?')  # of JSON that was not sent as JSON

M = TypeVar("M", bound=BaseModel)


class Invalid(Exception):
    """A request that is not what it should be: the errors as FastAPI lists them."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        first = errors[0]
        where = ".".join(map(str, first["loc"]))
        super().__init__(f"{where}: {first['msg']}")
        self.errors = errors

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The first errors, each with what came when that is short, and without what is secret in it."""
        return [_shown(error) for error in self.errors[:MAX_SHOWN]]

    @property
    def summary(self) -> str:
        """For people: what is wrong first, and how much more."""
        first = _shown(self.errors[0])
        where = ".".join(map(str, first["loc"]))
        came = f", came {first['input']!r}" if "input" in first else ""
        more = len(self.errors) - 1
        return f"{where}: {first['msg']}{came}{f' (and {more} more)' if more else ''}"


def _shown(error: dict[str, Any]) -> dict[str, Any]:
    loc = [part[:MAX_INPUT] if isinstance(part, str) else part for part in error["loc"]]
    shown = {"loc": loc, "msg": error["msg"], "type": error["type"]}
    came = error.get("input")
    if isinstance(came, str) and len(came) <= MAX_REDACTED:
        came = redacted(came)  # before it is cut, or half of an address is left
        return {**shown, "input": came if len(came) <= MAX_INPUT else f"{came[:MAX_INPUT]}…"}
    if isinstance(came, float) or (isinstance(came, int) and abs(came) < 2**63):
        return {**shown, "input": came}
    return shown


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


def read(body: bytes, is_json: bool, of: type[M]) -> M:
    """The request in a body. Raises: Invalid."""
    return validate(_value(body, is_json), of)


def validate(value: Any, of: type[M], where: str = "body") -> M:
    """The request in a JSON value. Raises: Invalid."""
    if value is None:
        raise Invalid([{"type": "missing", "loc": [where], "msg": "Field required", "input": None}])
    try:
        return of.model_validate(value, from_attributes=True)
    except ValidationError as exc:
        raise Invalid(_errors(exc, where)) from exc


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
    found = exc.errors(include_url=False, include_context=True)
    return [
        {**error, "loc": [*where, *error["loc"]], "input": _without_key(error["input"], *error["loc"][-1:])}
        for error in found
    ]


def _without_key(came: Any, name: str | int = "") -> Any:
    """What came, as the original repeats it in its answer, but for the api key in it."""
    if name == "api_key" and came is not None:
        return _HIDDEN
    if isinstance(came, dict):
        return {key: _without_key(value, key) for key, value in came.items()}
    if isinstance(came, list):
        return [_without_key(value) for value in came]
    return _KEY_IN_TEXT.sub(rf'\1"{_HIDDEN}"', came) if isinstance(came, str) else came
