"""The classes that a source keeps, by the names that a model has for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_CLOSE = 0.6  # similarity of two names, from 0 to 1, as difflib measures it
_OFFERED = 3  # names
_MOST_COMPARED = 2000  # names: comparing takes about 20 µs each


def kept_indices(names: Sequence[str], labels: Sequence[str]) -> tuple[int, ...]:
    """The indices of the labels with one of these names. Several labels may have the same name."""
    wanted = frozenset(names)
    return tuple(index for index, label in enumerate(labels) if label in wanted)


def unknown_names(names: Sequence[str], labels: Sequence[str]) -> tuple[int, ...]:
    """The indices of the names that no label has."""
    known = frozenset(labels)
    return tuple(index for index, name in enumerate(names) if name not in known)


def expected_class(name: str, labels: Sequence[str]) -> str:
    """What would be right instead of a name that no label has, for users."""
    close = _closest(name, labels)
    if close:
        return f"a class of the model, as {' or '.join(map(repr, close))}"
    few = ", ".join(map(repr, labels[:_OFFERED]))
    more = f" and {len(labels) - _OFFERED} more" if len(labels) > _OFFERED else ""
    return f"a class of the model: {few}{more}" if labels else "no classes, as the model has none"


def _closest(name: str, labels: Sequence[str]) -> list[str]:
    """The labels that are most like a name, whose case does not count."""
    folded = name.casefold()
    same = [label for label in labels if label.casefold() == folded]
    if same or len(labels) > _MOST_COMPARED:
        return list(dict.fromkeys(same))[:_OFFERED]
    by_folded = {label.casefold(): label for label in reversed(labels)}
    close = get_close_matches(folded, by_folded, n=_OFFERED, cutoff=_CLOSE)
    return [by_folded[each] for each in close]
