"""What clients send under `/inference_pipelines`, and what they get, field by field as the original has it.

What the original accepted is accepted here: values are coerced, and unknown keys ignored. Ours are `device`,
a bare model in the place of a workflow, and UDP sinks, alone or beside the results that are kept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamfleet_api.bodies import MAX_REFERENCE, MAX_SINKS, Fps, Properties
from streamfleet_api.original_answers import CommandContext
from streamfleet_api.schemas import ObjectDetectionModelConfiguration
from streamfleet_broker.protocol.values import MAX_SOURCES, Consumption, Filling, Tracker

RESULTS = 64  # that wait, unless a client says otherwise
MAX_RESULTS = 10_000

Reference = (
    Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE, pattern=r"^[^\x00]*$")]
    | Annotated[int, Field(ge=0, lt=2**31)]
)


class _Payload(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False)


class VideoConfiguration(_Payload):
    """Where frames come from, and how they are taken."""

    type: Literal["VideoConfiguration"]
    video_reference: Reference | Annotated[list[Reference], Field(min_length=1, max_length=MAX_SOURCES)]
    max_fps: Fps | None = None
    """Frames a second that are looked at, of each source. Null: all."""
    source_buffer_filling_strategy: Filling | None = None
    """Null suits the source: WAIT for a file, ADAPTIVE_DROP_OLDEST for a camera. The original's default was
    DROP_OLDEST for a file too, of which most frames were never seen."""
    source_buffer_consumption_strategy: Consumption | None = None
    """Null suits the source: LAZY for a file, EAGER for a camera."""
    video_source_properties: Properties | None = None
    batch_collection_timeout: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Seconds that a result waits for those of the other sources."""


class WorkflowConfiguration(_Payload):
    """A workflow: an object-detection model, perhaps a byte tracker, visualizations, and outputs by name."""

    type: Literal["WorkflowConfiguration"]
    workflow_specification: dict[str, Any] | None = None
    workspace_name: str | None = None
    """There is no server of workflows here: give the specification."""
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
    """A model without a workflow; its results have one output, `predictions`. Ours."""

    type: Literal["ModelConfiguration"]
    model_id: str
    model_configuration: ObjectDetectionModelConfiguration = Field(
        default_factory=ObjectDetectionModelConfiguration
    )
    tracker: Tracker | None = None
    active_learning_enabled: bool | None = None
    """Keep frames for labelling. Null: as the api was told by `ACTIVE_LEARNING_ENABLED`."""
    active_learning_target_dataset: str | None = None


class MemorySinkConfiguration(_Payload):
    """Results are kept for `consume`, the newest of them."""

    type: Literal["MemorySinkConfiguration"]
    results_buffer_size: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = RESULTS


class UdpSinkConfiguration(_Payload):
    """The device sends a datagram for each prediction. Ours in this family."""

    type: Literal["udp_sink"]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:%-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)]


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
    """Seconds without a `consume`, whatever that found, after which the pipeline is terminated."""
    api_key: str | None = None
    """Not used, and kept nowhere."""
    predictions_queue_size: int = 512
    decoding_buffer_size: int = 64
    device: str | None = None
    """Run it there and nowhere else. Null: where most room is. Ours."""


class ConsumeResultsPayload(_Payload):
    """The body of `/inference_pipelines/{pipeline_id}/consume`, which need not be there."""

    excluded_fields: list[str] | None = None
    """Outputs that are left out."""


# answers --------------------------------------------------------------------------------------------------


class ConsumeContext(CommandContext):
    """Which request was answered, of which pipeline. `dropped` is ours: results that went unseen before."""

    dropped: int = 0


class FrameMetadata(BaseModel):
    """Which frame a result is of."""

    frame_timestamp: str
    frame_id: int
    source_id: int | None


class ConsumePipelineResponse(BaseModel):
    """The oldest result: a place for each source, null where a source gave nothing."""

    status: str
    context: ConsumeContext
    outputs: list[dict[str, Any] | None]
    frames_metadata: list[FrameMetadata | None]


class CoreFailure(BaseModel):
    """Why a command had no effect."""

    message: str
    error_type: str
    inner_error_type: str | None


class CoreMessage(BaseModel):
    """Why nothing was done, where the original says no more."""

    message: str
