"""A table that is redrawn each second, on a separate screen, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamfleet_api.cli.tables import Table, plain
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet.results import Pipeline

EVERY = 1.0  # seconds
TIMEOUT = 3.0  # seconds for an answer, after which what is shown is called old


Pipelines = Sequence["Pipeline"]


def watch_table(
    ask: Callable[[], Pipelines], table: Callable[[Pipelines], Table], tally: Callable[[Pipelines], str]
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
    """The lines that fit the screen, and the number of those that do not."""
    page = Text(no_wrap=True, overflow="crop", end="")
    page.append(f"{plain(head)}\n", "dim")
    page.append(f"{plain(trouble)}\n", "bold red")
    header, *lines = table.lines(columns)
    page.append(f"{header}\n", "bold")
    room = rows - 4
    page.append("\n".join(lines[:room]))
    if len(lines) > room:
        page.append(f"\n… and {len(lines) - room} lines more")
    return page
