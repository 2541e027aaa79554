"""What can be wrong with bytes from a peer.

ProtocolError
├── BadMessage: a control message that is not what it should be
├── BadData: a data plane message that is not what it should be
├── BadToken: a join token that cannot be read
├── KeyExposed: a private file that others may read (`keyfile`)
└── NoSampleName: a text that cannot name a sample (`spool`)
"""

from __future__ import annotations

MAX_CAME = 300  # characters of what a peer sent, in a text about it


class ProtocolError(Exception):
    """The peer sent something that this protocol does not know."""


class BadMessage(ProtocolError):
    """A control message that cannot be read: says what was expected and what came."""

    def __init__(self, expected: str, came: str) -> None:
        came = came[:MAX_CAME]
        super().__init__(f"expected {expected}, got {came}")
        self.expected = expected
        self.came = came


class BadData(ProtocolError):
    """A data plane message that cannot be read: says what was expected and what came."""

    def __init__(self, expected: str, came: str) -> None:
        came = came[:MAX_CAME]
        super().__init__(f"expected {expected}, got {came}")
        self.expected = expected
        self.came = came


class BadToken(ProtocolError):
    """A join token that cannot be read, because it was cut, mistyped or made for something else."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a join token: {reason}; it is one line that begins with 'sf1.'")
        self.reason = reason
