"""The Stream Manager's commands over TCP: a payload in, the payload of its reply out."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from streamfleet_api.core.commands import CoreCommands
from streamfleet_api.core.payloads import ConsumeResultsPayload, InitialisePipelinePayload
from streamfleet_api.core.routes import NO_WEBRTC
from streamfleet_api.errors import NOTHING, Failure
from streamfleet_api.manager.framing import command_in
from streamfleet_api.manager.replies import failure, listed, public, reply, success
from streamfleet_api.schemas import ID_PATTERN, Invalid, PipelineInitialisationRequest, validate
from streamfleet_api.stream_manager import StreamManager
from streamfleet_api.wishes import check, spec_of

_LISTS = frozenset({b'{"type": "list_pipelines"}', b'{"type":"list_pipelines"}'})  # as clients write it
MAX_QUOTED = 80  # characters of what came that a message repeats

Command = dict[str, Any]
Content = dict[str, Any]
Handler = Callable[[str, Command], Awaitable[Content]]
M = TypeVar("M", bound=BaseModel)


class Commands:
    """Does what a payload asks. Whatever the payload is, there is a reply to it."""

    def __init__(self, manager: StreamManager, core: CoreCommands) -> None:
        self._manager = manager
        self._core = core
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
        """The reply to what is asked for most, where nobody must be waited for; None: `do` it."""
        pipelines = self._manager.listed() if payload in _LISTS else None
        return None if pipelines is None else listed(pipelines)

    async def do(self, payload: bytes) -> bytes:
        """The payload of the reply."""
        command: Command = {}
        pipeline_id = None
        try:
            command = command_in(payload)
            handler = self._handler(command)
            pipeline_id = _pipeline_id(command)
            _check_is_ours(pipeline_id)
            response = success(**await handler(pipeline_id or "", command))
        except Exception as exc:  # the top: whatever it is, the client is told
            response = failure(exc)
            if _is_newer(command):
                response = public(response)
        return reply(response, pipeline_id)

    def _handler(self, command: Command) -> Handler:
        kind = _required(command, "type")
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise Failure(
                400,
                "invalid_payload",
                f"{_brief(kind)} is not a valid CommandType: expected one of {', '.join(self._handlers)}",
            )
        return handler

    async def _list(self, _pipeline_id: str, _command: Command) -> Content:
        return {"pipelines": await self._manager.list()}

    async def _status(self, pipeline_id: str, _command: Command) -> Content:
        _, report = await self._manager.report(pipeline_id)
        return {"report": report}

    async def _init(self, pipeline_id: str, command: Command) -> Content:
        if _is_newer(command):
            return await self._init_newer(pipeline_id, command)
        _required(command, "model_configuration")  # only over HTTP it has a default
        wish = _wish(command)
        check(wish)
        await self._manager.initialise(
            wish.model_id,
            functools.partial(spec_of, wish, learning=self._manager.learning),
            device=wish.device,
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
        await self._core.terminate(pipeline_id)
        return {}

    # of the newer family

    async def _init_newer(self, pipeline_id: str, command: Command) -> Content:
        payload = _checked(command, InitialisePipelinePayload, "init")
        await self._core.initialise(payload, pipeline_id=pipeline_id)
        return {}

    async def _consume_result(self, pipeline_id: str, command: Command) -> Content:
        wanted = _checked(command, ConsumeResultsPayload, "consume_result")
        taken = await self._core.consume(pipeline_id, excluded=wanted.excluded_fields or ())
        return {"outputs": taken.outputs, "frames_metadata": taken.frames_metadata}

    async def _webrtc(self, _pipeline_id: str, _command: Command) -> Content:
        raise Failure(400, "invalid_payload", NO_WEBRTC, error_class="NotImplementedError")


# what came ------------------------------------------------------------------------------------------------


def _is_newer(command: Command) -> bool:
    """Is it a command that the original's first family does not have?"""
    return "video_configuration" in command or command.get("type") in ("consume_result", "webrtc")


def _required(command: Command, key: str) -> Any:
    if key not in command:
        raise missing(key)
    return command[key]


def missing(key: str) -> Failure:
    """In the original's words: what Python says of a key that is not there."""
    return Failure(400, "invalid_payload", repr(key), error_class="KeyError")


def _pipeline_id(command: Command) -> str | None:
    """Which pipeline it is about, if about one. A new one has an id of our making, also when it fails."""
    match command["type"]:
        case "list_pipelines":
            return None
        case "init" | "webrtc":
            return str(uuid.uuid4())
    pipeline_id = _required(command, "pipeline_id")
    if not isinstance(pipeline_id, str):
        text = f"expected pipeline_id as a string, came {type(pipeline_id).__name__}"
        raise Failure(500, "internal_error", text, error_class="TypeError")
    return pipeline_id


def _check_is_ours(pipeline_id: str | None) -> None:
    """What can be no id of ours is nobody's."""
    if pipeline_id is not None and not re.fullmatch(ID_PATTERN, pipeline_id):
        raise Failure(404, "not_found", NOTHING)


def _wish(command: Command) -> PipelineInitialisationRequest:
    try:
        return validate(command, PipelineInitialisationRequest, "init")
    except Invalid as exc:
        first = exc.errors[0]
        if first["type"] == "missing":
            raise missing(first["loc"][-1]) from exc
        raise _unlike(exc) from exc


def _checked(command: Command, of: type[M], where: str) -> M:
    """A command of the newer family, which looks at the whole of it."""
    try:
        return validate(command, of, where)
    except Invalid as exc:
        raise _unlike(exc) from exc


def _unlike(error: Invalid) -> Failure:
    return Failure(400, "invalid_payload", error.summary, error_class="ValidationError")


def _brief(came: object) -> str:
    text = repr(came)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
