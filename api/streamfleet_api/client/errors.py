"""Defaults and errors of the command line.

CommandFailed
├── DoesNotPredict: `run --wait` waits in vain
├── NotInTime: `run --wait` waited long enough
├── Unreachable: no answer
└── Rejected: the api answered that it will not
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamfleet.errors import FieldError


class CommandFailed(Exception):
    """A failure, with a hint what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class DoesNotPredict(CommandFailed):
    """A pipeline has failed: waiting longer does not help."""

    exit_code = 3


class NotInTime(CommandFailed):
    """A pipeline has not predicted within the time; it may still."""

    exit_code = 4


class Unreachable(CommandFailed):
    """No answer. Trying again later may help."""


class Rejected(CommandFailed):
    """The api answered that it will not. `errors` are those of a problem document, one a wrong value."""

    def __init__(self, status: int, message: str, hint: str = "", errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message, hint)
        self.status = status
        self.errors = errors
