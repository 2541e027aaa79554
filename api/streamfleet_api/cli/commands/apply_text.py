"""Describes what a file of a fleet changes, for the command line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfleet.results import AppliedObject, FieldChange

_SIGNS = {"create": "+", "update": "~", "delete": "-"}
_LONGEST = 100  # characters of a value


def plan_lines(objects: Iterable[AppliedObject]) -> Iterator[str]:
    """A line for each object that changes."""
    for each in objects:
        if each.action != "none":
            yield f"{_SIGNS[each.action]} {_name(each)}{_what(each)}"


def _what(each: AppliedObject) -> str:
    if each.problem:
        return ": refused"
    if each.action == "delete":
        return ": removed"
    place = f" on {each.device}" if each.device else ""
    if each.action == "create":
        waits = each.kind == "pipeline" and not each.device
        return f": new{place}{', waits for a device with room' if waits else ''}"
    changes = ", ".join(map(_change, each.changes))
    if each.kind != "pipeline":
        return f": {changes}"
    return f": {changes} ({f'restarts{place}' if each.restarts else 'goes on'})"


def _change(change: FieldChange) -> str:
    return f"{change.field} {_text(change.before)} → {_text(change.after)}"


def diff_lines(objects: Iterable[AppliedObject]) -> Iterator[str]:
    """The values that differ, each under its object."""
    for each in objects:
        if each.action != "update":
            yield f"{_SIGNS[each.action]} {_name(each)}"
            continue
        yield f"  {_name(each)}"
        for change in each.changes:
            yield f"-   {change.field}: {_text(change.before)}"
            yield f"+   {change.field}: {_text(change.after)}"


def summary(objects: Sequence[AppliedObject], *, is_plan: bool) -> str:
    """How many objects change in which way."""
    well = [each for each in objects if not each.problem]
    words = (
        {"create": "to create", "update": "to change", "delete": "to remove", "none": "unchanged"}
        if is_plan
        else {"create": "created", "update": "changed", "delete": "removed", "none": "unchanged"}
    )
    counts = [(sum(each.action == action for each in well), word) for action, word in words.items()]
    refused = len(objects) - len(well)
    parts = [f"{count} {word}" for count, word in (*counts, (refused, "refused")) if count]
    return ", ".join(parts) or "nothing to do"


def _name(each: AppliedObject) -> str:
    return each.id if each.kind == "pipeline" else f"{each.kind} {each.id}"


def _text(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
