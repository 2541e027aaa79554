"""What the library raises.

LibraryError
├── SourceConnectionError           a source gave no picture at the start
├── StreamOperationNotAllowedError  not now, or there is no such source
├── BadPrediction                   a model or a function gave what cannot be read
└── UnknownModel                    a model that is not here (models.py)
"""

from __future__ import annotations

from streamfleet_core.protocol.status import SourceCause


class LibraryError(Exception):
    """Base of all."""


class SourceConnectionError(LibraryError):
    """A source gave no picture at the start; later ones are opened again. Shows no credentials."""

    def __init__(self, reason: str, *, source_id: int, cause: SourceCause) -> None:
        super().__init__(reason)
        self.source_id = source_id
        self.cause = cause


class StreamOperationNotAllowedError(LibraryError):
    """It cannot be done in this state, or to this source."""


class BadPrediction(LibraryError):
    """A model, or a function in the place of one, gave something that cannot be read."""
