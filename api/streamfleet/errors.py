"""The errors of the package.

StreamfleetError
├── BadSetting: a URL, token, CA file, fingerprint or key file is invalid
├── MissingPackage: an optional dependency is not installed; also an ImportError
├── Unreachable: no response in time
├── UnexpectedAnswer: the server is not a Streamfleet API, or has another version
├── NothingReceived: a stream was silent for longer than its timeout; also a TimeoutError
└── ApiError: the API refused the request
    ├── Unauthorized: 401 and 403
    ├── NotFound: 404
    ├── Conflict: 409
    ├── PreconditionFailed: 412
    ├── Invalid: 400, 415 and 422
    └── Unavailable: 429 and 5xx
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class StreamfleetError(Exception):
    """The base of all errors of this package."""


class BadSetting(StreamfleetError):
    """A setting is invalid.

    Attributes:
        setting: The name of the setting, for example `token`.
        problem: What was expected, and what was given.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class MissingPackage(StreamfleetError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        package: The name of the missing module.
        extras: The extras that contain it: `pip install 'streamfleet[EXTRAS]'`.
    """

    def __init__(self, feature: str, package: str, extras: str) -> None:
        target = f"'streamfleet[{extras}]'" if extras else "streamfleet"
        super().__init__(f"{feature} needs {package}, which is not installed: pip install {target}")
        self.package = package
        self.extras = extras


class Unreachable(StreamfleetError):
    """The server did not respond in time. If `was_sent` is true, the request may have been carried out.

    Attributes:
        was_sent: Whether the request may have reached the server.
    """

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class UnexpectedAnswer(StreamfleetError):
    """The server is not a Streamfleet API, or has another version.

    Attributes:
        problem: What was received instead, for example `HTTP 404`.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"expected a response of a Streamfleet API, got {problem}")
        self.problem = problem


class NothingReceived(StreamfleetError, TimeoutError):
    """A stream was silent for longer than its timeout.

    Attributes:
        timeout: The timeout in seconds.
    """

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"no {what} within {timeout:g} s")
        self.timeout = timeout


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid value of a request.

    Attributes:
        loc: The path to the value, for example `("body", "sources", 0)`.
        msg: What was expected.
        type: An identifier for programs, for example `string_pattern_mismatch`.
        input: The given value. None: the API does not repeat it.
        line: The line of the value in a YAML document, from 1. None: the request has no lines.
        column: Its column, from 1.
    """

    loc: tuple[str | int, ...]
    msg: str
    type: str
    input: Any = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}{'.'.join(map(str, self.loc))}: {self.msg}"


class ApiError(StreamfleetError):
    """The API refused a request. The attributes are the fields of its problem document (RFC 9457).

    Attributes:
        status: The HTTP status code.
        title: The name of the status, for example `Not Found`.
        detail: The reason, for people.
        errors: Each invalid value; empty unless the request was invalid.

    Example:
        ```python
        try:
            client.put_pipeline("door", model="yolox-nano/1", sources=["rtsp://10.0.0.9/door"])
        except streamfleet.Invalid as exc:
            for error in exc.errors:
                print(error.loc, error.msg)
        ```
    """

    def __init__(self, status: int, title: str, detail: str, errors: tuple[FieldError, ...] = ()) -> None:
        wrong = "; ".join(map(str, errors))
        super().__init__(f"{status} {title}: {wrong or detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors


class Unauthorized(ApiError):
    """The token is missing, wrong, or not sent over an encrypted connection (401, 403)."""


class NotFound(ApiError):
    """No pipeline, device, model or subscriber has this name (404)."""


class Conflict(ApiError):
    """The current state does not allow the request, or the name is in use (409)."""


class PreconditionFailed(ApiError):
    """The version of the pipeline is not `if_match` (412)."""


class Invalid(ApiError):
    """The request is invalid; `errors` lists each invalid value (400, 415, 422)."""


class Unavailable(ApiError):
    """The API or its broker cannot respond now, or received too many requests (429, 5xx)."""


_CLASSES: dict[int, type[ApiError]] = {
    **dict.fromkeys((400, 415, 422), Invalid),
    **dict.fromkeys((401, 403), Unauthorized),
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    429: Unavailable,
}


def api_error(status: int, title: str, detail: str, errors: tuple[FieldError, ...] = ()) -> ApiError:
    """Return the error for an HTTP status."""
    of = _CLASSES.get(status, Unavailable if status >= 500 else ApiError)
    return of(status, title, detail, errors)
