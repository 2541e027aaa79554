"""The errors of the package.

StreamfleetError
├── BadSetting: a URL, token, CA file, fingerprint or key file that cannot be used
├── MissingPackage: an optional dependency is not installed; an ImportError too
├── Unreachable: no answer in time
├── UnexpectedAnswer: the server is not a Streamfleet api, or of another version
├── NothingReceived: a stream was silent for longer than its timeout; a TimeoutError too
└── ApiError: the api refused the request
    ├── Unauthorized: 401 and 403
    ├── NotFound: 404
    ├── Conflict: 409
    ├── PreconditionFailed: 412
    ├── Invalid: 400, 415 and 422
    └── Unavailable: 429 and everything from 500
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class StreamfleetError(Exception):
    """The base of all errors of this package."""


class BadSetting(StreamfleetError):
    """A setting that cannot be used.

    Attributes:
        setting: Its name, as `token`.
        problem: What was expected, and what was given.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class MissingPackage(StreamfleetError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        package: The module that is missing.
        extras: What to install: `pip install 'streamfleet[EXTRAS]'`.
    """

    def __init__(self, feature: str, package: str, extras: str) -> None:
        target = f"'streamfleet[{extras}]'" if extras else "streamfleet"
        super().__init__(f"{feature} needs {package}, which is not installed: pip install {target}")
        self.package = package
        self.extras = extras


class Unreachable(StreamfleetError):
    """No answer in time. A change may have been made, unless `was_sent` is false.

    Attributes:
        was_sent: Whether the request may have reached the server.
    """

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class UnexpectedAnswer(StreamfleetError):
    """The server is not a Streamfleet api, or one of another version.

    Attributes:
        problem: What is wrong, as `it answers HTTP 404`.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"expected the answer of a Streamfleet api: {problem}")
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
    """One wrong value of a request.

    Attributes:
        loc: Its place, as `("body", "sources", 0)`.
        msg: What was expected.
        type: A word for programs, as `string_pattern_mismatch`.
        input: What was given; None if the api does not repeat it.
    """

    loc: tuple[str | int, ...]
    msg: str
    type: str
    input: Any = None

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.loc))}: {self.msg}"


class ApiError(StreamfleetError):
    """The api refused a request: the fields of its problem document (RFC 9457).

    Attributes:
        status: The status of HTTP.
        title: Its name, as `Not Found`.
        detail: Why, for people.
        errors: Each wrong value with its place; empty unless the request was invalid.
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
    """The present state does not allow it, or the name is in use (409)."""


class PreconditionFailed(ApiError):
    """The pipeline has another version than `if_match` (412)."""


class Invalid(ApiError):
    """The request is wrong: `errors` lists each value (400, 415, 422)."""


class Unavailable(ApiError):
    """The api or the broker behind it cannot answer now, or was asked too often (429, 5xx)."""


_CLASSES: dict[int, type[ApiError]] = {
    **dict.fromkeys((400, 415, 422), Invalid),
    **dict.fromkeys((401, 403), Unauthorized),
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    429: Unavailable,
}


def api_error(status: int, title: str, detail: str, errors: tuple[FieldError, ...] = ()) -> ApiError:
    """The error of this status."""
    of = _CLASSES.get(status, Unavailable if status >= 500 else ApiError)
    return of(status, title, detail, errors)
