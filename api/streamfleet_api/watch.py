"""A table that is drawn anew each second, on a screen of its own, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamfleet_api.commands import CommandFailed
from streamfleet_api.tables import Table

EVERY = 1.0  # seconds
TIMEOUT = 3.0  # seconds for an answer, after which what is shown is called old

Entries = Sequence[dict[str, Any]]


def watch_table(
    ask: Callable[[], Entries], table: Callable[[Entries], Table], tally: Callable[[Entries], str]
) -> None:
    """Show what is asked for. Raises: CommandFailed at the first attempt, KeyboardInterrupt."""
    found, trouble = ask(), ""
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            head = f"{time.strftime('%H:%M:%S')}  {tally(found)}  (Ctrl-C ends)"
            live.update(_page(head, trouble, table(found), console.width, console.height), refresh=True)
            time.sleep(EVERY)
            try:
                found, trouble = ask(), ""
            except CommandFailed as exc:
                trouble = f"this is old: {exc}"


def _page(head: str, trouble: str, table: Table, columns: int, rows: int) -> Text:
    """What fits the screen, and how much does not."""
    page = Text(no_wrap=True, overflow="crop", end="")
    page.append(f"{head}\n", "dim")
    page.append(f"{trouble}\n", "bold red")
    header, *lines = table.lines(columns)
    page.append(f"{header}\n", "bold")
    room = rows - 4
    page.append("\n".join(lines[:room]))
    if len(lines) > room:
        page.append(f"\n… and {len(lines) - room} lines more")
    return page
