"""Errors in data from a peer.

ProtocolError
├── BadMessage: an invalid control message
├── BadData: an invalid message of the data plane
├── BadToken: an invalid join token
├── KeyExposed: a private file that other users may read (`private_file`)
└── NoSampleName: a text that is not the name of a sample (`spool`)
"""

from __future__ import annotations

MAX_GOT = 300  # characters of a peer's data in an error text


class ProtocolError(Exception):
    """The peer has violated the protocol."""


class BadMessage(ProtocolError):
    """An invalid control message. The text says what was expected, and what it has."""

    def __init__(self, expected: str, got: str) -> None:
        got = got[:MAX_GOT]
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class BadData(ProtocolError):
    """An invalid message of the data plane. The text says what was expected, and what it has."""

    def __init__(self, expected: str, got: str) -> None:
        got = got[:MAX_GOT]
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class BadToken(ProtocolError):
    """An invalid join token: incomplete, mistyped, or for another purpose."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a join token: {reason}; it is one line that begins with 'sf1.'")
        self.reason = reason
