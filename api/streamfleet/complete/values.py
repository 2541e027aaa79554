"""What a complete subscription yields besides predictions, and where it stands. Pure but for the file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from streamfleet.errors import BadSetting
from streamfleet_core.peers.replay import Key
from streamfleet_core.runtime.small_file import FileTooLarge, read_small

MAX_FILE = 4 * 1024**2  # bytes: many times the largest checkpoint

_VERSION = 1

GapCause = Literal["age", "size", "unwritten", "restart", "away", "reset"]
_TEXTS: dict[GapCause, str] = {
    "age": "older than the device keeps them",
    "size": "the device had no room for more",
    "unwritten": "the device did not get them to its store",
    "restart": "the device kept them in memory, and its publisher started again",
    "away": "their device does not answer",
    "reset": "the fleet began to count from the start",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Predictions of a pipeline that will not come, at this place of its order.

    Attributes:
        pipeline_id: The id of the pipeline.
        count: Their number. None: unknown, and it may be none at all.
        cause: `age`: older than the device keeps them. `size`: beyond its limit in bytes. `unwritten`: they
            never reached its store. `restart`: they were in memory, and the publisher started again.
            `away`: their device did not answer in time. `reset`: the fleet began to count from the start.
        device: The device that had them. None: unknown.
        generation: The generation of the first one, or of the prediction before it if that is unknown.
        incarnation: The incarnation, likewise.
        first: The sequence number of the first one. None: unknown.
    """

    pipeline_id: str
    count: int | None
    cause: GapCause
    device: str | None
    generation: int
    incarnation: int
    first: int | None

    def __str__(self) -> str:
        """One sentence for a log."""
        count = "an unknown number of" if self.count is None else str(self.count)
        where = f" on {self.device}" if self.device else ""
        return f"{self.pipeline_id}: {count} predictions{where} are gone: {_TEXTS[self.cause]}"


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The last prediction of a pipeline that was delivered."""

    generation: int
    incarnation: int
    sequence: int
    device: str | None

    @property
    def key(self) -> Key:
        """Its key."""
        return (self.generation, self.incarnation, self.sequence)


class _Document(msgspec.Struct):
    version: int
    positions: dict[str, Position]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a subscription has come, by pipeline. Store it with what you made of the predictions.

    Example:
        ```python
        text = predictions.checkpoint.encode()  # in the same transaction as your results
        ```
    """

    positions: Mapping[str, Position] = field(default_factory=dict)

    def encode(self) -> str:
        """Encode as JSON, in one line."""
        return msgspec.json.encode(_Document(_VERSION, dict(self.positions))).decode()

    @classmethod
    def decode(cls, text: str | bytes) -> Checkpoint:
        """Decode. Raises: BadSetting."""
        try:
            document = msgspec.json.decode(text, type=_Document)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise BadSetting("since", f"expected a checkpoint of `subscribe`: {exc}") from exc
        if document.version != _VERSION:
            raise BadSetting("since", f"expected a checkpoint of version {_VERSION}, got {document.version}")
        return cls(document.positions)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file; without one, start with nothing. Raises: BadSetting."""
        try:
            first, *later = read_small(path, most=MAX_FILE).split(b"\n")
            del later[-1:]  # it was not written whole, or is empty
        except FileNotFoundError:
            return cls()
        except (OSError, FileTooLarge) as exc:
            raise BadSetting("since", f"{path}: {exc}") from exc
        positions = dict(cls.decode(first).positions)
        with contextlib.suppress(msgspec.MsgspecError, ValueError):  # after a power cut
            for line in later:
                positions |= msgspec.json.decode(line, type=dict[str, Position])
        return cls(positions)
