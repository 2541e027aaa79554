"""From the original's request to a wish of the fleet, and from the fleet's state to the original's words.

Pure: what cannot be wished for raises Failure, which says what was expected and what came.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast, get_args

from streamfleet_api.active_learning import ActiveLearning
from streamfleet_api.errors import Failure
from streamfleet_api.schemas import (
    ID_PATTERN,
    MODEL_ID_PATTERN,
    ObjectDetectionModelConfiguration,
    PipelineInitialisationRequest,
)
from streamfleet_api.statuses import Seen, as_of_now
from streamfleet_broker.protocol.reference import is_finite
from streamfleet_broker.protocol.requests import PipelineStatus, PipelineView
from streamfleet_broker.protocol.samples import Sampling
from streamfleet_broker.protocol.status import PipelineStat, empty_report, silent_sources
from streamfleet_broker.protocol.values import (
    MAX_SOURCES,
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
_PROPERTY = re.compile(r"[a-z0-9_]{1,64}")
_MAX_PROPERTIES = 64
_MAX_TEXT = 4096  # characters of a video reference
_MAX_COUNT = 1_000_000
_MAX_FPS = 10_000

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


# a wish ---------------------------------------------------------------------------------------------------


def check(request: PipelineInitialisationRequest) -> None:
    """All that can be said of a request without asking anybody. Raises: Failure."""
    spec_of(request, ModelRef(request.model_id, "0" * 64))


def spec_of(
    request: PipelineInitialisationRequest, model: ModelRef, learning: ActiveLearning = _OFF
) -> PipelineSpec:
    """The pipeline that a request asks for; `learning`: where it says nothing of that. Raises: Failure."""
    if not re.match(MODEL_ID_PATTERN, request.model_id):
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


def _invalid(expected: str, came: object) -> Failure:
    return Failure(400, "invalid_payload", f"expected {expected}, came {_brief(came)}")


def _unsupported(expected: str, came: object) -> Failure:
    text = f"{expected}, came {_brief(came)}"
    return Failure(400, "invalid_payload", text, error_class="NotImplementedError")


def _brief(came: object) -> str:
    text = repr(came)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _check_unused(request: PipelineInitialisationRequest) -> None:
    """What has no effect here is still refused where the original refused it."""
    timeout = request.batch_collection_timeout
    if timeout is not None and timeout < 0:
        raise _invalid("batch_collection_timeout of 0 seconds or more", timeout)


def _sources(request: PipelineInitialisationRequest) -> tuple[SourceSpec, ...]:
    given = request.video_reference
    references = given if isinstance(given, list) else [given]
    if not references:
        raise Failure(500, "internal_error", "expected a video_reference, came an empty list")
    if len(references) > MAX_SOURCES:
        raise _invalid(f"at most {MAX_SOURCES} video_reference of one pipeline", len(references))
    filling = _strategy("BufferFillingStrategy", request.source_buffer_filling_strategy, _FILLING)
    consumption = _strategy(
        "BufferConsumptionStrategy", request.source_buffer_consumption_strategy, _CONSUMPTION
    )
    return tuple(
        SourceSpec(
            _reference(reference),
            _properties(properties),
            filling=cast("Filling | None", filling),
            consumption=cast("Consumption | None", consumption),
        )
        for reference, properties in zip(references, _each(request, len(references)), strict=True)
    )


def _strategy(kind: str, value: str | None, legal: tuple[str, ...]) -> str | None:
    """In the original's words, also where there is none of that name."""
    if value is None:
        return None
    if value.upper() not in legal:
        raise Failure(500, "internal_error", f"{_brief(value.upper())} is not a valid {kind}")
    return value.upper()


def _reference(reference: str | int) -> str | int:
    if isinstance(reference, int) and not 0 <= reference < 2**31:
        raise _invalid("video_reference as a device index of 0 or more", reference)
    if isinstance(reference, str) and (not reference or "\0" in reference or len(reference) > _MAX_TEXT):
        raise _invalid(f"video_reference of 1 to {_MAX_TEXT} characters", reference)
    return reference


