"""Requests and responses of `/inference_pipelines`, field by field as Roboflow defines them.

They accept what Roboflow accepts: values are coerced, and unknown keys ignored. Additions are `device`,
a bare model in the place of a workflow, and UDP sinks, alone or beside the results that are kept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from streamfleet_api.roboflow.responses import CommandContext
from streamfleet_api.roboflow.schemas import ObjectDetectionModelConfiguration
from streamfleet_api.v2.requests import CameraIndex, Fps, Host, Port, Properties
from streamfleet_core.protocol.limits import (
    MAX_REFERENCE,
    MAX_SINKS,
    MAX_SOURCES,
    REFERENCE_PATTERN,
    schema_pattern,
)
from streamfleet_core.protocol.source_reference import misspelt, reference_of
from streamfleet_core.protocol.values import Consumption, Filling, Tracker

RESULTS = 64  # that wait, unless a client says otherwise
MAX_RESULTS = 10_000


def _spelt(reference: str | int) -> str | int:
    expected = misspelt(reference)
    if expected:
        raise PydanticCustomError("source_reference", "Input should be {expected}", {"expected": expected})
    return reference_of(reference)


Reference = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE, pattern=schema_pattern(REFERENCE_PATTERN))]
    | CameraIndex,
    AfterValidator(_spelt),
]


class _Payload(BaseModel):
    """The common base of all requests."""

    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False)


class VideoConfiguration(_Payload):
    """The video sources and how frames are taken from them."""

    type: Literal["VideoConfiguration"]
    video_reference: Reference | Annotated[list[Reference], Field(min_length=1, max_length=MAX_SOURCES)]
    max_fps: Fps | None = None
    """Maximum frames per second and source. Null: all frames."""
    source_buffer_filling_strategy: Filling | None = None
    """Null depends on the source: WAIT for a file, ADAPTIVE_DROP_OLDEST for a camera. Roboflow's default is
    DROP_OLDEST for a file too, which skips most of its frames."""
    source_buffer_consumption_strategy: Consumption | None = None
    """Null depends on the source: LAZY for a file, EAGER for a camera."""
    video_source_properties: Properties | None = None
    batch_collection_timeout: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Seconds that a result waits for those of the other sources."""


class WorkflowConfiguration(_Payload):
    """A workflow: an object-detection model, perhaps a byte tracker, visualizations, and outputs by name."""

    type: Literal["WorkflowConfiguration"]
    workflow_specification: dict[str, Any] | None = None
    workspace_name: str | None = None
    """Not supported, as there is no workflow server here: send the specification."""
    workflow_id: str | None = None
    workflow_version_id: str | None = None
    image_input_name: str = "image"
    workflows_parameters: dict[str, Any] | None = None
    disable_sinks: bool = False
    workflows_thread_pool_workers: int = 4
    execution_engine_thread_pool_workers: int = 4
    cancel_thread_pool_tasks_on_exit: bool = True
    video_metadata_input_name: str = "video_metadata"


class ModelConfiguration(_Payload):
    """A model without a workflow; its results have one output, `predictions`. An addition of ours."""

    type: Literal["ModelConfiguration"]
    model_id: str
    model_configuration: ObjectDetectionModelConfiguration = Field(
        default_factory=ObjectDetectionModelConfiguration
    )
    tracker: Tracker | None = None
    active_learning_enabled: bool | None = None
    """Keep frames for labelling. Null: as `ACTIVE_LEARNING_ENABLED` of the api says."""
    active_learning_target_dataset: str | None = None


class MemorySinkConfiguration(_Payload):
    """Keep the newest results for `consume`."""

    type: Literal["MemorySinkConfiguration"]
    results_buffer_size: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = RESULTS


class UdpSinkConfiguration(_Payload):
    """Send a datagram for each prediction. An addition of ours to these endpoints."""

    type: Literal["udp_sink"]
    host: Host
    port: Port


AnyProcessing = Annotated[WorkflowConfiguration | ModelConfiguration, Field(discriminator="type")]
AnySink = Annotated[MemorySinkConfiguration | UdpSinkConfiguration, Field(discriminator="type")]


class InitialisePipelinePayload(_Payload):
    """The body of `/inference_pipelines/initialise`."""

    video_configuration: VideoConfiguration
    processing_configuration: AnyProcessing
    sink_configuration: AnySink | Annotated[list[AnySink], Field(min_length=1, max_length=MAX_SINKS)] = (
        MemorySinkConfiguration(type="MemorySinkConfiguration")
    )
    consumption_timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Seconds without a `consume` request after which the pipeline is terminated."""
    api_key: str | None = None
    """Ignored, and not stored."""
    predictions_queue_size: int = 512
    decoding_buffer_size: int = 64
    device: str | None = None
    """The device that must run it. Null: the device with most free capacity. An addition of ours."""


class ConsumeResultsPayload(_Payload):
    """The optional body of `/inference_pipelines/{pipeline_id}/consume`."""

    excluded_fields: list[str] | None = None
    """Outputs to leave out."""


# responses ------------------------------------------------------------------------------------------------


class ConsumeContext(CommandContext):
    """The request and the pipeline. `dropped` is an addition of ours: the results dropped before this one."""

    dropped: int = 0


class FrameMetadata(BaseModel):
    """The frame that a result belongs to."""

    frame_timestamp: str
    frame_id: int
    source_id: int | None


class ConsumePipelineResponse(BaseModel):
    """The oldest result: one place per source, null where a source has none."""

    status: str
    context: ConsumeContext
    outputs: list[dict[str, Any] | None]
    frames_metadata: list[FrameMetadata | None]


class CoreFailure(BaseModel):
    """The reason why a command failed."""

    message: str
    error_type: str
    inner_error_type: str | None


class CoreMessage(BaseModel):
    """The reason why a command failed, in Roboflow's short form."""

    message: str
