"""Pipelines in the words of people: a prefix of an id, a state, its reason, what it does not allow."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from streamfleet_api.commands import CommandFailed

if TYPE_CHECKING:
    from streamfleet_api.client import Client

Entry = dict[str, Any]  # one of `GET /v2/pipelines`

SHORTEST = 8  # characters of an id
SETTLING = 3.0  # seconds in which a source that can be opened is open
STALE = 5.0  # seconds after which a rate says nothing of the present any more
_EVERY = 0.1  # seconds between two looks
_OVER = ("ended", "failed")
_WELL = ("starting", "running", "paused", "ended")


def find(given: str, entries: Iterable[Entry]) -> Entry:
    """The pipeline of this id, or the only one whose id begins so. Raises: CommandFailed."""
    matches = []
    for entry in entries:
        if entry["pipeline_id"] == given:
            return entry
        if given and entry["pipeline_id"].startswith(given):
            matches.append(entry)
    if not matches:
        raise CommandFailed(f"no pipeline {given or repr(given)}", "'streamfleet pipelines' lists them")
    if len(matches) > 1:
        ids = ", ".join(match["pipeline_id"] for match in matches)
        raise CommandFailed(f"{given} may be any of {ids}", "give more of the id")
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


def why_not(verb: str, entry: Entry) -> CommandFailed | None:
    """Why a pipeline in this state cannot be paused or resumed; None when the state is no reason."""
    pipeline_id, status = entry["pipeline_id"], entry["status"]
    if status in _OVER:
        because = f" ({entry['reason']})" if entry["reason"] else ""
        return CommandFailed(f"{pipeline_id} has {status}{because}", "start it again with 'streamfleet init'")
    if (verb, status) in (("pause", "paused"), ("resume", "running")):
        return CommandFailed(f"{pipeline_id} is {status} already")
    if verb == "resume" and entry["want"] == "run":
        return CommandFailed(f"{pipeline_id} is not paused, it is {status}")
    return None


def change(client: Client, verb: str, pipeline_id: str) -> Any:
    """Pause, resume or terminate; the answer. Raises: CommandFailed."""
    from streamfleet_api.client import path_of

    try:
        return client.send("POST", path_of(verb, pipeline_id))
    except CommandFailed as exc:
        raise why_not(verb, find(pipeline_id, client.list("pipelines"))) or exc from exc


def settle(client: Client, pipeline_id: str) -> Entry | None:
    """A new pipeline as soon as its state says more than that it starts, or as it is after 3 s.

    None when the api does not tell: the pipeline is there all the same.
    """
    deadline = time.monotonic() + SETTLING
    while True:
        try:
            entries = client.list("pipelines")
        except CommandFailed:
            return None
        entry = next((each for each in entries if each["pipeline_id"] == pipeline_id), None)
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
