"""Roboflow's requests, field by field: names, coercions and defaults.

They accept what Roboflow accepts; `mapping` checks the values.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class UDPSinkConfiguration(BaseModel):
    """The destination of the datagrams."""

    type: str = "udp_sink"
    host: str
    port: int


class ObjectDetectionModelConfiguration(BaseModel):
    """Thresholds of the detections. Null means the default of the device."""

    type: str = "object-detection"
    class_agnostic_nms: bool | None = None
    confidence: float | None = None
    iou_threshold: float | None = None
    max_candidates: int | None = None
    max_detections: int | None = None


class PipelineInitialisationRequest(BaseModel):
    """The body of `/initialise`. Unknown keys are ignored, as in Roboflow's API."""

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
    # Additions of ours: the device, and the tracker that gives objects an id.
    device: str | None = None
    tracker: str | None = None
