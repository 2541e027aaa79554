"""Pipelines in the words of people: a prefix of an id, a state, its reason."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING

from streamfleet_api.cli.confirmation import listed
from streamfleet_api.cli.context import did_you_mean
from streamfleet_api.client.errors import CommandFailed, DoesNotPredict, NotInTime, Rejected

if TYPE_CHECKING:
    from streamfleet.results import Pipeline
    from streamfleet_api.client.http_client import Client

SHORTEST = 8  # characters of an id
SETTLING = 3.0  # seconds in which a source that can be opened is open
_STALE = 5.0  # seconds after which a rate says nothing of the present any more
_EVERY = 0.1  # seconds between two looks
_WELL = ("starting", "running", "paused", "ended")


def find(given: str, entries: Iterable[Pipeline]) -> Pipeline:
    """Find a pipeline by its id or a unique prefix. Raises: CommandFailed."""
    matches, ids = [], []
    for entry in entries:
        ids.append(entry.pipeline_id)
        if ids[-1] == given:
            return entry
        if given and ids[-1].startswith(given):
            matches.append(entry)
    if not matches:
        hint = did_you_mean(given, ids) or "'streamfleet pipelines' lists them"
        raise CommandFailed(f"no pipeline {given or repr(given)}", hint)
    if len(matches) > 1:
        possible = listed([match.pipeline_id for match in matches])
        raise CommandFailed(f"{given} may be any of {possible}", "give more of the id")
    return matches[0]


def look_up(client: Client, pipeline_id: str) -> Pipeline | None:
    """The pipeline with this id, None when there is none. Raises: CommandFailed."""
    try:
        return client.get_pipeline(pipeline_id)
    except Rejected as exc:
        if exc.status == 404:
            return None
        raise


def matching(given: str, entries: Sequence[Pipeline]) -> list[Pipeline]:
    """The pipeline that is meant, or all whose ids meet a pattern as `hall-*`. Raises: CommandFailed."""
    if not set(given) & set("*?["):
        return [find(given, entries)]
    found = [entry for entry in entries if fnmatchcase(entry.pipeline_id, given)]
    if not found:
        raise CommandFailed(f"no pipeline meets {given}", "'streamfleet pipelines' lists them")
    return found


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """For each id its shortest unique prefix, of at least 8 characters."""
    ordered = sorted(ids)
    lengths = dict.fromkeys(ordered, SHORTEST)
    for one, other in pairwise(ordered):  # the longest common prefix is with a neighbour
        unique = len(commonprefix((one, other))) + 1  # noqa: RUF071 - of characters, not of folders
        lengths[one] = max(lengths[one], unique)
        lengths[other] = max(lengths[other], unique)
    return {each: each[:length] for each, length in lengths.items()}


def rate(entry: Pipeline) -> str:
    """Frames per second; empty without a recent status."""
    return "" if entry.fps is None or is_stale(entry.age) else f"{entry.fps:.1f}"


def is_stale(age: float | None) -> bool:
    """Return whether a report of this age in seconds is outdated."""
    return age is not None and age > _STALE


def place(entry: Pipeline) -> str:
    """The status of a pipeline and its device."""
    return f"{entry.status} on {entry.device or 'no device yet'}"


def settle(client: Client, pipeline_id: str) -> Pipeline | None:
    """Wait up to 3 s until a new pipeline is no longer starting, and return it.

    None: the API did not report it; the pipeline exists nevertheless.
    """
    deadline = time.monotonic() + SETTLING
    while True:
        try:
            entry = look_up(client, pipeline_id)
        except CommandFailed:
            return None
        if entry is None or _says_something(entry) or time.monotonic() > deadline:
            return entry
        time.sleep(_EVERY)


def predicting(client: Client, pipeline_id: str, seconds: float) -> Pipeline:
    """A pipeline as soon as it predicts, or is as it is to be: paused, or at the end of its film.

    An api or a broker that is away for a moment may return in time. Raises: DoesNotPredict, NotInTime.
    """
    deadline = time.monotonic() + seconds
    why = ""
    while True:
        try:
            entry = look_up(client, pipeline_id)
        except CommandFailed as exc:
            why = str(exc)
        else:
            if entry is None:
                raise DoesNotPredict(f"{pipeline_id} was terminated meanwhile")
            if entry.status == "failed":
                raise DoesNotPredict(trouble(entry))
            if entry.status in ("ended", "paused") or (entry.status == "running" and entry.emitted):
                return entry
            why = f"{entry.status}{': ' if entry.reason else ''}{entry.reason}"
        if time.monotonic() > deadline:
            again = f"'streamfleet status {pipeline_id}' tells how it goes on"
            raise NotInTime(f"expected {pipeline_id} to predict within {seconds:g} s, it is {why}", again)
        time.sleep(_EVERY)


def _says_something(entry: Pipeline) -> bool:
    return bool(entry.status not in ("starting", "pending") or entry.reason)


def silence(entry: Pipeline) -> str:
    """Why a pipeline sends nothing until it is changed; empty if it may send something."""
    if entry.status not in ("ended", "failed", "paused"):
        return ""
    again = "resume" if entry.status == "paused" else "restart"
    because = f": {entry.reason}" if entry.reason else ""
    hint = f"'streamfleet {again} {entry.pipeline_id}' lets it go on"
    return f"{entry.pipeline_id} is {entry.status}{because}; {hint}"


def trouble(entry: Pipeline) -> str:
    """The problem of a pipeline that does not run as it should; empty without one."""
    if entry.status in _WELL and not entry.reason:
        return ""
    return f"{entry.pipeline_id} is {entry.status}: {entry.reason or 'no reason is known yet'}"
