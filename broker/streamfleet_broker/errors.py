"""Errors that prevent a broker from starting or running. Operators see only their text.

BrokerError
├── BadConfig: an option that cannot be used
├── CannotBind: an address that is taken, or not ours
├── BadKey: a key file that is not what it should be
├── StoreUnusable: a store that cannot be opened
├── StoreDown: a store that took no write; it may do so later
├── Fenced: another broker leads the fleet, or may do so
├── BadBackup: a backup that cannot be written, or put back
├── NoAnswer: a broker that does not answer the health check
└── RelayDied: a relay thread that ended by itself
"""

from __future__ import annotations

from pathlib import Path


class BrokerError(Exception):
    """A condition outside of the broker prevents it from running."""


class BadConfig(BrokerError):
    """An option that cannot be used."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


class CannotBind(BrokerError):
    """An address that is taken, or not ours."""

    def __init__(self, option: str, endpoint: str, reason: str) -> None:
        super().__init__(f"{option}: cannot listen on {endpoint}: {reason}")
        self.option = option
        self.endpoint = endpoint
        self.reason = reason


class BadKey(BrokerError):
    """A key file that is not what it should be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: expected a CURVE key pair, {reason}")
        self.path = path
        self.reason = reason


class StoreUnusable(BrokerError):
    """A store that cannot be opened.

    `place`: its path, or its URL without secrets.
    """

    def __init__(self, place: Path | str, reason: str, *, option: str = "--data-dir") -> None:
        super().__init__(f"{option}: {place}: {reason}")
        self.place = place
        self.reason = reason


class StoreDown(BrokerError):
    """A store that took no write. Nothing of it is there."""

    def __init__(self, place: Path | str, reason: str) -> None:
        super().__init__(f"{place}: cannot write: {reason}")
        self.place = place
        self.reason = reason


class Fenced(BrokerError):
    """Another broker leads the fleet, or may do so: this one must not write, answer or assign any more."""

    def __init__(self, place: Path | str, reason: str) -> None:
        super().__init__(f"{place}: no longer the leader: {reason}")
        self.place = place
        self.reason = reason


class BadBackup(BrokerError):
    """A backup that cannot be written, or put back."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class RelayDied(BrokerError):
    """A relay thread that ended by itself. Nothing is relayed any more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has ended")
        self.name = name


class NoAnswer(BrokerError):
    """A broker that does not answer the health check."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"the broker at {endpoint} does not answer: {reason}")
        self.endpoint = endpoint
        self.reason = reason
