"""Prometheus' text format, written directly: a large fleet has a hundred thousand series.

Families are collected part by part and then merged, as all series of a family belong together in the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

_PLAIN = 1_000_000  # numbers below need no exponent
_EXACT = 2**53  # whole numbers below are the same as a float
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Family:
    """A metric with its series, which have these labels."""

    __slots__ = ("kind", "labels", "lines", "name", "text")

    def __init__(
        self, name: str, text: str, *, labels: Sequence[str] = (), kind: Literal["gauge", "counter"] = "gauge"
    ) -> None:
        self.name = f"{name}_total" if kind == "counter" else name
        self.text = text
        self.labels = tuple(labels)
        self.kind = kind
        self.lines: list[str] = []  # each of one series or of several

    def add(self, labels: str, value: float) -> None:
        """Add a series with labels as `labelled` writes them, once for all families of one subject."""
        self.lines.append(f"{self.name}{labels} {_number(value)}\n")

    def add_all(self, series: Iterable[tuple[str, float]]) -> None:
        """Add several series, each of labels and a value, at half the cost."""
        name = self.name
        lines = [
            f"{name}{labels} {value}.0\n"  # writing a float takes three times as long
            if type(value) is int and 0 <= value < _PLAIN
            else f"{name}{labels} {_number(value)}\n"
            for labels, value in series
        ]
        self.lines.append("".join(lines))


def labelled(**labels: str) -> str:
    """Labels as they are written, in the order of their names."""
    return f"{{{','.join([f'{name}={quoted(labels[name])}' for name in sorted(labels)])}}}"


def quoted(value: str) -> str:
    """The value of a label as it is written."""
    # Most values are ids, which have nothing to escape.
    is_plain = '"' not in value and "\\" not in value and "\n" not in value
    return f'"{value}"' if is_plain else f'"{value.translate(_ESCAPED)}"'


def _number(value: float) -> str:
    """A number as Prometheus' own clients write it."""
    if 0 <= value < _PLAIN:
        return f"{value}.0" if type(value) is int else repr(value)
    if type(value) is int and 0 < value < _EXACT:  # a counter of some days
        digits = str(value)
        return f"{digits[0]}.{digits[1:]}".rstrip("0.") + f"e+{len(digits) - 1:02d}"
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
