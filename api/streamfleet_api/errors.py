"""Every error as an answer, in the shape of the family whose route was asked.

The fleet's own routes, `/v2`, answer problem details (RFC 9457); everything else answers as the original:
    {"detail": [{"type", "loc", "msg", "input"}]}   422, as FastAPI validates
    {"detail": "Not Found"}                         404 and 405, as FastAPI routes
    {"status": "failure", "message": "…"}           everything that the original's own code says
and below `/inference_pipelines`, where the first two are the same, as its newer family:
    {"message", "error_type", "inner_error_type"}   everything that the original's own code says
    {"message": "…"}                                who may not ask, and bugs
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from streamfleet_api.audience import TooManyFollowers
from streamfleet_api.blobs import TooLarge, WrongDigest
from streamfleet_api.link import LinkError, Refused
from streamfleet_api.modelfile import BadModel
from streamfleet_api.models import ModelExists
from streamfleet_api.problems import Problem
from streamfleet_api.schemas import Invalid
from streamfleet_api.wire import Json

NATIVE = "/v2"
CORE = "/inference_pipelines"
UNREACHABLE = "Could not communicate with Process Manager"
NOTHING = "N/A"  # the details of an error of which the original says no more than its type

# What the broker refuses, in the words and statuses of the original.
_ORIGINAL = {
    "not_found": (404, "not_found"),
    "invalid": (400, "invalid_payload"),
    "conflict": (500, "operation_error"),
    "bad_message": (500, "internal_error"),
}
# Its types of errors, by the classes that its newer family names.
_CORE_CLASSES = {
    "invalid_payload": "ProcessesManagerInvalidPayload",
    "not_found": "ProcessesManagerNotFoundError",
    "operation_error": "ProcessesManagerOperationError",
    "internal_error": "ProcessesManagerInternalError",
}
_CORE_UNREACHABLE = "Could not establish communication with InferencePipeline Manager"
_CORE_PROBLEMS = {413: "MessageToBigError", 415: "MalformedPayloadError"}


class Failure(Exception):
    """What the original would say: its type of error, and details."""

    def __init__(self, status: int, error_type: str, details: str, *, error_class: str | None = None) -> None:
        """`error_class` is the exception that the original has there, where that is not a ValueError."""
        super().__init__(details)
        self.status = status
        self.error_type = error_type
        self.details = details
        self.error_class = error_class


class Unconfirmed(Exception):
    """Nobody said within the time that it was done; it may still be."""


def as_failure(refused: Refused) -> Failure | None:
    """What the broker refuses, as the original would say it; None when the broker itself is not well."""
    if refused.code not in _ORIGINAL:
        return None
    status, error_type = _ORIGINAL[refused.code]
    return Failure(status, error_type, refused.message or NOTHING)


def answer(request: HTTPConnection, error: Exception) -> Response:
    """The answer to a request that failed."""
    if request.url.path.startswith(NATIVE):
        return _native(error)
    if request.url.path.startswith(f"{CORE}/"):
        return _core(error)
    return _original(error)


def failure(status: int, message: str) -> Response:
    """The original's own shape."""
    return Json({"status": "failure", "message": message}, status)


def _native(error: Exception) -> Response:
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, LinkError):
        return Problem.of(error).response()
    if isinstance(error, Invalid):
        return Problem(422, error.summary).response(errors=error.shown)
    if isinstance(error, BadModel | WrongDigest):
        return Problem(422, str(error)).response()
    if isinstance(error, ModelExists):
        return Problem(409, str(error)).response()
    if isinstance(error, TooLarge):
        return Problem(413, str(error)).response()
    if isinstance(error, TooManyFollowers):
        return Problem(503, str(error), headers={"retry-after": "10"}).response()
    if isinstance(error, HTTPException):
        return Problem(error.status_code, error.detail, headers=error.headers).response()
    return Problem(500, "Internal error.").response()


def _original(error: Exception) -> Response:
    if isinstance(error, Refused):
        error = as_failure(error) or error
    if isinstance(error, Failure):
        text = f"Error in ProcessesManagerClient. Error type: {error.error_type}. Details: {error.details}"
        return failure(error.status, text)
    if isinstance(error, Refused):
        return failure(503, f"{UNREACHABLE}: {error.message}")
    if isinstance(error, Unconfirmed):
        return failure(503, str(error))
    if isinstance(error, LinkError):
        return failure(503, UNREACHABLE)
    if isinstance(error, Invalid):
        return Json({"detail": error.errors}, 422)
    if isinstance(error, Problem):
        refusal = failure(error.status, error.detail)
        refusal.headers.update(error.headers)
        return refusal
    if isinstance(error, HTTPException):
        return Json({"detail": error.detail}, error.status_code, error.headers)
    return failure(500, "Internal error.")


def _core(error: Exception) -> Response:
    if isinstance(error, Refused):
        error = as_failure(error) or error
    if isinstance(error, Failure):
        text = (
            "Error with command handling raised by InferencePipeline Manager. "
            f"Error type: {error.error_type}. Details: {error.details}"
        )
        kind = _CORE_CLASSES.get(error.error_type, "ProcessesManagerClientError")
        return _core_failure(error.status, text, kind, error.error_class)
    if isinstance(error, LinkError | Unconfirmed):
        why = error.message if isinstance(error, Refused) else str(error).removeprefix(f"{UNREACHABLE}: ")
        return _core_failure(500, f"{_CORE_UNREACHABLE}: {why}", "ConnectivityError")
    if isinstance(error, Problem) and error.status in _CORE_PROBLEMS:
        return _core_failure(error.status, error.detail, _CORE_PROBLEMS[error.status])
    if isinstance(error, Problem):
        return Json({"message": error.detail}, error.status, error.headers)
    if isinstance(error, Invalid | HTTPException):
        return _original(error)
    return Json({"message": "Internal error."}, 500)


def _core_failure(status: int, message: str, kind: str, inner: str | None = None) -> Response:
    return Json({"message": message, "error_type": kind, "inner_error_type": inner}, status)
