"""Roboflow's responses, with the names and keys of its own documentation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class CommandContext(BaseModel):
    """The request and the pipeline that a response is about. `device` is an addition of ours."""

    request_id: str | None = None
    pipeline_id: str | None = None
    device: str | None = None


class CommandResponse(BaseModel):
    """The response to a command."""

    status: str
    context: CommandContext


class ListPipelinesResponse(BaseModel):
    """The ids of all pipelines of the fleet."""

    status: str
    context: CommandContext
    pipelines: list[str]


class InferencePipelineStatusResponse(BaseModel):
    """The status of a pipeline."""

    status: str
    context: CommandContext
    report: dict[str, Any]


class ValidationError(BaseModel):
    """An invalid field of a request."""

    loc: list[str | int] = Field(title="Location")
    msg: str = Field(title="Message")
    type: str = Field(title="Error Type")
    input: Any = None
    ctx: dict[str, Any] = Field(default={}, title="Context", json_schema_extra={"additionalProperties": True})


class HTTPValidationError(BaseModel):
    """An invalid request."""

    detail: list[ValidationError] = []


class FailureResponse(BaseModel):
    """The reason why a command failed."""

    status: str
    message: str


class HttpError(BaseModel):
    """An unknown path or method, in FastAPI's form."""

    detail: str
