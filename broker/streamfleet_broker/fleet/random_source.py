"""The interface to random values, which pure decisions must not generate themselves."""

from __future__ import annotations

from typing import Protocol

from streamfleet_core.protocol.values import KeyPair


class RandomSource(Protocol):
    """Generates random values."""

    def session(self) -> bytes:
        """16 bytes."""

    def ticket(self) -> str:
        """A secret of 128 bits or more."""

    def key_pair(self) -> KeyPair:
        """A new key pair."""
