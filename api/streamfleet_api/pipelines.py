"""Pipelines in the words of people: a prefix of an id, a state, its reason."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from streamfleet_api.commands import CommandFailed
from streamfleet_api.settings import did_you_mean

if TYPE_CHECKING:
    from streamfleet_api.client import Client

Entry = dict[str, Any]  # one of `GET /v2/pipelines`

SHORTEST = 8  # characters of an id
SETTLING = 3.0  # seconds in which a source that can be opened is open
STALE = 5.0  # seconds after which a rate says nothing of the present any more
_EVERY = 0.1  # seconds between two looks
_WELL = ("starting", "running", "paused", "ended")


def find(given: str, entries: Iterable[Entry]) -> Entry:
    """The pipeline of this id, or the only one whose id begins so. Raises: CommandFailed."""
    matches, ids = [], []
    for entry in entries:
        ids.append(entry["pipeline_id"])
        if ids[-1] == given:
            return entry
        if given and ids[-1].startswith(given):
            matches.append(entry)
    if not matches:
        hint = did_you_mean(given, ids) or "'streamfleet pipelines' lists them"
        raise CommandFailed(f"no pipeline {given or repr(given)}", hint)
    if len(matches) > 1:
        possible = ", ".join(match["pipeline_id"] for match in matches)
        raise CommandFailed(f"{given} may be any of {possible}", "give more of the id")
    return matches[0]


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """For each id its shortest prefix, of at least 8 characters, that no other id begins with."""
    ordered = sorted(ids)
    lengths = dict.fromkeys(ordered, SHORTEST)
    for one, other in pairwise(ordered):  # whoever shares most with an id stands beside it
        unique = len(commonprefix((one, other))) + 1  # noqa: RUF071 - of characters, not of folders
        lengths[one] = max(lengths[one], unique)
        lengths[other] = max(lengths[other], unique)
    return {each: each[:length] for each, length in lengths.items()}


def rate(entry: Entry) -> str:
    """Frames a second; nothing when nobody told lately."""
    return "" if entry["fps"] is None or entry["age"] > STALE else f"{entry['fps']:.1f}"


def place(entry: Entry) -> str:
    """What it does, and where."""
    return f"{entry['status']} on {entry['device'] or 'no device yet'}"


def settle(client: Client, pipeline_id: str) -> Entry | None:
    """A new pipeline as soon as its state says more than that it starts, or as it is after 3 s.

    None when the api does not tell: the pipeline is there all the same.
    """
    from streamfleet_api.client import path_of

    path = path_of("v2", "pipelines", pipeline_id)
    deadline = time.monotonic() + SETTLING
    while True:
        try:
            entry: Entry | None = client.find(path)
        except CommandFailed:
            return None
        if entry is None or _says_something(entry) or time.monotonic() > deadline:
            return entry
        time.sleep(_EVERY)


def _says_something(entry: Entry) -> bool:
    return bool(entry["status"] not in ("starting", "pending") or entry["reason"])


def trouble(entry: Entry) -> str:
    """What is wrong with a pipeline that does not run as it should; nothing when all is well."""
    if entry["status"] in _WELL and not entry["reason"]:
        return ""
    return f"{entry['pipeline_id']} is {entry['status']}: {entry['reason'] or 'no reason is known yet'}"
