"""Each limit at both entrances: the request bodies of the api, and the values on the wire."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ValidationError

from streamfleet_api.v2.requests import DeviceRequest, ModelRequest, PipelineRequest, SubscriberRequest
from streamfleet_api.v2.samples import SamplesQuery
from streamfleet_core.protocol import limits
from streamfleet_core.protocol.requests import AddDevice, AddSubscriber, CreatePipeline
from streamfleet_core.protocol.sampling import SampleName
from streamfleet_core.protocol.values import Sha256, from_plain

_OF_PIPELINE = ("device", "selector", "labels")

_LABELS = {f"key-{number}": "value" for number in range(limits.MAX_LABELS + 1)}
_TAGS = [f"tag {number}" for number in range(limits.MAX_TAGS + 1)]
_CLASSES = [f"class {number}" for number in range(limits.MAX_SELECTED_CLASSES + 1)]
_PROPERTIES = {f"property_{number}": 1.0 for number in range(limits.MAX_PROPERTIES + 1)}
_CORNERS = [[number % 2 * 1.0, number / 99] for number in range(limits.MAX_CORNERS + 1)]
_SOURCE = {"reference": "rtsp://cam/1"}
_SINK = {"host": "127.0.0.1", "port": 37020}
_STRATEGY = {"type": "random", "name": "a few", "traffic_percentage": 0.5}
_UNSURE = {"type": "close_to_threshold", "name": "unsure", "threshold": 0.5, "epsilon": 0.1}
_RANGE = {"type": "detections_number_based", "name": "many", "more_than": 1}
_LIMIT = {"type": "hourly", "value": 10}
_LIMITS = [{"type": each, "value": 1} for each in ("minutely", "hourly", "daily", "daily")]
_STRATEGIES = [{**_STRATEGY, "name": f"strategy {number}"} for number in range(limits.MAX_STRATEGIES + 1)]

_STAGE = {"name": "text", "model": "text/1"}

BODY: dict[str, Any] = {
    "model": "parts/1",
    "sources": [{**_SOURCE, "region": _CORNERS[:3]}],
    "sinks": [_SINK],
    "stages": [_STAGE],
    "sampling": {"dataset": "parts", "strategies": [_STRATEGY], "batching": {}},
}


def replaced(document: Any, path: str, value: Any) -> Any:
    """A copy of a document with one value in it replaced or added."""
    result = copy.deepcopy(document)
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place = result
    for part in parents:
        place = place[part]
    place[last] = value
    return result


def _ref(model_id: str) -> dict[str, str]:
    return {"id": model_id, "digest": "ab" * 32}


def as_request(body: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `pipeline.create` that say what a body says."""
    spec = {name: value for name, value in body.items() if name not in _OF_PIPELINE}
    spec["model"] = _ref(body["model"])
    spec["stages"] = [{**stage, "model": _ref(stage["model"])} for stage in body["stages"]]
    return {
        "pipeline_id": "door",
        "spec": spec,
        **{name: body[name] for name in _OF_PIPELINE if name in body},
    }


def api_accepts(value: Any, of: type[BaseModel]) -> bool:
    """Whether the api takes this body."""
    try:
        of.model_validate(value)
    except ValidationError:
        return False
    return True


