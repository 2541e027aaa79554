"""What must be random, and is therefore not made where decisions are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, as Z85 text."""

    public: str
    secret: str = field(repr=False)


class Supply(Protocol):
    """What must be random, and therefore cannot be made here."""

    def session(self) -> bytes:
        """16 bytes."""

    def ticket(self) -> str:
        """A secret of 128 bits or more."""

    def key_pair(self) -> KeyPair:
        """A new key pair."""
