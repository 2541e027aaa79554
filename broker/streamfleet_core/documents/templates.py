"""Expands templates: what many objects share, with parameters for what differs. Pure.

`${name}` in a text of a template is the parameter of this name. A text that is only `${name}` becomes the
value itself: a number stays a number. `$${` stands for `${`. What an object says itself takes the place of
what its template says; the keys of `merged` objects are taken one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from streamfleet_core.documents.errors import BadDocument, Finding
from streamfleet_core.documents.node import Node

MAX_EXPANDED = 200_000  # values of all objects together
MAX_FILLED = 4 * 1_048_576  # characters of all texts with parameters together
_SHOWN = 10  # names in an error
_FINDINGS = 100  # in one answer
PARAMETER_NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
ID = "id"  # the parameter that each object has
_ONE = re.compile(r"\$\{(" + PARAMETER_NAME + r")\}")
_ANY = re.compile(r"\$\$\{|\$\{([^}]{0,80}\}?)")
_NAME = re.compile(PARAMETER_NAME)
_TEMPLATE, _PARAMETERS = "template", "parameters"  # keys of an object that uses one


@dataclass(frozen=True, slots=True)
class Expanded:
    """An object without its template. The places in it are those of the document."""

    node: Node
    source: Node  # the object as it stands in the document
    template: str | None


class _Room:
    """The characters that texts with parameters may still have."""

    def __init__(self) -> None:
        self._left = MAX_FILLED

    def take(self, characters: int, user: Node) -> None:
        """Raises: BadDocument."""
        self._left -= characters
        if self._left < 0:
            raise BadDocument(user.wrong(f"at most {MAX_FILLED} characters with parameters", got="more"))


def expand(objects: Node, templates: Mapping[str, Node], merged: frozenset[str]) -> list[Expanded]:
    """The objects of a list, each with what its template says. Raises: BadDocument."""
    expanded: list[Expanded] = []
    findings: list[Finding] = []
    size, room = 0, _Room()
    for each in objects.items:
        one = _tried(each, templates, merged, room)
        if isinstance(one, BadDocument):
            findings += one.findings
            if len(findings) >= _FINDINGS:
                break
            continue
        expanded.append(one)
        size += one.node.size
        if size > MAX_EXPANDED:
            raise BadDocument(each.wrong(f"at most {MAX_EXPANDED} values with templates", got="more"))
    if findings:
        raise BadDocument(*findings[:_FINDINGS])
    return expanded


def _tried(
    node: Node, templates: Mapping[str, Node], merged: frozenset[str], room: _Room
) -> Expanded | BadDocument:
    try:
        return _expanded(node, templates, merged, room)
    except BadDocument as exc:
        return exc


def _expanded(node: Node, templates: Mapping[str, Node], merged: frozenset[str], room: _Room) -> Expanded:
    own = {key: child for key, child in node.entries.items() if key not in (_TEMPLATE, _PARAMETERS)}
    named, given = node.entries.get(_TEMPLATE), node.entries.get(_PARAMETERS)
    if named is None:
        if given is not None:
            raise BadDocument(given.wrong("a template for these parameters", at_key=True, got="none"))
        return Expanded(node.with_value(own) if isinstance(node.value, dict) else node, node, None)
    template = templates.get(named.value) if isinstance(named.value, str) else None
    if template is None:
        known = ", ".join(sorted(templates)[:10]) or "none"
        raise BadDocument(named.wrong(f"a template of this document: {known}"))
    values = _values(node, named, template, given)
    filled = {
        key: _filled(child, values, node, room)
        for key, child in template.entries.items()
        if key != _PARAMETERS
    }
    for key, child in own.items():
        before = filled.get(key)
        if key in merged and before is not None and child.entries and before.entries:
            child = child.with_value({**before.entries, **child.entries})
        filled[key] = child
    return Expanded(node.with_value(filled), node, str(named.value))


def _values(node: Node, named: Node, template: Node, given: Node | None) -> dict[str, Node]:
    """The parameters of an object. Raises: BadDocument for missing and for unknown ones."""
    defaults = template.entries[_PARAMETERS].entries if _PARAMETERS in template.entries else {}
    used = [name for key, part in template.entries.items() if key != _PARAMETERS for name in _names_in(part)]
    known = {**dict.fromkeys(used), **dict.fromkeys(defaults)}
    own = given.entries if given is not None else {}
    if given is not None and not isinstance(given.value, dict):
        raise BadDocument(given.wrong("an object with a value for each parameter"))
    findings = [
        child.wrong(f"a parameter of the template {named.value}: {_listed(known)}", at_key=True, got=key)
        for key, child in own.items()
        if key not in known or key == ID
    ][:_FINDINGS]
    values = {**defaults, **own}
    if ID in node.entries:
        values[ID] = node.entries[ID]
    missing = [name for name in known if name not in values]
    if missing:
        place = node if given is None else given
        findings.append(place.wrong(f"the parameter {missing[0]} of the template {named.value}", got="none"))
    if findings:
        raise BadDocument(*findings)
    return values


def _listed(known: Mapping[str, object]) -> str:
    names = [name for name in known if name != ID]
    return f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}" or "it has none"


def _names_in(node: Node) -> list[str]:
    """The parameters in the texts of a template. Raises: BadDocument for what is no name."""
    if isinstance(node.value, str):
        names = [found[1][:-1] for found in _ANY.finditer(node.value) if found[1] is not None]
        texts = [found[1] for found in _ANY.finditer(node.value) if found[1] is not None]
        for name, text in zip(names, texts, strict=True):
            if not text.endswith("}") or not _NAME.fullmatch(name):
                raise BadDocument(node.wrong("${NAME} for a parameter, or $${ for these signs"))
        return names
    parts = node.entries if isinstance(node.value, dict) else dict(enumerate(node.items))
    return [name for part in parts.values() for name in _names_in(part)]


def _filled(node: Node, values: Mapping[str, Node], user: Node, room: _Room) -> Node:
    """The node with the parameters in its texts, whose errors are those of the object that gave them."""
    if isinstance(node.value, dict):
        return node.with_value({key: _filled(child, values, user, room) for key, child in node.value.items()})
    if isinstance(node.value, tuple):
        return node.with_value(tuple(_filled(child, values, user, room) for child in node.value))
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    if whole := _ONE.fullmatch(node.value):
        value = values[whole[1]]
        return replace(value, key_line=node.key_line, key_column=node.key_column)

    room.take(len(node.value), user)

    def text_of(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        value = values[found[1][:-1]]
        if not isinstance(value.value, str | int | float) or isinstance(value.value, bool):
            raise BadDocument(value.wrong("a text or a number, as it is a part of a text"))
        text = str(value.value)
        room.take(len(text), user)
        return text

    return replace(node, value=_ANY.sub(text_of, node.value))
