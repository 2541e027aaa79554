"""The error of a source: a cause in one word, and a reason for users."""

from __future__ import annotations

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import SourceCause


class SourceLost(Exception):
    """A source delivers no pictures. The text is the reason, shortened and without credentials."""

    def __init__(self, cause: SourceCause, reason: str) -> None:
        super().__init__(shown_reason(reason))
        self.cause = cause
