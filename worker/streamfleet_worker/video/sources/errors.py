"""The error of a source: a cause in one word, and a reason for users."""

from __future__ import annotations

from pathlib import Path

from streamfleet_core.protocol.source_reference import redacted, shown_reason
from streamfleet_core.protocol.status import SourceCause

_PATH = 150  # characters; a reason has at most 300 bytes


class SourceLost(Exception):
    """A source delivers no pictures. The text is the reason, shortened and without credentials."""

    def __init__(self, cause: SourceCause, reason: str) -> None:
        super().__init__(shown_reason(reason))
        self.cause = cause


def shown_path(path: str | Path) -> str:
    """The end of a path without credentials, so that the reason after it is not cut off."""
    text = redacted(str(path))
    return text if len(text) <= _PATH else f"…{text[-_PATH:]}"
