"""The Stream Manager's commands over TCP: the payload of a request in, the payload of its reply out."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from streamfleet_api.roboflow.errors import NOTHING, Failure
from streamfleet_api.roboflow.inference_pipelines.routes import NO_WEBRTC
from streamfleet_api.roboflow.inference_pipelines.schemas import (
    ConsumeResultsPayload,
    InitialisePipelinePayload,
)
from streamfleet_api.roboflow.inference_pipelines.service import InferencePipelineCommands
from streamfleet_api.roboflow.mapping import check, spec_of
from streamfleet_api.roboflow.schemas import PipelineInitialisationRequest
from streamfleet_api.roboflow.service import StreamManager
from streamfleet_api.roboflow.tcp.framing import command_in
from streamfleet_api.roboflow.tcp.replies import failure, listed, public, reply, success
from streamfleet_api.web.validation import Invalid, validate
from streamfleet_core.protocol.limits import ID_PATTERN
from streamfleet_core.protocol.source_reference import brief

_LISTS = frozenset({b'{"type": "list_pipelines"}', b'{"type":"list_pipelines"}'})  # as clients write it

Command = dict[str, Any]
Content = dict[str, Any]
Handler = Callable[[str, Command], Awaitable[Content]]
M = TypeVar("M", bound=BaseModel)


class Commands:
    """Executes the command in a payload. Every payload gets a reply."""

    def __init__(self, manager: StreamManager, inference_pipelines: InferencePipelineCommands) -> None:
        self._manager = manager
        self._inference_pipelines = inference_pipelines
        self._handlers: dict[str, Handler] = {
            "list_pipelines": self._list,
            "init": self._init,
            "status": self._status,
            "mute": self._mute,
            "resume": self._resume,
            "terminate": self._terminate,
            "consume_result": self._consume_result,
            "webrtc": self._webrtc,
        }

    def at_once(self, payload: bytes) -> bytes | None:
        """The reply to the most frequent command, if it is cached; otherwise None: call `do`."""
        pipelines = self._manager.listed() if payload in _LISTS else None
        return None if pipelines is None else listed(pipelines)

    async def do(self, payload: bytes) -> bytes:
        """Execute a command and return the payload of its reply."""
        command: Command = {}
        pipeline_id = None
        is_inference_pipelines = False  # decides the form of an error
        try:
            command = command_in(payload)
            is_inference_pipelines = _is_inference_pipelines_command(command)
            handler = self._handler(command)
            pipeline_id = _pipeline_id(command)
            _check_is_ours(pipeline_id)
            if pipeline_id is not None and self._inference_pipelines.knows(pipeline_id):
                is_inference_pipelines = True
            response = success(**await handler(pipeline_id or "", command))
        except Exception as exc:  # every error gets a reply
            response = failure(exc)
            if is_inference_pipelines:
                response = public(response, pipeline_id)
        return reply(response, pipeline_id)

    def _handler(self, command: Command) -> Handler:
        kind = _required(command, "type")
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise Failure(
                400,
                "invalid_payload",
                f"{brief(kind)} is not a valid CommandType: expected one of {', '.join(self._handlers)}",
            )
        return handler

    async def _list(self, _pipeline_id: str, _command: Command) -> Content:
        return {"pipelines": await self._manager.list()}

    async def _status(self, pipeline_id: str, _command: Command) -> Content:
        _, report = await self._manager.report(pipeline_id)
        return {"report": report}

    async def _init(self, pipeline_id: str, command: Command) -> Content:
        if _is_inference_pipelines_command(command):
            return await self._init_inference_pipeline(pipeline_id, command)
        _required(command, "model_configuration")  # it has a default over HTTP only
        initialisation = _read_initialisation(command)
        check(initialisation)
        await self._manager.initialise(
            initialisation.model_id,
            functools.partial(spec_of, initialisation, learning=self._manager.learning),
            device=initialisation.device,
            pipeline_id=pipeline_id,
        )
        return {}

    async def _mute(self, pipeline_id: str, _command: Command) -> Content:
        await self._manager.mute(pipeline_id)
        return {}

    async def _resume(self, pipeline_id: str, _command: Command) -> Content:
        await self._manager.resume(pipeline_id)
        return {}

    async def _terminate(self, pipeline_id: str, _command: Command) -> Content:
        await self._inference_pipelines.terminate(pipeline_id)
        return {}

    # /inference_pipelines

    async def _init_inference_pipeline(self, pipeline_id: str, command: Command) -> Content:
        payload = _checked(command, InitialisePipelinePayload, "init")
        await self._inference_pipelines.initialise(payload, pipeline_id=pipeline_id)
        return {}

    async def _consume_result(self, pipeline_id: str, command: Command) -> Content:
        request = _checked(command, ConsumeResultsPayload, "consume_result")
        taken = await self._inference_pipelines.consume(pipeline_id, excluded=request.excluded_fields or ())
        return {"outputs": taken.outputs, "frames_metadata": taken.frames_metadata}

    async def _webrtc(self, _pipeline_id: str, _command: Command) -> Content:
        raise Failure(400, "invalid_payload", NO_WEBRTC, error_class="NotImplementedError")


# requests -------------------------------------------------------------------------------------------------


def _is_inference_pipelines_command(command: Command) -> bool:
    """Whether it is a command of `/inference_pipelines` only."""
    return "video_configuration" in command or command.get("type") in ("consume_result", "webrtc")


def _required(command: Command, key: str) -> Any:
    if key not in command:
        raise missing(key)
    return command[key]


def missing(key: str) -> Failure:
    """The error for a missing key. Roboflow replies with Python's KeyError."""
    return Failure(400, "invalid_payload", repr(key), error_class="KeyError")


def _pipeline_id(command: Command) -> str | None:
    """The pipeline of a command, if it has one. A new pipeline gets a generated id, even if it fails."""
    match command["type"]:
        case "list_pipelines":
            return None
        case "init" | "webrtc":
            return str(uuid.uuid4())
    pipeline_id = _required(command, "pipeline_id")
    if not isinstance(pipeline_id, str):
        text = f"expected pipeline_id as a string, got {type(pipeline_id).__name__}"
        raise Failure(500, "internal_error", text, error_class="TypeError")
    return pipeline_id


def _check_is_ours(pipeline_id: str | None) -> None:
    """Report an id that we cannot have made as unknown."""
    if pipeline_id is not None and not re.fullmatch(ID_PATTERN, pipeline_id):
        raise Failure(404, "not_found", NOTHING)


def _read_initialisation(command: Command) -> PipelineInitialisationRequest:
    try:
        return validate(command, PipelineInitialisationRequest, "init")
    except Invalid as exc:
        first = exc.errors[0]
        if first["type"] == "missing":
            raise missing(first["loc"][-1]) from exc
        raise _unlike(exc) from exc


def _checked(command: Command, of: type[M], where: str) -> M:
    """Validate a command of `/inference_pipelines`."""
    try:
        return validate(command, of, where)
    except Invalid as exc:
        raise _unlike(exc) from exc


def _unlike(error: Invalid) -> Failure:
    return Failure(400, "invalid_payload", error.summary, error_class="ValidationError")
