"""What commands print: lines and tables for people, JSON for programs.

A table is as wide as the terminal at most; in a pipe nothing is shortened.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

_GAP = "  "  # between two columns
_INDENT = "    "  # before a note
_NARROWEST = 16  # characters that are left of a shortened cell
_ENDLESS = 1_000_000  # columns of a pipe


def on_terminal() -> bool:
    """Does somebody look at stdout? It is None when it was closed by `>&-`."""
    return sys.stdout is not None and sys.stdout.isatty()


def show(answer: Any, as_json: bool, text: str) -> None:
    """Print an answer, or what it says to people."""
    click.echo(json.dumps(answer, indent=2) if as_json else text)


def show_table(
    found: list[Any],
    as_json: bool,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    empty: str,
    shortened: str = "",
    notes: Iterable[str] = (),
) -> None:
    """Print what was found, or `empty` on stderr.

    The column named `shortened` gives way where the terminal is narrow. `notes` are one a row, empty or
    printed below it.
    """
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo(empty, err=True)
        return
    width = shutil.get_terminal_size().columns if on_terminal() else _ENDLESS
    head, *lines = _aligned([header, *rows], header.index(shortened) if shortened else None, width)
    click.secho(head, bold=True)
    for line, note in zip(lines, notes or [""] * len(lines), strict=True):
        click.echo(line)
        if note:
            click.echo(textwrap.fill(plain(note), width, initial_indent=_INDENT, subsequent_indent=_INDENT))


def plain(text: str) -> str:
    """Text from the fleet moves no cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def middle(text: str, width: int) -> str:
    """A text of at most `width` characters, with an ellipsis for what is missing in the middle."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


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
