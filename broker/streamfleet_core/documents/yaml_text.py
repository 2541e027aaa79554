"""Reads YAML, and JSON as a part of it, into nodes, and writes it. Bounded before anything is built of it.

The scalars are those of YAML 1.2's core schema: `no`, `on` and `12:30` are texts, and only `true` is true.
Tags and merge keys are refused, and so is a key that stands twice in an object. An alias counts as all that
it stands for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from streamfleet_core.documents.errors import BadDocument, Finding, Path
from streamfleet_core.documents.node import Node, Scalar

MAX_TEXT_SIZE = 1_048_576  # bytes
MAX_DEPTH = 32
MAX_VALUES = 100_000  # aliases count as what they stand for
MAX_DIGITS = 300  # of a number

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL, _HEXADECIMAL = re.compile(r"0o[0-7]+"), re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
# With libyaml, a hundred times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(content: bytes) -> Node:
    """Read one document. Raises: BadDocument."""
    if len(content) > MAX_TEXT_SIZE:
        raise BadDocument(_finding(f"a document of at most {MAX_TEXT_SIZE} bytes", got=len(content)))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = content[: exc.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise BadDocument(_finding("UTF-8", line, column, got=f"byte {content[exc.start]:#04x}")) from exc
    if text.lstrip().startswith("{"):  # JSON: a tab is a space there, and an emoji may be two escapes
        text = _PAIR.sub(lambda pair: str(_json_text(pair[0])), text.replace("\t", " "))
    try:
        return _Composer(_events(text)).document()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(str(part) for part in (exc.context, exc.problem) if part)
        raise BadDocument(_finding(f"YAML ({problem})", line, column)) from exc
    except yaml.YAMLError as exc:  # a character that YAML does not allow
        raise BadDocument(_finding(f"YAML ({' '.join(str(exc).split())[:200]})", 1, 1)) from exc


def write_yaml(value: Any) -> str:
    """Write a JSON value, so that `read_yaml` reads the same."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # the package has no types
    """Quotes what only the core schema takes for something else than a text, and indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> Any:
    style = None if _is_text(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_text(text: str) -> bool:
    try:
        return isinstance(_plain_scalar(text), str)
    except ValueError:
        return False


_Dumper.add_representer(str, _write_text)


def _json_text(pair: str) -> str:
    return bytes.fromhex(pair.replace("\\u", "")).decode("utf-16-be")


def _events(text: str) -> Iterator[Any]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


@dataclass(slots=True)
class _Composer:
    """Builds nodes of the events of a parser."""

    events: Iterator[Any]
    anchors: dict[str, Node] = field(default_factory=dict)
    values: int = 0

    def document(self) -> Node:
        """The only document of a text."""
        found: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and found is not None:
                raise _wrong("one document", event, got="another one")
            if isinstance(event, yaml.NodeEvent):
                found = self._node(event, (), 0)
        return Node(None, (), 1, 1) if found is None else found

    def _node(self, event: Any, path: Path, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._count(1, event)
        if depth >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            raise _wrong(f"at most {MAX_DEPTH} levels", event, path, got="more")
        if event.tag not in (None, "!") or (event.tag == "!" and not isinstance(event, yaml.ScalarEvent)):
            raise _wrong("a value without a tag", event, path, got=str(event.tag)[:80])
        begin = event.start_mark
        node = Node(None, path, begin.line + 1, begin.column + 1)
        if isinstance(event, yaml.ScalarEvent):
            node = replace(node, value=_scalar(event, path))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = node.with_value(tuple(self._items(path, depth)))
        else:
            node = node.with_value(self._entries(path, depth))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, path: Path) -> Node:
        known = self.anchors.get(event.anchor)
        if known is None:  # also within what it stands for
            raise _wrong(f"an anchor &{event.anchor} before its alias", event, path, got="none")
        self._count(known.size, event)
        return known

    def _items(self, path: Path, depth: int) -> Iterator[Node]:
        number = 0
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self._node(event, (*path, number), depth + 1)
            number += 1

    def _entries(self, path: Path, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _wrong("a text as a key", event, path, got="a list, an object or an alias")
            key, mark = event.value, event.start_mark
            if key == "<<" and event.implicit[0]:
                raise _wrong("no merge key: 'templates' has what pipelines share", event, path, got="<<")
            if key in entries:
                first = entries[key].key_line
                raise _wrong(
                    f"the key once in its object, first in line {first}", event, (*path, key), got=key
                )
            child = self._node(next(self.events), (*path, key), depth + 1)
            entries[key] = replace(child, key_line=mark.line + 1, key_column=mark.column + 1)
        return entries

    def _count(self, values: int, event: Any) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise _wrong(f"at most {MAX_VALUES} values", event, got="more")


def _scalar(event: Any, path: Path) -> Scalar:
    """The value of a scalar by the core schema. In quotes or in a block it is a text."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    try:
        value = _plain_scalar(text)
    except ValueError as exc:
        raise _wrong(f"a number of at most {MAX_DIGITS} digits", event, path, got=text[:80]) from exc
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong("a finite number", event, path, got=text[:80])
    return value


def _plain_scalar(text: str) -> Scalar:
    """What a text without quotes is. Raises: ValueError for a number of too many digits."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError(text[:80])
            return int(text, base)
    if _INFINITE.fullmatch(text):
        return math.inf
    return float(text) if _FLOAT.fullmatch(text) else text


def _wrong(expected: str, event: Any, path: Path = (), *, got: Any) -> BadDocument:
    mark = event.start_mark
    return BadDocument(_finding(expected, mark.line + 1, mark.column + 1, path, got=got))


def _finding(expected: str, line: int = 0, column: int = 0, path: Path = (), *, got: Any = None) -> Finding:
    return Finding(path=path, line=line, column=column, expected=expected, got=got, kind="yaml")
