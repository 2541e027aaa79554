"""A value of a document, and its place there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from streamfleet_core.documents.errors import Finding, Path

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
        children = value.values() if isinstance(value, dict) else value
        return replace(self, value=value, size=1 + sum(child.size for child in children))

    def find(self, path: Iterable[str | int]) -> tuple[Node, bool]:
        """The node at a path, and whether the path is about a key that it has not, or should not have.

        Parts that are neither keys nor indices of what is there are skipped: pydantic names the members of
        unions in its paths.
        """
        node, rest = self, [*path]
        for number, part in enumerate(rest):
            child: Node | None = None
            if isinstance(node.value, dict) and isinstance(part, str):
                child = node.value.get(part)
            elif isinstance(node.value, tuple) and isinstance(part, int) and 0 <= part < len(node.value):
                child = node.value[part]
            if child is not None:
                node = child
            elif number == len(rest) - 1:
                return node, True
        return node, False

    def wrong(
        self, expected: str, *, kind: str = "document", at_key: bool = False, got: Any = None
    ) -> Finding:
        """A finding about this value, or about its key."""
        has_key = at_key and self.key_line
        return Finding(
            path=self.path,
            line=self.key_line if has_key else self.line,
            column=self.key_column if has_key else self.column,
            expected=expected,
            got=self.value if got is None and isinstance(self.value, str | int | float) else got,
            kind=kind,
        )


def node_of(value: Any, path: Path = ()) -> Node:
    """The node of a JSON value, which has no lines."""
    if isinstance(value, dict):
        return Node(None, path).with_value({key: node_of(each, (*path, key)) for key, each in value.items()})
    if isinstance(value, list):
        return Node(None, path).with_value(tuple(node_of(each, (*path, n)) for n, each in enumerate(value)))
    return Node(value, path)
