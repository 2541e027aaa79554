"""What commands have in common: where the fleet is, and how they fail.

CommandFailed
├── Unreachable: nobody answered
└── Rejected: the api answered that it will not
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_DATA_DIR = "~/.streamfleet"


class CommandFailed(Exception):
    """What went wrong, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Unreachable(CommandFailed):
    """Nobody answered: asking again later may help."""


class Rejected(CommandFailed):
    """The api answered that it will not. `errors` are those of a problem document, one a wrong value."""

    def __init__(
        self, status: int, message: str, hint: str = "", errors: Sequence[dict[str, Any]] = ()
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.errors = errors
