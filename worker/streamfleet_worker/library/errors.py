"""The errors of the library.

LibraryError
├── SourceConnectionError           a source delivered no picture at the start
├── StreamOperationNotAllowedError  not in this state, or there is no such source
├── BadPrediction                   a model or a function returned an invalid result
└── UnknownModel                    no such model (models.py)
"""

from __future__ import annotations

from streamfleet_core.protocol.status import SourceCause


class LibraryError(Exception):
    """The base of all errors of the library."""


class SourceConnectionError(LibraryError):
    """A source delivered no picture at the start. Later failures are retried. Shows no credentials."""

    def __init__(self, reason: str, *, source_id: int, cause: SourceCause) -> None:
        super().__init__(reason)
        self.source_id = source_id
        self.cause = cause


class StreamOperationNotAllowedError(LibraryError):
    """The operation is not possible in this state, or for this source."""


class BadPrediction(LibraryError):
    """A model, or the function used instead of one, returned an invalid result."""
