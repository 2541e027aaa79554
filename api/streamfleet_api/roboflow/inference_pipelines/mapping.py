"""Maps requests of `/inference_pipelines` to pipeline specs. Pure: an invalid request raises Failure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamfleet_api.roboflow.errors import Failure
from streamfleet_api.roboflow.inference_pipelines.results import Plan
from streamfleet_api.roboflow.inference_pipelines.schemas import (
    RESULTS,
    InitialisePipelinePayload,
    MemorySinkConfiguration,
    ModelConfiguration,
    UdpSinkConfiguration,
    WorkflowConfiguration,
)
from streamfleet_api.roboflow.mapping import sampling_of
from streamfleet_api.sampling_presets import ActiveLearning
from streamfleet_core.protocol import workflow
from streamfleet_core.protocol.limits import MODEL_ID_PATTERN
from streamfleet_core.protocol.source_reference import brief
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec, UdpSink
from streamfleet_core.protocol.workflow import BadWorkflow, Filtering, Workflow

_NO_SERVER = (
    "expected a workflow_specification: there is no Roboflow server here that would know a workflow by "
    "workspace_name and workflow_id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedRequest:
    """A request as the fleet understands it."""

    workflow: Workflow
    sources: tuple[SourceSpec, ...]
    sinks: tuple[UdpSink, ...]
    max_fps: float | None
    device: str | None
    plan: Plan

    def spec(self, model: ModelRef, learning: ActiveLearning) -> PipelineSpec:
        """The spec of the pipeline. Raises: Failure."""
        flow, filtering = self.workflow, self.workflow.filtering
        return PipelineSpec(
            model=model,
            sources=self.sources,
            sinks=self.sinks,
            max_fps=self.max_fps,
            confidence=filtering.confidence,
            iou_threshold=filtering.iou_threshold,
            class_agnostic_nms=filtering.class_agnostic_nms,
            max_candidates=filtering.max_candidates,
            max_detections=filtering.max_detections,
            tracker=flow.tracker,
            sampling=sampling_of(learning, flow.learns, model_id=flow.model_id, dataset=flow.dataset),
        )


def map_request(payload: InitialisePipelinePayload) -> MappedRequest:
    """Map a request. Raises: Failure."""
    flow = _flow(payload.processing_configuration)
    if not re.fullmatch(MODEL_ID_PATTERN, flow.model_id):
        text = "expected model_id as <project>/<version> of letters, digits, '.', '_', '-'"
        raise Failure(400, "invalid_payload", f"{text}, got {brief(flow.model_id)}")
    sources = _sources(payload)
    given = payload.sink_configuration
    sinks = given if isinstance(given, list) else [given]
    memory = [sink for sink in sinks if isinstance(sink, MemorySinkConfiguration)]
    plan = Plan(
        model_id=flow.model_id,
        sources=len(sources),
        outputs=flow.outputs,
        classes=flow.classes,
        size=memory[-1].results_buffer_size if memory else RESULTS,
        kept=bool(memory),
        wait=payload.video_configuration.batch_collection_timeout,
        timeout=payload.consumption_timeout,
    )
    return MappedRequest(
        workflow=flow,
        sources=sources,
        sinks=tuple(
            UdpSink(sink.host, sink.port) for sink in sinks if isinstance(sink, UdpSinkConfiguration)
        ),
        max_fps=payload.video_configuration.max_fps,
        device=payload.device,
        plan=plan,
    )


def _flow(processing: WorkflowConfiguration | ModelConfiguration) -> Workflow:
    try:
        if isinstance(processing, ModelConfiguration):
            return _bare(processing)
        if processing.workflow_specification is None:
            raise Failure(400, "invalid_payload", _NO_SERVER)
        return workflow.read(
            processing.workflow_specification,
            processing.workflows_parameters,
            image=processing.image_input_name,
        )
    except BadWorkflow as exc:
        raise Failure(400, "invalid_payload", str(exc), error_class="WorkflowSyntaxError") from exc


def _bare(processing: ModelConfiguration) -> Workflow:
    given = processing.model_configuration
    if given.type != "object-detection":
        text = f"expected model_configuration.type 'object-detection', got {brief(given.type)}"
        raise Failure(400, "invalid_payload", text, error_class="NotImplementedError")
    filtering = Filtering(**given.model_dump(exclude={"type"}))
    return Workflow(
        model_id=processing.model_id,
        filtering=workflow.checked(filtering, "model_configuration"),
        tracker=processing.tracker,
        learns=processing.active_learning_enabled,
        dataset=processing.active_learning_target_dataset,
    )


def _sources(payload: InitialisePipelinePayload) -> tuple[SourceSpec, ...]:
    video = payload.video_configuration
    given = video.video_reference
    return tuple(
        SourceSpec(
            reference,
            properties=video.video_source_properties or {},
            filling=video.source_buffer_filling_strategy,
            consumption=video.source_buffer_consumption_strategy,
        )
        for reference in (given if isinstance(given, list) else [given])
    )
