"""The account of one pipeline: what was made, and what became of it. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Key = tuple[int, int, int]  # generation, incarnation, sequence number


@dataclass(frozen=True, slots=True)
class Told:
    """A gap, as the subscriber was told of it."""

    device: str | None
    cause: str
    generation: int
    incarnation: int
    first: int | None
    count: int | None  # None: unknown


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the predictions of one pipeline. All that is wrong is a number above 0."""

    made: int
    delivered: int  # different ones
    repeated: int  # once more directly after itself, as after a kill
    doubled: int  # once more at another place
    misplaced: int  # before an earlier one
    foreign: int  # never made
    gone: Mapping[str, int]  # not delivered and told, by cause
    told_falsely: int  # told to be gone, by number, and delivered or never made
    unexplained: tuple[Key, ...] = field(repr=False)  # neither delivered nor told


def account(made: Mapping[Key, str], got: Iterable[Key | Told]) -> Account:
    """Compare what was made, with the device of each, with what a subscriber got, in its order."""
    counted: dict[Key, str] = {}
    unknown: list[tuple[Key, Key | None, Told]] = []  # after which key, before which one
    keys: list[Key] = []
    at: Key = (0, 0, -1)
    repeated = 0
    for each in got:
        if isinstance(each, Told) and (each.count is None or each.first is None):
            unknown.append((at, None, each))
            continue
        if isinstance(each, Told):
            assert each.first is not None
            assert each.count is not None
            run = (each.generation, each.incarnation)
            counted |= {(*run, each.first + more): each.cause for more in range(each.count)}
            at = (*run, each.first + each.count - 1)
        elif keys and keys[-1] == each:
            repeated += 1
            continue
        else:
            keys.append(each)
            at = each
        unknown = [(after, at if before is None else before, gap) for after, before, gap in unknown]
    delivered = set(keys)
    gone: Counter[str] = Counter()
    unexplained = []
    for key in sorted(made.keys() - delivered):
        cause = counted.get(key) or _cause(key, made[key], unknown)
        if cause is None:
            unexplained.append(key)
        else:
            gone[cause] += 1
    return Account(
        made=len(made),
        delivered=len(delivered),
        repeated=repeated,
        doubled=len(keys) - len(delivered),
        misplaced=sum(later < earlier for earlier, later in itertools.pairwise(keys)),
        foreign=len(delivered - made.keys()),
        gone=gone,
        told_falsely=sum(key in delivered or key not in made for key in counted),
        unexplained=tuple(unexplained),
    )


def _cause(key: Key, device: str, unknown: Sequence[tuple[Key, Key | None, Told]]) -> str | None:
    """The cause that was told for this place without a number, and for this device."""
    for after, before, gap in unknown:
        if after < key and (before is None or key < before) and gap.device in (None, device):
            return gap.cause
    return None


def spans(keys: Sequence[Key]) -> str:
    """Sorted keys as text, for who looks for what is missing."""
    found: list[str] = []
    rest = list(keys)
    while rest:
        first = rest[0]
        run = [key for key in rest if key[:2] == first[:2]]
        at = next((n for n, key in enumerate(run) if key[2] != first[2] + n), len(run))
        found.append(f"{first[0]}-{first[1]}-{first[2]}..{run[at - 1][2]}")
        rest = rest[at:]
    return ", ".join(found)
