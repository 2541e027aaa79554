"""The question before what cannot be undone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from streamfleet_api.client.errors import CommandFailed

_SHOWN = 5  # names in a question

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask before what cannot be undone.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person at a terminal, unless they said `--yes`; a program, which cannot answer, goes on.

    Raises: CommandFailed when nothing is to be done.
    """
    if yes or sys.stdin is None or not sys.stdin.isatty():
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as exc:  # click says so for Ctrl-C and for the end of input
        raise KeyboardInterrupt from exc
    if not agreed:
        raise CommandFailed("nothing was done")


def listed(names: Sequence[str]) -> str:
    """Names in a question, which stays readable."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
