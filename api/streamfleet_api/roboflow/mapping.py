"""Maps Roboflow's requests to pipeline specs, and the state of the fleet to Roboflow's reports.

Pure. An invalid request raises Failure, which says what was expected and what was given.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast, get_args

from streamfleet_api.feeds.statuses import Seen, as_of_now
from streamfleet_api.roboflow.errors import Failure
from streamfleet_api.roboflow.schemas import ObjectDetectionModelConfiguration, PipelineInitialisationRequest
from streamfleet_api.sampling_presets import ActiveLearning
from streamfleet_core.protocol.hosts import host_of
from streamfleet_core.protocol.limits import (
    ID_PATTERN,
    MAX_DEVICE_INDEX,
    MAX_FINITE,
    MAX_FPS,
    MAX_OBJECTS,
    MAX_PORT,
    MAX_PROPERTIES,
    MAX_REFERENCE,
    MAX_SOURCES,
    MODEL_ID_PATTERN,
    PROPERTY_PATTERN,
)
from streamfleet_core.protocol.requests import PipelineStatus, PipelineView
from streamfleet_core.protocol.sampling import Sampling
from streamfleet_core.protocol.source_reference import brief, is_finite, misspelt, reference_of, sanitised
from streamfleet_core.protocol.status import PipelineStat, SourceMetadata, empty_report, silent_sources
from streamfleet_core.protocol.values import (
    Consumption,
    Filling,
    ModelRef,
    PipelineSpec,
    SourceSpec,
    Tracker,
    UdpSink,
    to_plain,
)

_OFF = ActiveLearning()
_FILLING: tuple[str, ...] = get_args(Filling)
_CONSUMPTION: tuple[str, ...] = get_args(Consumption)

_SOURCE_STATES: dict[PipelineStatus, str] = {
    "pending": "NOT_STARTED",
    "starting": "INITIALISING",
    "running": "RUNNING",
    "paused": "MUTED",
    "reconnecting": "RESTARTING",
    "unknown": "RUNNING",
    "moving": "RESTARTING",
    "backoff": "RESTARTING",
    "failed": "ERROR",
    "ended": "ENDED",
    "stopping": "TERMINATING",
}


# requests -------------------------------------------------------------------------------------------------


def check(request: PipelineInitialisationRequest) -> None:
    """Check a request as far as possible without the broker. Raises: Failure."""
    spec_of(request, ModelRef(request.model_id, "0" * 64))


def spec_of(
    request: PipelineInitialisationRequest, model: ModelRef, learning: ActiveLearning = _OFF
) -> PipelineSpec:
    """Map a request to a pipeline spec. `learning` is the default of the request. Raises: Failure."""
    if not re.fullmatch(MODEL_ID_PATTERN, request.model_id):
        raise _invalid("model_id as <project>/<version> of letters, digits, '.', '_', '-'", request.model_id)
    _check_unused(request)
    return PipelineSpec(
        model=model,
        sources=_sources(request),
        sinks=(_sink(request),),
        max_fps=_max_fps(request.max_fps),
        tracker=_tracker(request.tracker),
        sampling=sampling_of(
            learning,
            request.active_learning_enabled,
            model_id=request.model_id,
            dataset=request.active_learning_target_dataset,
        ),
        **_filtering(request.model_configuration),
    )


def _invalid(expected: str, got: object) -> Failure:
    return Failure(400, "invalid_payload", f"expected {expected}, got {brief(got)}")


def _unsupported(expected: str, got: object) -> Failure:
    text = f"{expected}, got {brief(got)}"
    return Failure(400, "invalid_payload", text, error_class="NotImplementedError")


def _check_unused(request: PipelineInitialisationRequest) -> None:
    """Refuse what Roboflow refuses, even for fields without effect here."""
    timeout = request.batch_collection_timeout
    if timeout is not None and timeout < 0:
        raise _invalid("batch_collection_timeout of 0 seconds or more", timeout)


def _sources(request: PipelineInitialisationRequest) -> tuple[SourceSpec, ...]:
    given = request.video_reference
    references = given if isinstance(given, list) else [given]
    if not references:
        raise Failure(500, "internal_error", "expected a video_reference, got an empty list")
    if len(references) > MAX_SOURCES:
        raise _invalid(f"at most {MAX_SOURCES} video_reference of one pipeline", len(references))
    filling = _strategy("BufferFillingStrategy", request.source_buffer_filling_strategy, _FILLING)
    consumption = _strategy(
        "BufferConsumptionStrategy", request.source_buffer_consumption_strategy, _CONSUMPTION
    )
    return tuple(
        SourceSpec(
            _reference(reference),
            properties=_properties(properties),
            filling=cast("Filling | None", filling),
            consumption=cast("Consumption | None", consumption),
        )
        for reference, properties in zip(references, _each(request, len(references)), strict=True)
    )


def _strategy(kind: str, value: str | None, legal: tuple[str, ...]) -> str | None:
    """Parse a strategy. The error text is Roboflow's."""
    if value is None:
        return None
    if value.upper() not in legal:
        raise Failure(500, "internal_error", f"{brief(value.upper())} is not a valid {kind}")
    return value.upper()


def _reference(reference: str | int) -> str | int:
    if isinstance(reference, int) and not 0 <= reference <= MAX_DEVICE_INDEX:
        raise _invalid("video_reference as a device index of 0 or more", reference)
    if isinstance(reference, str) and (not reference or "\0" in reference or len(reference) > MAX_REFERENCE):
        raise _invalid(f"video_reference of 1 to {MAX_REFERENCE} characters", reference)
    if unfit := misspelt(reference):
        raise _invalid(f"video_reference as {unfit}", sanitised(reference))
    return reference_of(reference)


