"""Why there is no picture from a source: one error, with a cause in a word and a reason for people."""

from __future__ import annotations

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import SourceCause


class SourceLost(Exception):
    """There is no picture from a source. The text says why; addresses in it are redacted, and it is cut."""

    def __init__(self, cause: SourceCause, reason: str) -> None:
        super().__init__(shown_reason(reason))
        self.cause = cause
