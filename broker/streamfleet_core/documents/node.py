"""A value of a document, and its place there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from streamfleet_core.documents.errors import Finding, Path
from streamfleet_core.protocol.limits import MAX_SHOWN

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a list or an object. Line and column count from 1; both are 0 without a text."""

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    path: Path = ()
    line: int = 0
    column: int = 0
    key_line: int = field(default=0, kw_only=True)  # of its key in an object
    key_column: int = field(default=0, kw_only=True)
    size: int = field(default=1, kw_only=True)  # the number of values in it and in what is in it

    @property
    def entries(self) -> dict[str, Node]:
        """The entries of an object; none of anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> tuple[Node, ...]:
        """The items of a list; none of anything else."""
        return self.value if isinstance(self.value, tuple) else ()

    def items_of(self, key: str) -> tuple[Node, ...]:
        """The items of the list under a key; none of anything else."""
        return self.entries[key].items if key in self.entries else ()

    @property
    def plain(self) -> Any:
        """The value as JSON has it."""
        if isinstance(self.value, dict):
            return {key: child.plain for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain for child in self.value]
        return self.value

    def with_value(self, value: tuple[Node, ...] | dict[str, Node]) -> Node:
        """The same place with other children."""
        return replace(self, value=value, size=_size_of(value))

    def find(self, path: Iterable[str | int]) -> Node:
        """The node at a path, or the last one on the way to it.

        Parts that are neither keys nor indices of what is there are skipped: pydantic names the members of
        unions in its paths.
        """
        node = self
        for part in path:
            if isinstance(part, str):
                node = node.entries.get(part, node)
            elif 0 <= part < len(node.items):
                node = node.items[part]
        return node

    def wrong(
        self, expected: str, *, kind: str = "document", at_key: bool = False, got: Any = None
    ) -> Finding:
        """A finding about this value, or about its key. `got`: what to say of it; None: the value itself."""
        has_key = at_key and self.key_line
        if got is None and isinstance(self.value, str | int | float):
            got = self.value
        if isinstance(got, list | dict):
            got = "a list" if isinstance(got, list) else "an object"
        return Finding(
            path=self.path,
            line=self.key_line if has_key else self.line,
            column=self.key_column if has_key else self.column,
            expected=expected,
            got=got[:MAX_SHOWN] if isinstance(got, str) else got,
            kind=kind,
        )


def node_of(value: Any, path: Path = ()) -> Node:
    """The node of a JSON value, which has no lines."""
    if isinstance(value, dict):
        entries = {key: node_of(each, (*path, key)) for key, each in value.items()}
        return Node(entries, path, size=_size_of(entries))
    if isinstance(value, list):
        items = tuple(node_of(each, (*path, number)) for number, each in enumerate(value))
        return Node(items, path, size=_size_of(items))
    return Node(value, path)


def _size_of(value: tuple[Node, ...] | dict[str, Node]) -> int:
    return 1 + sum(child.size for child in (value.values() if isinstance(value, dict) else value))
