"""Prometheus' text format, written directly: a large fleet has a hundred thousand series.

Families are collected part by part and then merged, as all series of a family belong together in the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Family:
    """A metric with its series. `add_metric` takes the values of `labels`, in their order."""

    __slots__ = ("_order", "kind", "labels", "lines", "name", "text")

    def __init__(
        self, name: str, text: str, *, labels: Sequence[str] = (), kind: Literal["gauge", "counter"] = "gauge"
    ) -> None:
        self.name = f"{name}_total" if kind == "counter" else name
        self.text = text
        self.kind = kind
        self.labels = tuple(labels)
        self.lines: list[str] = []
        self._order = sorted((label, position) for position, label in enumerate(labels))

    def add_metric(self, values: Sequence[str], value: float) -> None:
        """Add a series."""
        labels = ",".join(
            [f'{label}="{values[position].translate(_ESCAPED)}"' for label, position in self._order]
        )
        shown = f"{{{labels}}}" if labels else ""
        self.lines.append(f"{self.name}{shown} {_number(value)}\n")


def _number(value: float) -> str:
    """A number as Prometheus' own clients write it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6:  # where Go begins to write exponents
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text


def merge(families: dict[str, Family], more: Iterable[Family]) -> None:
    """Add the series of further parts to the families, by name."""
    for family in more:
        known = families.setdefault(family.name, family)
        if known is not family:
            known.lines += family.lines


def text_of(families: dict[str, Family]) -> bytes:
    """The whole text."""
    parts: list[str] = []
    for family in families.values():
        parts.append(f"# HELP {family.name} {family.text}\n# TYPE {family.name} {family.kind}\n")
        parts += family.lines
    return "".join(parts).encode()
