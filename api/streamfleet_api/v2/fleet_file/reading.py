"""Reads a file of a fleet. Each error has the place of its value in the file. Pure, as far as pydantic is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from streamfleet_api.v2.fleet_file.change_set import MANAGER
from streamfleet_api.v2.fleet_file.requests import FilePipeline, FleetFile
from streamfleet_api.v2.mapping import with_credentials
from streamfleet_core.documents.errors import MAX_FINDINGS, BadDocument, Finding
from streamfleet_core.documents.node import Node
from streamfleet_core.documents.templates import expand
from streamfleet_core.protocol.limits import MAX_LABELS
from streamfleet_core.protocol.source_reference import shown_value
from streamfleet_core.protocol.values import SourceSpec

_SHOULD = re.compile(r"(Input|String|List|Dictionary) should (be |have |(?=match))")  # how pydantic begins
MERGED = frozenset({"labels", "selector"})  # keys of a pipeline whose entries a template shares

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file whose outer part is valid, with its pipelines after their templates."""

    root: Node
    file: FleetFile
    pipelines: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ReadPipeline:
    """A valid pipeline, and where it stands."""

    request: FilePipeline
    node: Node  # after its template


def read_file(root: Node) -> ReadFile:
    """Read the outer part of a file, and expand its templates. Raises: BadDocument."""
    if not isinstance(root.value, dict):
        raise BadDocument(root.wrong("an object with 'pipelines'", got=root.plain))
    file = _validated(root, FleetFile)
    templates = root.entries["templates"].entries if "templates" in root.entries else {}
    wrong = chain(_unknown_keys(templates.values()), _duplicates(root))
    if findings := list(islice(wrong, MAX_FINDINGS)):
        raise BadDocument(*findings)
    pipelines = root.entries.get("pipelines", Node(()))
    return ReadFile(root, file, tuple(expand(pipelines, templates, MERGED)))


def read_pipelines(read: ReadFile, stored: Mapping[str, tuple[SourceSpec, ...]]) -> tuple[ReadPipeline, ...]:
    """The pipelines of a file. `stored`: the sources of those that are there, with their credentials.

    Raises: BadDocument.
    """
    found: list[ReadPipeline] = []
    findings: list[Finding] = []
    for each in read.pipelines:
        try:
            found.append(_pipeline(each, stored, read.file.manager))
        except BadDocument as exc:  # noqa: PERF203 - each has its own
            findings += exc.findings
    if findings:
        raise BadDocument(*findings[:MAX_FINDINGS])
    return tuple(found)


def _pipeline(node: Node, stored: Mapping[str, tuple[SourceSpec, ...]], manager: str | None) -> ReadPipeline:
    plain = node.plain
    known = stored.get(plain["id"], ()) if isinstance(plain.get("id"), str) else ()
    if isinstance(plain.get("sources"), list):
        plain["sources"] = [
            with_credentials(source, known[number : number + 1])
            for number, source in enumerate(plain["sources"])
        ]
    request = _validated(node, FilePipeline, plain)
    labels = node.entries.get("labels", node)
    if MANAGER in request.labels:
        where = labels.entries[MANAGER]
        text = f"no label {MANAGER!r}: the key {MANAGER!r} of the file gives it to all"
        raise BadDocument(where.wrong(text, at_key=True, got=MANAGER))
    if manager is not None and len(request.labels) >= MAX_LABELS:
        text = f"at most {MAX_LABELS - 1} labels beside {MANAGER!r}"
        raise BadDocument(labels.wrong(text, got=len(request.labels)))
    return ReadPipeline(request, node)


def _validated(node: Node, of: type[B], plain: Any = None) -> B:
    try:
        return of.model_validate(node.plain if plain is None else plain)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False)[:MAX_FINDINGS]
        raise BadDocument(*(_finding(node, error, of) for error in errors)) from exc


def _finding(root: Node, error: Any, of: type[BaseModel]) -> Finding:
    place: list[str | int] = list(error["loc"])
    node = root.find(place)
    kind, got = error["type"], error["input"]
    if kind == "missing":
        return node.wrong(f"an object with the key {place[-1]!r}", kind=kind, got="none")
    if kind == "extra_forbidden":
        text = f"one of the known keys{_suggestion(str(place[-1]), of) if len(place) == 1 else ''}"
        return node.wrong(text, kind=kind, at_key=True, got=str(place[-1])[:80])
    expected = _SHOULD.sub("", error["msg"]).replace("match pattern", "a text that matches", 1)
    if isinstance(got, str):
        got = shown_value(got)[:80]
    elif got is None:
        got = "null"
    return node.wrong(expected, kind=kind, at_key=place[-1:] == ["[key]"], got=got)


def _suggestion(name: str, of: type[BaseModel]) -> str:
    close = get_close_matches(name, of.model_fields, n=1)
    return f", perhaps {close[0]!r}" if close else f": {', '.join(of.model_fields)}"


def _unknown_keys(templates: Iterable[Node]) -> Iterator[Finding]:
    known = {*FilePipeline.model_fields, "parameters"} - {"id"}
    for template in templates:
        for key, child in template.entries.items():
            if key not in known:
                yield child.wrong(
                    f"one of the known keys{_suggestion(key, FilePipeline)}",
                    kind="extra_forbidden",
                    at_key=True,
                    got=key,
                )


def _duplicates(root: Node) -> Iterator[Finding]:
    """Objects that stand twice in their list."""
    for part, name in (("models", "id"), ("devices", "name"), ("pipelines", "id")):
        seen: dict[Any, int] = {}
        for item in root.items_of(part):
            given = item.entries.get(name)
            if given is None or not isinstance(given.value, str):
                continue
            if given.value in seen:
                first = seen[given.value]
                where = f", first in line {first}" if first else ""
                yield given.wrong(f"each {name} once{where}", kind="duplicate")
            seen.setdefault(given.value, given.line)
