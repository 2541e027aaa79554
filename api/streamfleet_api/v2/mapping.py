"""Maps requests of `/v2` to requests to the broker, and a pipeline back to a request for a patch. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from streamfleet_api.v2.requests import (
    NewPipelineRequest,
    PipelinePatch,
    PipelineRequest,
    SamplingRequest,
    SourceRequest,
    StageRequest,
)
from streamfleet_api.web.validation import validate
from streamfleet_core.protocol.requests import CreatePipeline, DesiredPipeline, PipelineView, PutPipeline
from streamfleet_core.protocol.sampling import Sampling
from streamfleet_core.protocol.source_reference import sanitised
from streamfleet_core.protocol.values import (
    Keep,
    ModelRef,
    Motion,
    PipelineSpec,
    SourceSpec,
    Stage,
    UdpSink,
    from_plain,
    to_plain,
)

_BY_KEY = ("selector", "labels")  # a patch changes these key by key, everything else whole


# The content of each model id of a request.
Resolved = Mapping[str, ModelRef]

# Where a value is in a request, as the `loc` of an error.
Place: TypeAlias = list[str | int]


def spec_of(request: PipelineRequest, models: Resolved) -> PipelineSpec:
    """The spec of a requested pipeline."""
    return PipelineSpec(
        model=models[request.model],
        sources=tuple(_source(source) for source in request.sources),
        sinks=tuple(UdpSink(sink.host, sink.port) for sink in request.sinks),
        max_fps=request.max_fps,
        confidence=request.confidence,
        iou_threshold=request.iou_threshold,
        class_agnostic_nms=request.class_agnostic_nms,
        max_candidates=request.max_candidates,
        max_detections=request.max_detections,
        tracker=request.tracker,
        sampling=_sampling(request.sampling),
        priority=request.priority,
        mask_format=request.mask_format,
        stages=tuple(_stage(stage, models) for stage in request.stages),
        keep=None if request.keep is None else Keep(age=request.keep.age, size=request.keep.size),
    )


def model_places(model: str | None, stages: Sequence[StageRequest]) -> dict[str, Place]:
    """The ids of the models that a request names, each with where it names them first."""
    places: dict[str, Place] = {} if model is None else {model: ["body", "model"]}
    for number, stage in enumerate(stages):
        places.setdefault(stage.model, ["body", "stages", number, "model"])
    return places


def _stage(request: StageRequest, models: Resolved) -> Stage:
    return Stage(
        name=request.name,
        model=models[request.model],
        classes=None if request.classes is None else tuple(request.classes),
        max_objects=request.max_objects,
        margin=request.margin,
        max_delay=request.max_delay,
        confidence=request.confidence,
        max_detections=request.max_detections,
    )


def _asked_stage(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "model": stage.model.id,
        "classes": None if stage.classes is None else list(stage.classes),
        "max_objects": stage.max_objects,
        "margin": stage.margin,
        "max_delay": stage.max_delay,
        "confidence": stage.confidence,
        "max_detections": stage.max_detections,
    }


def _sampling(request: SamplingRequest | None) -> Sampling | None:
    return None if request is None else from_plain(request.model_dump(), Sampling)


def asked_sampling(sampling: Sampling | None) -> SamplingRequest | None:
    """The request for this sampling."""
    return None if sampling is None else SamplingRequest.model_validate_json(msgspec.json.encode(sampling))


def _source(source: str | int | SourceRequest) -> SourceSpec:
    if not isinstance(source, SourceRequest):
        return SourceSpec(source)
    return SourceSpec(
        source.reference,
        properties=source.properties,
        mode=source.mode,
        max_fps=source.max_fps,
        filling=source.filling,
        consumption=source.consumption,
        decoder=source.decoder,
        classes=None if source.classes is None else tuple(source.classes),
        region=None if source.region is None else tuple((x, y) for x, y in source.region),
        motion=None if source.motion is None else Motion(**source.motion.model_dump()),
    )


def named_classes(request: PipelineRequest) -> Iterator[tuple[Place, list[str]]]:
    """Where a request names classes of its first model, and which: those of sources and those of stages."""
    for number, source in enumerate(request.sources):
        if isinstance(source, SourceRequest) and source.classes is not None:
            yield ["body", "sources", number, "source", "classes"], source.classes
    for number, stage in enumerate(request.stages):
        if stage.classes is not None:
            yield ["body", "stages", number, "classes"], stage.classes


def create(request: NewPipelineRequest, pipeline_id: str, models: Resolved, key: str) -> CreatePipeline:
    """Map a request to create a pipeline."""
    return CreatePipeline(
        pipeline_id=pipeline_id,
        spec=spec_of(request, models),
        device=request.device,
        selector=request.selector,
        labels=request.labels,
        on_disconnect=request.on_disconnect,
        desired_status=_desired_status(request),
        key=key,
        digest=digest_of(request) if key else "",
    )


def put(request: PipelineRequest, pipeline_id: str, models: Resolved, *, expected: int | None) -> PutPipeline:
    """Map a request to put a pipeline."""
    return PutPipeline(
        pipeline_id=pipeline_id,
        spec=spec_of(request, models),
        device=request.device,
        selector=request.selector,
        labels=request.labels,
        on_disconnect=request.on_disconnect,
        desired_status=_desired_status(request),
        expected=expected,
    )


def desired(request: PipelineRequest, pipeline_id: str, models: Resolved) -> DesiredPipeline:
    """Map a request to one of many desired pipelines."""
    return DesiredPipeline(
        pipeline_id=pipeline_id,
        spec=spec_of(request, models),
        device=request.device,
        selector=request.selector,
        labels=request.labels,
        desired_status=_desired_status(request),
        on_disconnect=request.on_disconnect,
    )


def _desired_status(request: PipelineRequest) -> Literal["run", "pause"]:
    return "pause" if request.paused else "run"


def digest_of(request: NewPipelineRequest) -> str:
    """The sha256 of a request, independent of its formatting."""
    content = json.dumps(request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def patched(view: PipelineView, patch: PipelinePatch) -> PipelineRequest:
    """Apply a patch to a pipeline. Raises: Invalid if the result is not a valid pipeline."""
    content = as_request(view)
    for name, value in patch.model_dump(exclude_unset=True).items():
        if value is None:
            content.pop(name, None)
        elif name in _BY_KEY:
            content[name] = _merged(content[name], value)
        else:
            content[name] = value
    if patch.sources is not None:
        content["sources"] = [
            with_credentials(source, view.spec.sources[number : number + 1])
            for number, source in enumerate(content["sources"])
        ]
    return validate(content, PipelineRequest)


def as_request(view: PipelineView) -> dict[str, Any]:
    """The request for a pipeline, as JSON has it but for its sampling."""
    spec = view.spec
    return {
        "model": spec.model.id,
        "sources": [
            {
                "reference": source.reference,
                "mode": source.mode,
                "max_fps": source.max_fps,
                "properties": source.properties,
                "filling": source.filling,
                "consumption": source.consumption,
                "decoder": source.decoder,
                "classes": None if source.classes is None else list(source.classes),
                "region": None if source.region is None else [list(corner) for corner in source.region],
                "motion": None if source.motion is None else to_plain(source.motion),
            }
            for source in spec.sources
        ],
        "sinks": [{"type": "udp", "host": sink.host, "port": sink.port} for sink in spec.sinks],
        "max_fps": spec.max_fps,
        "confidence": spec.confidence,
        "iou_threshold": spec.iou_threshold,
        "class_agnostic_nms": spec.class_agnostic_nms,
        "max_candidates": spec.max_candidates,
        "max_detections": spec.max_detections,
        "tracker": spec.tracker,
        "sampling": asked_sampling(spec.sampling),
        "priority": spec.priority,
        "mask_format": spec.mask_format,
        "stages": [_asked_stage(stage) for stage in spec.stages],
        "keep": None if spec.keep is None else to_plain(spec.keep),
        "device": view.requested,
        "selector": view.selector,
        "labels": view.labels,
        "on_disconnect": view.on_disconnect,
        "paused": view.desired_status == "pause",
    }


def _merged(before: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    kept = {key: value for key, value in before.items() if key not in changes}
    return {**kept, **{key: value for key, value in changes.items() if value is not None}}


def merged_labels(before: Mapping[str, str], changes: Mapping[str, str | None] | None) -> dict[str, str]:
    """Labels after a patch; None removes all."""
    return {} if changes is None else _merged(before, changes)


def with_credentials(source: Any, stored: tuple[SourceSpec, ...]) -> Any:
    """Restore the credentials of a source that a client sent back as it was shown, without them."""
    given = source["reference"] if isinstance(source, dict) else source
    if not stored or given != sanitised(stored[0].reference):
        return source
    return {**source, "reference": stored[0].reference} if isinstance(source, dict) else stored[0].reference
