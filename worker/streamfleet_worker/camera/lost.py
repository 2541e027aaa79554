"""Why there is no picture from a source: one error, with a cause in a word and a reason for people."""

from __future__ import annotations

from streamfleet_broker.protocol.status import SourceCause


class SourceLost(Exception):
    """There is no picture from a source. The text says why, and shows no credentials."""

    def __init__(self, cause: SourceCause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
