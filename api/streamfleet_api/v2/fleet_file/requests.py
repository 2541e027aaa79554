"""What a file of a fleet may say. A pipeline is that of `PUT /v2/pipelines`, with an id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from streamfleet_api.v2.requests import Body, Digest, LabelChanges, ModelName, Name, PipelineRequest
from streamfleet_core.documents.templates import PARAMETER_NAME
from streamfleet_core.protocol.limits import (
    LABEL_VALUE_PATTERN,
    MANAGER_PATTERN,
    MAX_APPLIED,
    MAX_CLASS_NAME,
    MAX_GIVEN_CLASSES,
    MAX_REFERENCE,
    schema_pattern,
)
from streamfleet_core.protocol.values import Family

MAX_TEMPLATES = 100
MAX_PARAMETERS = 64  # of a template
MAX_MODELS = 100
MAX_DEVICES = 1000

Manager = Annotated[str, Field(pattern=schema_pattern(MANAGER_PATTERN))]
ParameterName = Annotated[str, Field(pattern=schema_pattern(PARAMETER_NAME))]
Parameters = Annotated[dict[ParameterName, Any], Field(max_length=MAX_PARAMETERS)]


class FileModel(Body):
    """A model, by its id and its content."""

    id: ModelName
    file: Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE)] | None = None
    """Path of its ONNX file, beside this file. `streamfleet apply` uploads it and sends `weights` instead."""
    weights: Digest | None = None
    """The sha256 of its ONNX file, which the fleet has."""
    family: Family | None = None
    """Null: detected from the file."""
    labels: (
        Annotated[list[Annotated[str, Field(max_length=MAX_CLASS_NAME)]], Field(max_length=MAX_GIVEN_CLASSES)]
        | None
    ) = None
    """The names of the classes. Null: those in the file."""


class FileDevice(Body):
    """Settings of a device that has joined."""

    name: Name
    labels: LabelChanges = Field(default_factory=dict)
    """Labels that it must have; null removes one. Its other labels stay."""
    cordoned: bool | None = None
    """Whether no pipeline is placed on it. False ends a drain, too. Null: as it is."""


class FilePipeline(PipelineRequest):
    """A pipeline, after its template."""

    model_config = ConfigDict(json_schema_extra={})

    id: Name


class FleetFile(Body):
    """Pipelines, and what they need, as they should be."""

    manager: Manager | None = None
    """The owner of the pipelines, and their label `manager`. Those that vanish from the file are removed.

    Null: pipelines without a manager, of which none is removed.
    """
    models: Annotated[list[FileModel], Field(max_length=MAX_MODELS)] = Field(default_factory=list)
    devices: Annotated[list[FileDevice], Field(max_length=MAX_DEVICES)] = Field(default_factory=list)
    templates: Annotated[dict[Name, dict[str, Any]], Field(max_length=MAX_TEMPLATES)] = Field(
        default_factory=dict
    )
    """What pipelines share. `${name}` in a text is a parameter, `${id}` the id of the pipeline."""
    pipelines: Annotated[list[dict[str, Any]], Field(max_length=MAX_APPLIED)] = Field(default_factory=list)


class ApplyQuery(Body):
    """How a file is applied."""

    dry_run: Literal["true", "false"] = "false"
    """Change nothing, and say what would change."""
    prune: Literal["true", "false"] = "true"
    """Remove pipelines of the manager that are not in the file."""
    take_over: Literal["true", "false"] = "false"
    """Change pipelines of other managers, and of none, which then belong to the manager of the file."""
    delete: Literal["true", "false"] = "false"
    """Remove the pipelines of the file instead."""


class ExportQuery(Body):
    """Whose pipelines to export."""

    manager: Annotated[str, Field(pattern=schema_pattern(LABEL_VALUE_PATTERN))] | None = None
    """Empty: pipelines without a manager. Not given: the only manager that there is."""