def wire_accepts(value: Any, of: Any) -> bool:
    """Whether the broker and the devices take this value."""
    try:
        from_plain(value, of)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "at_the_limit", "beyond"),
    [
        ("model", f"{'p' * 64}/{'1' * 64}", "p" * 65),
        ("model", "parts/1", "parts/1\n"),
        ("model", "parts", "parts/1/2"),
        ("device", "d" * 64, "d" * 65),
        ("device", "d", ""),
        ("device", "edge-1", "edge-1\n"),
        ("labels", dict(list(_LABELS.items())[:-1]), _LABELS),
        ("selector", dict(list(_LABELS.items())[:-1]), _LABELS),
        ("labels", {"k" * 64: "v" * 63}, {"k" * 65: "v"}),
        ("labels", {"line": ""}, {"line": "v" * 64}),
        ("sources", [_SOURCE] * limits.MAX_SOURCES, [_SOURCE] * (limits.MAX_SOURCES + 1)),
        ("sources", [_SOURCE], []),
        ("sources.0.reference", "/" * limits.MAX_REFERENCE, "/" * (limits.MAX_REFERENCE + 1)),
        ("sources.0.reference", "/film.mp4", ""),
        ("sources.0.reference", "/film.mp4", "/film\0.mp4"),
        ("sources.0.reference", limits.MAX_DEVICE_INDEX, limits.MAX_DEVICE_INDEX + 1),
        ("sources.0.reference", 0, -1),
        ("sources.0.properties", dict(list(_PROPERTIES.items())[:-1]), _PROPERTIES),
        ("sources.0.properties", {"p" * 64: 1.0}, {"p" * 65: 1.0}),
        ("sources.0.properties", {"frame_width": 1.0}, {"FRAME_WIDTH": 1.0}),
        ("sources.0.properties", {"gain": limits.MAX_FINITE}, {"gain": 2 * limits.MAX_FINITE}),
        ("sources.0.properties", {"gain": -limits.MAX_FINITE}, {"gain": -2 * limits.MAX_FINITE}),
        ("sources.0.max_fps", float(limits.MAX_FPS), limits.MAX_FPS + 0.5),
        ("sources.0.classes", _CLASSES[:-1], _CLASSES),
        ("sources.0.classes", ["c" * limits.MAX_CLASS_NAME], ["c" * (limits.MAX_CLASS_NAME + 1)]),
        ("sources.0.classes", ["c"], []),
        ("sources.0.classes", None, [""]),
        ("sources.0.region", _CORNERS[: limits.MAX_CORNERS], _CORNERS),
        ("sources.0.region", _CORNERS[: limits.MIN_CORNERS], _CORNERS[: limits.MIN_CORNERS - 1]),
        ("sources.0.motion", {"max_still": limits.MAX_STILL}, {"max_still": limits.MAX_STILL + 0.5}),
        ("sources.0.motion", {"max_still": 0.001}, {"max_still": 0.0}),
        ("sources.0.motion", {"sensitivity": 1.0}, {"sensitivity": 1.001}),
        ("sources.0.motion", {"sensitivity": 0.0}, {"sensitivity": -0.001}),
        ("sources.0.motion", None, True),
        ("sources.0.region.0", [0.0, 1.0], [0.0, 1.001]),
        ("sources.0.region.0", [1.0, 0.0], [-0.001, 0.0]),
        ("sources.0.region.0", [1.0, 0.0], [1.0]),
        ("sources.0.region.0", [1.0, 0.0], [1.0, 0.0, 0.0]),
        ("max_fps", float(limits.MAX_FPS), limits.MAX_FPS + 0.5),
        ("max_fps", 0.001, 0.0),
        ("sinks", [_SINK] * limits.MAX_SINKS, [_SINK] * (limits.MAX_SINKS + 1)),
        ("sinks.0.host", "h" * limits.MAX_HOST, "h" * (limits.MAX_HOST + 1)),
        ("sinks.0.host", "fe80::1%eth0", "a host"),
        ("sinks.0.port", limits.MAX_PORT, limits.MAX_PORT + 1),
        ("sinks.0.port", 1, 0),
        ("confidence", 1.0, 1.001),
        ("confidence", 0.0, -0.001),
        ("iou_threshold", 1.0, 1.001),
        ("iou_threshold", 0.0, -0.001),
        ("max_candidates", limits.MAX_OBJECTS, limits.MAX_OBJECTS + 1),
        ("max_candidates", 1, 0),
        ("max_detections", limits.MAX_OBJECTS, limits.MAX_OBJECTS + 1),
        ("max_detections", 1, 0),
        ("priority", "high", "urgent"),
        ("mask_format", "rle", "dense"),
        (
            "stages",
            [{**_STAGE, "name": f"s{number}"} for number in range(limits.MAX_STAGES)],
            [{**_STAGE, "name": f"s{number}"} for number in range(limits.MAX_STAGES + 1)],
        ),
        ("stages.0.name", "n" * 64, "n" * 65),
        ("stages.0.model", "text", "text/1/2"),
        ("stages.0.classes", _CLASSES[:-1], _CLASSES),
        ("stages.0.classes", ["c"], []),
        ("stages.0.max_objects", limits.MAX_STAGE_OBJECTS, limits.MAX_STAGE_OBJECTS + 1),
        ("stages.0.max_objects", 1, 0),
        ("stages.0.margin", 1.0, 1.001),
        ("stages.0.max_delay", limits.MAX_STAGE_DELAY, limits.MAX_STAGE_DELAY + 0.1),
        ("stages.0.max_delay", 0.001, 0.0),
        ("stages.0.confidence", 1.0, 1.001),
        ("stages.0.max_detections", limits.MAX_OBJECTS, limits.MAX_OBJECTS + 1),
        ("sampling.dataset", "d" * 64, "d" * 65),
        ("sampling.strategies", _STRATEGIES[:-1], _STRATEGIES),
        ("sampling.strategies", [_STRATEGY], []),
        ("sampling.strategies.0.name", "n" * 64, "n" * 65),
        ("sampling.strategies.0.name", "n", "a\nb"),
        ("sampling.strategies.0.traffic_percentage", 1.0, 1.001),
        ("sampling.strategies.0.limits", _LIMITS[:-1], _LIMITS),
        (
            "sampling.strategies.0.limits",
            [{**_LIMIT, "value": limits.MAX_SAMPLES}],
            [{**_LIMIT, "value": limits.MAX_SAMPLES + 1}],
        ),
        ("sampling.strategies.0.limits", [{**_LIMIT, "value": 1}], [{**_LIMIT, "value": 0}]),
        ("sampling.strategies.0.tags", _TAGS[:-1], _TAGS),
        (
            "sampling.strategies.0",
            {**_UNSURE, "selected_class_names": _CLASSES[:-1]},
            {**_UNSURE, "selected_class_names": _CLASSES},
        ),
        (
            "sampling.strategies.0",
            {**_UNSURE, "selected_class_names": ["c" * limits.MAX_CLASS_NAME]},
            {**_UNSURE, "selected_class_names": ["c" * (limits.MAX_CLASS_NAME + 1)]},
        ),
        (
            "sampling.strategies.0",
            {**_UNSURE, "minimum_objects_close_to_threshold": limits.MAX_OBJECTS},
            {**_UNSURE, "minimum_objects_close_to_threshold": limits.MAX_OBJECTS + 1},
        ),
        (
            "sampling.strategies.0",
            {**_RANGE, "more_than": limits.MAX_OBJECTS},
            {**_RANGE, "more_than": limits.MAX_OBJECTS + 1},
        ),
        ("sampling.batching.batches_name_prefix", "b" * 64, "b" * 65),
        ("sampling.batching.max_batch_images", limits.MAX_BATCH, limits.MAX_BATCH + 1),
        ("sampling.max_image_size", [limits.MAX_PIXELS] * 2, [limits.MAX_PIXELS + 1] * 2),
        ("sampling.max_image_size", [limits.MIN_PIXELS] * 2, [limits.MIN_PIXELS - 1] * 2),
        ("sampling.jpeg_compression_level", limits.MAX_QUALITY, limits.MAX_QUALITY + 1),
        ("sampling.jpeg_compression_level", 1, 0),
        ("sampling.tags", _TAGS[:-1], _TAGS),
    ],
)
def test_the_api_and_the_wire_draw_the_same_line_for_a_pipeline(
    path: str, at_the_limit: Any, beyond: Any
) -> None:
    accepted, refused = replaced(BODY, path, at_the_limit), replaced(BODY, path, beyond)

    assert (api_accepts(accepted, PipelineRequest), wire_accepts(as_request(accepted), CreatePipeline)) == (
        True,
        True,
    )
    assert (api_accepts(refused, PipelineRequest), wire_accepts(as_request(refused), CreatePipeline)) == (
        False,
        False,
    )


