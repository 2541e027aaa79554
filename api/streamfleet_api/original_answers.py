"""What the original answers, under the names and with the keys of its own documentation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class CommandContext(BaseModel):
    """Which request was answered, of which pipeline. `device` is ours."""

    request_id: str | None = None
    pipeline_id: str | None = None
    device: str | None = None


class CommandResponse(BaseModel):
    """The answer to a command."""

    status: str
    context: CommandContext


class ListPipelinesResponse(BaseModel):
    """The ids of all pipelines of the fleet."""

    status: str
    context: CommandContext
    pipelines: list[str]


class InferencePipelineStatusResponse(BaseModel):
    """What is known of a pipeline."""

    status: str
    context: CommandContext
    report: dict[str, Any]


class ValidationError(BaseModel):
    """What is wrong with one field of a request."""

    loc: list[str | int] = Field(title="Location")
    msg: str = Field(title="Message")
    type: str = Field(title="Error Type")
    input: Any = None
    ctx: dict[str, Any] = Field(default={}, title="Context", json_schema_extra={"additionalProperties": True})


class HTTPValidationError(BaseModel):
    """What is wrong with a request."""

    detail: list[ValidationError] = []


class FailureResponse(BaseModel):
    """Why a command had no effect."""

    status: str
    message: str


class HttpError(BaseModel):
    """No such path, as FastAPI says it."""

    detail: str
