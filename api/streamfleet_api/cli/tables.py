"""The output of commands: lines and tables for people, JSON for programs.

A table is as wide as the terminal at most; in a pipe nothing is shortened.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

ENDLESS = 1_000_000  # columns of a pipe
_GAP = "  "  # between two columns
_INDENT = "    "  # before a note
_NARROWEST = 16  # characters that are left of a shortened cell


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header.

    The column named `shortened` gives way where the terminal is narrow. `notes` are one a row, empty or
    written below it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    shortened: str = ""
    notes: Sequence[str] = ()

    def lines(self, width: int) -> list[str]:
        """The header, and what is below it."""
        shortened = self.header.index(self.shortened) if self.shortened else None
        head, *rest = _aligned([self.header, *self.rows], shortened, width)
        lines = [head]
        for line, note in zip(rest, self.notes or [""] * len(rest), strict=True):
            lines.append(line)
            if note:
                lines += textwrap.wrap(plain(note), width, initial_indent=_INDENT, subsequent_indent=_INDENT)
        return lines


def on_terminal() -> bool:
    """Whether stdout is a terminal. It is None if closed by `>&-`."""
    return sys.stdout is not None and sys.stdout.isatty()


def in_colour() -> bool:
    """Whether to print colours: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return on_terminal() and not os.environ.get("NO_COLOR")


def width() -> int:
    """Columns that there are."""
    return shutil.get_terminal_size().columns if on_terminal() else ENDLESS


def document(answer: Any, *, indent: int | None = None) -> str:
    """An answer as JSON."""
    import msgspec

    return json.dumps(msgspec.to_builtins(answer), indent=indent)


def show(answer: Any, as_json: bool, text: str) -> None:
    """Print an answer, or what it says to people."""
    click.echo(document(answer, indent=2) if as_json else "\n".join(map(plain, text.split("\n"))))


def say(text: str) -> None:
    """Print one line, which may have text from the fleet in it."""
    click.echo(plain(text))


def show_table(found: Sequence[Any], as_json: bool, table: Table, *, empty: str) -> None:
    """Print what was found, or `empty` on stderr."""
    if as_json:
        click.echo(document(found, indent=2))
    elif not found:
        click.echo(empty, err=True)
    else:
        head, *rest = table.lines(width())
        click.secho(head, bold=True)
        for line in rest:
            click.echo(line)


def plain(text: str) -> str:
    """Text from the fleet moves no cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def middle(text: str, width: int) -> str:
    """A text of at most `width` characters, with an ellipsis for what is missing in the middle."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def size(count: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def counted(count: int, one: str, more: str) -> str:
    """So many of something: `1 class`, `3 classes`."""
    return f"{count} {one if count == 1 else more}"


def labelled(labels: dict[str, str]) -> str:
    """Labels as they are typed."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _aligned(rows: Iterable[Sequence[str]], shortened: int | None, width: int) -> list[str]:
    from rich.cells import cell_len, set_cell_size

    cells = [[plain(cell) for cell in row] for row in rows]
    if shortened is not None:
        others = sum(
            max(map(cell_len, column)) + len(_GAP)
            for index, column in enumerate(zip(*cells, strict=True))
            if index != shortened
        )
        for row in cells:
            row[shortened] = middle(row[shortened], max(width - others, _NARROWEST))
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return [_GAP.join(map(set_cell_size, row, widths)).rstrip() for row in cells]
