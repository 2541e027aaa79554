"""Replies as the Stream Manager words them: three keys, and of an error its type, its class and its text."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from streamfleet_api.errors import NOTHING, UNREACHABLE, Failure, Unconfirmed, as_failure
from streamfleet_api.link import LinkError, Refused
from streamfleet_api.manager.framing import BadFrame
from streamfleet_api.wire import render

logger = logging.getLogger(__name__)

Response = dict[str, Any]


def reply(response: Response, pipeline_id: str | None = None) -> bytes:
    """The payload of a reply."""
    return render(_worded(response, pipeline_id))


def listed(pipelines: Sequence[str]) -> bytes:
    """The payload of the reply to what is asked for most: as `reply` has it, made in half the time."""
    return msgspec.json.encode(_worded(success(pipelines=pipelines), None))


def _worded(response: Response, pipeline_id: str | None) -> dict[str, Any]:
    return {"request_id": str(uuid.uuid4()), "response": response, "pipeline_id": pipeline_id}


def success(**content: Any) -> Response:
    """It was done."""
    return {"status": "success", **content}


def failure(error: Exception) -> Response:
    """Why it was not done. What is not one of ours is a bug: it is logged, and told by its class alone."""
    if isinstance(error, BadFrame):
        return _failure(error.error_type, error.error_class, str(error))
    if isinstance(error, Refused):
        error = as_failure(error) or error
    if isinstance(error, Failure):
        if error.details == NOTHING:
            return {"status": "failure", "error_type": error.error_type}
        return _failure(error.error_type, error.error_class or "ValueError", error.details)
    if isinstance(error, Refused):
        return _failure("internal_error", "ConnectionError", f"{UNREACHABLE}: {error.message}")
    if isinstance(error, Unconfirmed):
        return _failure("internal_error", "TimeoutError", str(error))
    if isinstance(error, LinkError):
        return _failure("internal_error", "ConnectionError", UNREACHABLE)
    logger.error("a command failed", exc_info=error)
    return _failure("internal_error", type(error).__name__, "Internal error.")


def public(response: Response) -> Response:
    """A failure as the newer family has it: its clients show their users this text alone."""
    text = response.get("error_message")
    return response if text is None else {**response, "public_error_message": text}


def timed_out() -> Response:
    """A client did not say in time what it wants."""
    return _failure("internal_error", "TimeoutError", "timed out")


def _failure(error_type: str, error_class: str, message: str) -> Response:
    return {
        "status": "failure",
        "error_type": error_type,
        "error_class": error_class,
        "error_message": message,
    }