def _each(request: PipelineInitialisationRequest, count: int) -> list[dict[str, float] | None]:
    """The properties of each source: an object applies to all sources, a list has one entry per source."""
    given = request.video_source_properties
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        text = f"expected video_source_properties for each of {count} sources, got {len(given)}"
        raise Failure(500, "internal_error", text)
    return given


def _properties(properties: dict[str, float] | None) -> dict[str, float]:
    if properties is None:
        return {}
    if len(properties) > MAX_PROPERTIES:
        raise _invalid(f"at most {MAX_PROPERTIES} video_source_properties", len(properties))
    for name, value in properties.items():
        if not re.fullmatch(PROPERTY_PATTERN, name):
            raise _invalid("video_source_properties named as 'frame_width'", name)
        if not -MAX_FINITE <= value <= MAX_FINITE:
            raise _invalid(f"video_source_properties.{name} from -{MAX_FINITE:g} to {MAX_FINITE:g}", value)
    return properties


def _sink(request: PipelineInitialisationRequest) -> UdpSink:
    sink = request.sink_configuration
    if sink.type != "udp_sink":
        expected = "Only `udp_socket` sink type is supported: expected sink_configuration.type 'udp_sink'"
        raise _unsupported(expected, sink.type)
    if not 1 <= sink.port <= MAX_PORT:
        raise _invalid(f"sink_configuration.port from 1 to {MAX_PORT}", sink.port)
    try:
        return UdpSink(host_of(sink.host), sink.port)
    except ValueError as exc:
        raise Failure(400, "invalid_payload", f"sink_configuration.host: {exc}") from exc


def _max_fps(value: float | None) -> float | None:
    if value is not None and not 0 < value <= MAX_FPS:
        raise _invalid(f"max_fps above 0, at most {MAX_FPS}", value)
    return None if value is None else float(value)


def _tracker(value: str | None) -> Tracker | None:
    if value is not None and value not in get_args(Tracker):
        raise _invalid(f"tracker as one of {', '.join(get_args(Tracker))}", value)
    return cast("Tracker | None", value)


def sampling_of(
    learning: ActiveLearning, wanted: bool | None, *, model_id: str, dataset: str | None
) -> Sampling | None:
    """The sampling rules. Without a dataset, the project of the model names it. Raises: Failure."""
    name = dataset or model_id.split("/")[0]
    sampling = learning.sampling(wanted, name)
    if sampling is not None and not re.fullmatch(ID_PATTERN, name):
        raise _invalid("active_learning_target_dataset of letters, digits, '.', '_', '-'", name)
    return sampling


def _filtering(model: ObjectDetectionModelConfiguration) -> dict[str, Any]:
    if model.type != "object-detection":
        raise _unsupported("expected model_configuration.type 'object-detection'", model.type)
    fields = model.model_dump(exclude={"type"})
    for name in ("confidence", "iou_threshold"):
        if fields[name] is not None and not 0 <= fields[name] <= 1:
            raise _invalid(f"model_configuration.{name} from 0 to 1", fields[name])
    for name in ("max_candidates", "max_detections"):
        if fields[name] is not None and not 1 <= fields[name] <= MAX_OBJECTS:
            raise _invalid(f"model_configuration.{name} from 1 to {MAX_OBJECTS}", fields[name])
    return fields


# reports --------------------------------------------------------------------------------------------------


def source_state(view: PipelineView) -> str:
    """Roboflow's name for the state of a pipeline's source."""
    if view.status == "paused" and is_finite(view.spec.sources[0]):
        return "PAUSED"
    return _SOURCE_STATES[view.status]


def not_allowed(operation: str, view: PipelineView) -> Failure:
    """Roboflow's error for a transition that the state does not allow."""
    details = f"Could not {operation} stream in state: StreamState.{source_state(view)}"
    return Failure(500, "operation_error", details, error_class="StreamOperationNotAllowedError")


def report_of(view: PipelineView, seen: Seen[PipelineStat] | None) -> dict[str, Any]:
    """Roboflow's status report, with additional keys beside its four.

    Outdated rates are reported as 0: a dead device has no throughput.
    """
    stat = _caught_up(as_of_now(seen), view) if seen else None
    report: dict[str, Any] = {**(stat.report if stat else empty_report(view.spec, "NOT_STARTED"))}
    report["state"] = view.status
    report["device"] = view.device
    report["reason"] = view.reason or (stat.reason if stat else "")
    report["restarts"] = view.restarts
    report["last_crash"] = stat.last_crash if stat else ""
    report["age"] = round(seen.age, 3) if seen else None
    report["sources"] = to_plain(stat.sources if stat else silent_sources(view.spec, "NOT_STARTED"))
    report["dropped"] = stat.dropped if stat else {}
    return report


def _caught_up(stat: PipelineStat, view: PipelineView) -> PipelineStat:
    """Correct the states of a status that is older than a pause or resume that the device has confirmed."""
    if stat.generation >= view.generation or view.status not in ("paused", "running"):
        return stat

    def present(state: object, source_id: object) -> Any:
        if state not in ("RUNNING", "MUTED", "PAUSED"):
            return state
        if view.status == "running":
            return "RUNNING"
        return "PAUSED" if source_id in finite else "MUTED"

    finite = {number for number, source in enumerate(view.spec.sources) if is_finite(source)}
    sources = tuple(replace(each, state=present(each.state, each.source_id)) for each in stat.sources)
    entries: list[SourceMetadata] = [
        {**entry, "state": present(entry.get("state"), entry.get("source_id"))}
        for entry in stat.report.get("sources_metadata", ())
    ]
    return replace(stat, sources=sources, report={**stat.report, "sources_metadata": entries})
