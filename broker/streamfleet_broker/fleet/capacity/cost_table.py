"""The costs that devices have measured, by model and kind of device. Pure.

Several devices of a kind measure the same cost: the median of their figures holds, so that one that is
wrong or slow changes little. A cost replaces the one in use only if it differs noticeably, so that the
noise of measurements moves nothing and writes nothing.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from streamfleet_core.protocol.costs import BoardCost, Cost

MAX_OF_MODEL = 16  # costs of one model on one board: variants, decoders, sizes of pictures
MAX_OF_BOARDS = 256  # costs of one model on all boards: a device says itself of which kind it is
MAX_KEPT = 4096  # costs in total
MAX_VOICES = 16  # devices whose figures count for one cost
NOTICEABLE = 0.1  # relative difference to the cost in use
_FIGURES = (
    "accelerator",
    "inference",
    "reading",
    "frame",
    "engine_memory",
    "camera_memory",
    "source_fps",
)

Place = tuple[str, str]  # digest of a model, board


@dataclass(slots=True)
class _Entry:
    """One cost: the one in use, and what the devices have measured last."""

    used: Cost
    voices: dict[str, Cost] = field(default_factory=dict)  # by device, the oldest first


class CostTable:
    """All known costs. The caller stores those in use."""

    def __init__(self, known: Iterable[BoardCost] = ()) -> None:
        self._entries: dict[Place, dict[tuple[object, ...], _Entry]] = {}
        self._used: dict[Place, tuple[Cost, ...]] = {}
        self._boards: defaultdict[str, set[str]] = defaultdict(set)  # by model
        self._count = 0
        for each in known:
            self._put((each.cost.digest, each.board), each.cost)

    def of(self, digest: str, board: str) -> tuple[Cost, ...]:
        """The costs of a model on a kind of device; none if it is not known."""
        return self._used.get((digest, board), ())

    def of_model(self, digest: str) -> tuple[BoardCost, ...]:
        """The costs of a model on all kinds of devices, by board."""
        boards = sorted(self._boards.get(digest, ()))
        return tuple(BoardCost(board, cost) for board in boards for cost in self.of(digest, board))

    def learn(self, device: str, board: str, costs: Iterable[Cost]) -> set[str]:
        """Take the figures of a device. Returns the models whose cost in use has changed."""
        changed = set()
        for cost in costs:
            place = (cost.digest, board)
            entry = self._entries.get(place, {}).get(_key(cost))
            if entry is None:
                if self._put(place, cost, device):
                    changed.add(cost.digest)
                continue
            entry.voices.pop(device, None)
            entry.voices[device] = cost
            while len(entry.voices) > MAX_VOICES:
                del entry.voices[next(iter(entry.voices))]
            middle = _median(tuple(entry.voices.values()), cost)
            if _differ(entry.used, middle):
                entry.used = middle
                self._refresh(place)
                changed.add(cost.digest)
        return changed

    def forget(self, digest: str) -> None:
        """Forget the costs of a model."""
        for board in self._boards.pop(digest, set()):
            self._count -= len(self._entries.pop((digest, board), {}))
            self._used.pop((digest, board), None)

    def _put(self, place: Place, cost: Cost, device: str = "") -> bool:
        entries = self._entries.get(place, {})
        if len(entries) >= MAX_OF_MODEL or self._count_of(place[0]) >= MAX_OF_BOARDS:
            return False
        while self._count >= MAX_KEPT:  # forget the model that has been known for longest
            self.forget(next(digest for digest in self._boards if digest != place[0]))
        entry = self._entries.setdefault(place, {})[_key(cost)] = _Entry(cost)
        if device:
            entry.voices[device] = cost
        self._count += 1
        self._boards[place[0]].add(place[1])
        self._refresh(place)
        return True

    def _count_of(self, digest: str) -> int:
        return sum(len(self._entries[digest, board]) for board in self._boards.get(digest, ()))

    def _refresh(self, place: Place) -> None:
        entries = self._entries[place]
        self._used[place] = tuple(entries[key].used for key in sorted(entries, key=repr))


def _key(cost: Cost) -> tuple[object, ...]:
    return cost.variant, cost.decoder, cost.width, cost.height


def _median(voices: tuple[Cost, ...], newest: Cost) -> Cost:
    """The median of each figure."""
    middle = {name: statistics.median(getattr(each, name) for each in voices) for name in _FIGURES}
    return replace(
        newest,
        **{
            **middle,
            "engine_memory": int(middle["engine_memory"]),
            "camera_memory": int(middle["camera_memory"]),
        },
    )


def _differ(used: Cost, other: Cost) -> bool:
    return any(
        abs(getattr(used, name) - getattr(other, name)) > NOTICEABLE * getattr(used, name)
        for name in _FIGURES
    )
