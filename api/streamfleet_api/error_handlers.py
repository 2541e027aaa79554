"""Converts every error to a response, in the format of the API that was called.

The fleet's own API, `/v2`, returns problem details (RFC 9457); all other routes respond as Roboflow does:
    {"detail": [{"type", "loc", "msg", "input"}]}   422, as FastAPI validates
    {"detail": "Not Found"}                         404 and 405, as FastAPI routes
    {"status": "failure", "message": "…"}           errors of Roboflow's own code
and below `/inference_pipelines`, where the first two are the same:
    {"message", "error_type", "inner_error_type"}   errors of Roboflow's own code
    {"message": "…"}                                unauthorised requests, and bugs
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from streamfleet_api.broker_client import BrokerClientError, Refused
from streamfleet_api.feeds.subscribers import StreamRefused, TooManySubscribers
from streamfleet_api.roboflow.errors import INFERENCE_PIPELINES, UNREACHABLE, Failure, Unconfirmed, as_failure
from streamfleet_api.storage.blob_store import TooLarge, WrongDigest
from streamfleet_api.storage.model_registry import BlobInUse, ModelExists, ModelInUse, ModelReplaced
from streamfleet_api.web.json_codec import Json
from streamfleet_api.web.problem_details import Problem
from streamfleet_api.web.validation import Invalid
from streamfleet_core.models.onnx_graph import BadModel

NATIVE = "/v2"

# Its types of errors, by the classes that its newer family names.
_CORE_CLASSES = {
    "invalid_payload": "ProcessesManagerInvalidPayload",
    "not_found": "ProcessesManagerNotFoundError",
    "operation_error": "ProcessesManagerOperationError",
    "internal_error": "ProcessesManagerInternalError",
}
_CORE_UNREACHABLE = "Could not establish communication with InferencePipeline Manager"
_CORE_PROBLEMS = {413: "MessageToBigError", 415: "MalformedPayloadError"}


def answer(request: HTTPConnection, error: Exception) -> Response:
    """The answer to a request that failed."""
    if request.url.path.startswith(NATIVE):
        return _native(error)
    if request.url.path.startswith(f"{INFERENCE_PIPELINES}/"):
        return _core(error)
    return _original(error)


def failure(status: int, message: str) -> Response:
    """Format an error as Roboflow does."""
    return Json({"status": "failure", "message": message}, status)


def _native(error: Exception) -> Response:
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, BrokerClientError):
        return Problem.of(error).response()
    if isinstance(error, Invalid):
        return Problem(422, error.summary).response(errors=error.shown)
    if isinstance(error, BadModel | WrongDigest):
        return Problem(422, str(error)).response()
    if isinstance(error, BlobInUse | ModelExists | ModelInUse | ModelReplaced):
        return Problem(409, str(error)).response()
    if isinstance(error, TooLarge):
        return Problem(413, str(error)).response()
    if isinstance(error, TooManySubscribers):
        return Problem(503, str(error), headers={"retry-after": "10"}).response()
    if isinstance(error, StreamRefused):
        return Problem(503, str(error)).response()
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
    if isinstance(error, BrokerClientError):
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
    if isinstance(error, BrokerClientError | Unconfirmed):
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
