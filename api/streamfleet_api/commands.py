"""What commands have in common: where the fleet is, and how they fail."""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:8080"


class CommandFailed(Exception):
    """What went wrong, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