def _each(request: PipelineInitialisationRequest, count: int) -> list[dict[str, float] | None]:
    """The properties of each source: an object is for all of them, a list has one for each."""
    given = request.video_source_properties
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        text = f"expected video_source_properties for each of {count} sources, came {len(given)}"
        raise Failure(500, "internal_error", text)
    return given


def _properties(properties: dict[str, float] | None) -> dict[str, float]:
    if properties is None:
        return {}
    if len(properties) > _MAX_PROPERTIES:
        raise _invalid(f"at most {_MAX_PROPERTIES} video_source_properties", len(properties))
    for name in properties:
        if not _PROPERTY.fullmatch(name):
            raise _invalid("video_source_properties named as 'frame_width'", name)
    return properties


def _sink(request: PipelineInitialisationRequest) -> UdpSink:
    sink = request.sink_configuration
    if sink.type != "udp_sink":
        expected = "Only `udp_socket` sink type is supported: expected sink_configuration.type 'udp_sink'"
        raise _unsupported(expected, sink.type)
    if not 1 <= sink.port <= 65535:
        raise _invalid("sink_configuration.port from 1 to 65535", sink.port)
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", sink.host):
        raise _invalid("sink_configuration.host as a name or an address", sink.host)
    return UdpSink(sink.host, sink.port)


def _max_fps(value: float | None) -> float | None:
    if value is not None and not 0 < value <= _MAX_FPS:
        raise _invalid(f"max_fps above 0, at most {_MAX_FPS}", value)
    return None if value is None else float(value)


def _tracker(value: str | None) -> Tracker | None:
    if value is not None and value not in get_args(Tracker):
        raise _invalid(f"tracker as one of {', '.join(get_args(Tracker))}", value)
    return cast("Tracker | None", value)


def sampling_of(
    learning: ActiveLearning, wanted: bool | None, *, model_id: str, dataset: str | None
) -> Sampling | None:
    """What is kept for labelling, of the project of the model if no dataset is named. Raises: Failure."""
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
        if fields[name] is not None and not 1 <= fields[name] <= _MAX_COUNT:
            raise _invalid(f"model_configuration.{name} from 1 to {_MAX_COUNT}", fields[name])
    return fields


# a state --------------------------------------------------------------------------------------------------


def source_state(view: PipelineView) -> str:
    """The original's name for the state of a pipeline's source."""
    if view.status == "paused" and is_finite(view.spec.sources[0]):
        return "PAUSED"
    return _SOURCE_STATES[view.status]


def not_allowed(operation: str, view: PipelineView) -> Failure:
    """The original's answer to a transition that makes no sense."""
    details = f"Could not {operation} stream in state: StreamState.{source_state(view)}"
    return Failure(500, "operation_error", details, error_class="StreamOperationNotAllowedError")


def report_of(view: PipelineView, seen: Seen[PipelineStat] | None) -> dict[str, Any]:
    """The original's status report, with what the fleet knows beside its four keys.

    A figure that is too old to tell of the present is not repeated: the throughput of a dead device is 0.
    """
    stat = _caught_up(as_of_now(seen), view) if seen else None
    report = dict(stat.report) if stat else empty_report(view.spec, "NOT_STARTED")
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
    """A status from before a pause, or its end, that the device has confirmed: the next one says so too."""
    if stat.gen >= view.gen or view.status not in ("paused", "running"):
        return stat

    def present(state: object, source_id: object) -> Any:
        if state not in ("RUNNING", "MUTED", "PAUSED"):
            return state
        if view.status == "running":
            return "RUNNING"
        return "PAUSED" if source_id in finite else "MUTED"

    finite = {number for number, source in enumerate(view.spec.sources) if is_finite(source)}
    sources = tuple(replace(each, state=present(each.state, each.source_id)) for each in stat.sources)
    metadata = stat.report.get("sources_metadata")
    entries = [
        {**entry, "state": present(entry.get("state"), entry.get("source_id"))}
        for entry in (metadata if isinstance(metadata, list) else ())
        if isinstance(entry, dict)
    ]
    return replace(stat, sources=sources, report={**stat.report, "sources_metadata": entries})