@pytest.mark.parametrize(
    ("body", "of", "request_of", "at_the_limit", "beyond"),
    [
        (DeviceRequest, AddDevice, "ttl", float(limits.MAX_TOKEN_TTL), limits.MAX_TOKEN_TTL + 0.5),
        (
            SubscriberRequest,
            AddSubscriber,
            "pipelines",
            ["door"] * limits.MAX_GRANTED,
            ["door"] * (limits.MAX_GRANTED + 1),
        ),
    ],
)
def test_the_api_and_the_wire_draw_the_same_line_for_other_requests(
    body: type[BaseModel], of: Any, request_of: str, at_the_limit: Any, beyond: Any
) -> None:
    name = "device" if of is AddDevice else "name"

    assert api_accepts({"name": "wall", request_of: at_the_limit}, body)
    assert wire_accepts({name: "wall", request_of: at_the_limit}, of)
    assert not api_accepts({"name": "wall", request_of: beyond}, body)
    assert not wire_accepts({name: "wall", request_of: beyond}, of)


@pytest.mark.parametrize(
    ("body", "field", "of", "at_the_limit", "beyond"),
    [
        (ModelRequest, "weights", Sha256, "a" * 64, "a" * 65),
        (ModelRequest, "weights", Sha256, "0" * 64, "0" * 64 + "\n"),
        (SamplesQuery, "after", SampleName, f"1-{'p' * 64}-0-1", f"1-{'p' * 65}-0-1"),
        (SamplesQuery, "after", SampleName, f"{'1' * 15}-door-15-1", f"{'1' * 16}-door-15-1"),
    ],
)
def test_the_api_and_the_wire_read_the_same_names(
    body: type[BaseModel], field: str, of: Any, at_the_limit: str, beyond: str
) -> None:
    assert api_accepts({field: at_the_limit}, body)
    assert wire_accepts(at_the_limit, of)
    assert not api_accepts({field: beyond}, body)
    assert not wire_accepts(beyond, of)
