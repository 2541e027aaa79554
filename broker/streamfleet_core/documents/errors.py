"""Errors in a document, each with its place.

BadDocument: the values that are wrong
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

MAX_FINDINGS = 20  # of one document that are told
Path: TypeAlias = tuple[str | int, ...]  # keys and indices, from the root of the document


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A wrong value of a document. Line and column count from 1; 0 if the document has no lines."""

    path: Path
    line: int
    column: int
    expected: str  # the end of a sentence: `a number from 0 to 1`
    got: Any = None  # None: not repeated
    kind: str = "document"  # for programs

    @property
    def text(self) -> str:
        """The finding without its line and column."""
        got = "" if self.got is None else f", got {self.got!r}"
        path = f"{'.'.join(map(str, self.path))}: " if self.path else ""
        return f"{path}expected {self.expected}{got}"

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}{self.text}"


class BadDocument(Exception):
    """A document that cannot be used. Nothing was made of it."""

    def __init__(self, *findings: Finding) -> None:
        more = len(findings) - 1
        super().__init__(f"{findings[0]}{f' (and {more} more)' if more else ''}")
        self.findings = findings
