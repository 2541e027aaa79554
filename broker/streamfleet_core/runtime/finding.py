"""What a check of a machine or a device has found, and the step that mends it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `remedy` is a sentence, often with a command; "" if there is nothing to do."""

    name: str  # of the check: a word or two
    severity: Severity
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    """A check that has found nothing wrong."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, remedy: str) -> Finding:
    """It works, but not as it could."""
    return Finding(name, "warning", found, remedy)


def error(name: str, found: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(name, "error", found, remedy)


def encode(findings: Iterable[Finding]) -> bytes:
    """Encode as a JSON array of objects."""
    return msgspec.json.format(msgspec.json.encode(list(findings)), indent=2)


def decode(content: bytes) -> list[Finding]:
    """Decode what `encode` wrote. Raises: msgspec.DecodeError."""
    return msgspec.json.decode(content, type=list[Finding])


def has_error(findings: Iterable[Finding]) -> bool:
    """Whether anything does not work."""
    return any(each.severity == "error" for each in findings)


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A text for people: one line for each finding, and one below it for what to do."""
    shown = list(findings)
    width = max((len(each.name) for each in shown), default=0)
    for each in shown:
        yield f"{each.severity:7}  {each.name:{width}}  {each.found}"
        if each.remedy:
            yield f"{'':7}  {'':{width}}  → {each.remedy}"
