"""Expands templates: what many objects share, with parameters for what differs. Pure.

`${name}` in a text of a template is the parameter of this name. A text that is only `${name}` becomes the
value itself: a number stays a number. `$${` stands for `${`. What an object says itself takes the place of
what its template says; the keys of `merged` objects are taken one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from streamfleet_core.documents.errors import MAX_FINDINGS, BadDocument, Finding
from streamfleet_core.documents.node import Node

MAX_EXPANDED = 200_000  # values of all objects together
MAX_FILLED = 4 * 1_048_576  # characters of all texts with parameters together
_SHOWN = 10  # names in an error
PARAMETER_NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
ID = "id"  # the parameter that each object has
_ONE = re.compile(r"\$\{(" + PARAMETER_NAME + r")\}")
_ANY = re.compile(r"\$\$\{|\$\{([^}]{0,80}\}?)")
_NAME = re.compile(PARAMETER_NAME)
_TEMPLATE, _PARAMETERS = "template", "parameters"  # keys of an object that uses one


def expand(objects: Node, templates: Mapping[str, Node], merged: frozenset[str]) -> list[Node]:
    """The objects of a list, each with what its template says, and each value with its place in the document.

    Raises: BadDocument.
    """
    expansion = _Expansion(templates, merged)
    expanded: list[Node] = []
    findings: list[Finding] = []
    size = 0
    for each in objects.items:
        try:
            one = expansion.of(each)
        except BadDocument as exc:
            findings += exc.findings
            if len(findings) >= MAX_FINDINGS:
                break
            continue
        expanded.append(one)
        size += one.size
        if size > MAX_EXPANDED:
            raise BadDocument(each.wrong(f"at most {MAX_EXPANDED} values with templates", got="more"))
    if findings:
        raise BadDocument(*findings[:MAX_FINDINGS])
    return expanded


@dataclass(frozen=True, slots=True)
class _Template:
    """What objects share."""

    name: str
    content: Mapping[str, Node]
    defaults: Mapping[str, Node]  # of its parameters
    parameters: dict[str, None]  # the names of all, those of its texts first

    @classmethod
    def of(cls, name: str, node: Node) -> _Template:
        """Find the parameters of a template. Raises: BadDocument for what is no name of one."""
        content = {key: part for key, part in node.entries.items() if key != _PARAMETERS}
        defaults = node.entries[_PARAMETERS].entries if _PARAMETERS in node.entries else {}
        used = _names_in(content.values())
        return cls(name, content, defaults, dict.fromkeys([*used, *defaults]))


class _Expansion:
    """Expands the objects of one document, which share the room for filled texts."""

    def __init__(self, templates: Mapping[str, Node], merged: frozenset[str]) -> None:
        self._nodes = templates
        self._merged = merged
        self._templates: dict[str, _Template] = {}  # each is searched for parameters once
        self._room = MAX_FILLED  # characters that texts with parameters may still have

    def of(self, node: Node) -> Node:
        """Expand an object. Raises: BadDocument."""
        own = {key: child for key, child in node.entries.items() if key not in (_TEMPLATE, _PARAMETERS)}
        named, given = node.entries.get(_TEMPLATE), node.entries.get(_PARAMETERS)
        if named is None:
            if given is not None:
                raise BadDocument(given.wrong("a template for these parameters", at_key=True, got="none"))
            return node.with_value(own) if isinstance(node.value, dict) else node
        template = self._template(named)
        values = _values(node, template, given)
        filled = {key: self._filled(part, values, node) for key, part in template.content.items()}
        for key, child in own.items():
            before = filled.get(key)
            if key in self._merged and before is not None and child.entries and before.entries:
                child = child.with_value({**before.entries, **child.entries})
            filled[key] = child
        return node.with_value(filled)

    def _template(self, named: Node) -> _Template:
        name = named.value
        if not isinstance(name, str) or name not in self._nodes:
            known = ", ".join(sorted(self._nodes)[:_SHOWN]) or "none"
            raise BadDocument(named.wrong(f"a template of this document: {known}"))
        if name not in self._templates:
            self._templates[name] = _Template.of(name, self._nodes[name])
        return self._templates[name]

    def _filled(self, node: Node, values: Mapping[str, Node], user: Node) -> Node:
        """The node with the parameters in its texts, whose errors are those of the object that gave them."""
        if isinstance(node.value, dict):
            filled = {key: self._filled(child, values, user) for key, child in node.value.items()}
            return node.with_value(filled)
        if isinstance(node.value, tuple):
            return node.with_value(tuple(self._filled(child, values, user) for child in node.value))
        if not isinstance(node.value, str) or "${" not in node.value:
            return node
        if whole := _ONE.fullmatch(node.value):
            return replace(values[whole[1]], key_line=node.key_line, key_column=node.key_column)
        self._take(len(node.value), user)

        def text_of(found: re.Match[str]) -> str:
            if found[1] is None:
                return "${"
            value = values[found[1][:-1]]
            if not isinstance(value.value, str | int | float) or isinstance(value.value, bool):
                raise BadDocument(value.wrong("a text or a number, as it is a part of a text"))
            text = str(value.value)
            self._take(len(text), user)
            return text

        return replace(node, value=_ANY.sub(text_of, node.value))

    def _take(self, characters: int, user: Node) -> None:
        """Raises: BadDocument."""
        self._room -= characters
        if self._room < 0:
            raise BadDocument(user.wrong(f"at most {MAX_FILLED} characters with parameters", got="more"))


def _values(node: Node, template: _Template, given: Node | None) -> dict[str, Node]:
    """The parameters of an object. Raises: BadDocument for missing and for unknown ones."""
    if given is not None and not isinstance(given.value, dict):
        raise BadDocument(given.wrong("an object with a value for each parameter"))
    own = given.entries if given is not None else {}
    unknown = ((key, child) for key, child in own.items() if key not in template.parameters or key == ID)
    findings = [
        child.wrong(f"a parameter of the template {template.name}: {_listed(template)}", at_key=True, got=key)
        for key, child in islice(unknown, MAX_FINDINGS)
    ]
    values = {**template.defaults, **own}
    if ID in node.entries:
        values[ID] = node.entries[ID]
    missing = next((name for name in template.parameters if name not in values), None)
    if missing is not None:
        place = node if given is None else given
        findings.append(place.wrong(f"the parameter {missing} of the template {template.name}", got="none"))
    if findings:
        raise BadDocument(*findings[:MAX_FINDINGS])
    return values


def _listed(template: _Template) -> str:
    names = [name for name in template.parameters if name != ID]
    return f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}" or "it has none"


def _names_in(nodes: Iterable[Node]) -> list[str]:
    """The parameters in the texts of a template. Raises: BadDocument for what is no name."""
    names: list[str] = []
    for node in nodes:
        if not isinstance(node.value, str):
            names += _names_in([*node.entries.values(), *node.items])
            continue
        for found in _ANY.finditer(node.value):
            text = found[1]  # None: `$${`
            if text is not None and not (text.endswith("}") and _NAME.fullmatch(text[:-1])):
                raise BadDocument(node.wrong("${NAME} for a parameter, or $${ for these signs"))
            if text is not None:
                names.append(text[:-1])
    return names
