"""The Stream Manager's commands over TCP: a payload in, the payload of its reply out."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from streamfleet_api.errors import NOTHING, Failure
from streamfleet_api.manager.framing import command_in
from streamfleet_api.manager.replies import failure, reply, success
from streamfleet_api.schemas import ID_PATTERN, Invalid, PipelineInitialisationRequest, validate
from streamfleet_api.stream_manager import StreamManager
from streamfleet_api.wishes import check, spec_of

MAX_QUOTED = 80  # characters of what came that a message repeats

Command = dict[str, Any]
Content = dict[str, Any]
Handler = Callable[[str, Command], Awaitable[Content]]


class Commands:
    """Does what a payload asks. Whatever the payload is, there is a reply to it."""

    def __init__(self, manager: StreamManager) -> None:
        self._manager = manager
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

    async def do(self, payload: bytes) -> bytes:
        """The payload of the reply."""
        pipeline_id = None
        try:
            command = command_in(payload)
            handler = self._handler(command)
            pipeline_id = _pipeline_id(command)
            _check_is_ours(pipeline_id)
            response = success(**await handler(pipeline_id or "", command))
        except Exception as exc:  # the top: whatever it is, the client is told
            response = failure(exc)
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
        if "video_configuration" in command:
            return await self._init_newer(pipeline_id, command)
        _required(command, "model_configuration")  # only over HTTP it has a default
        wish = _wish(command)
        check(wish)
        await self._manager.initialise(
            wish.model_id, functools.partial(spec_of, wish), device=wish.device, pipeline_id=pipeline_id
        )
        return {}

    async def _mute(self, pipeline_id: str, _command: Command) -> Content:
        await self._manager.mute(pipeline_id)
        return {}

    async def _resume(self, pipeline_id: str, _command: Command) -> Content:
        await self._manager.resume(pipeline_id)
        return {}

    async def _terminate(self, pipeline_id: str, _command: Command) -> Content:
        await self._manager.terminate(pipeline_id)
        return {}

    # of the newer family

    async def _init_newer(self, _pipeline_id: str, _command: Command) -> Content:
        raise _not_there("an init with video_configuration")

    async def _consume_result(self, _pipeline_id: str, _command: Command) -> Content:
        raise _not_there("consume_result")

    async def _webrtc(self, _pipeline_id: str, _command: Command) -> Content:
        raise _not_there("webrtc", ": pictures are at GET /v2/pipelines/ID/pictures of the HTTP API")


def _not_there(what: str, instead: str = "") -> Failure:
    text = f"{what} is not supported{instead}"
    return Failure(400, "invalid_payload", text, error_class="NotImplementedError")


# what came ------------------------------------------------------------------------------------------------


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
        raise Failure(400, "invalid_payload", exc.summary, error_class="ValidationError") from exc


def _brief(came: object) -> str:
    text = repr(came)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
