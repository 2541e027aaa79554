"""What every command has: how to reach the fleet, `--json`, and what it says when it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamfleet_api.commands import CommandFailed
from streamfleet_api.tables import plain

if TYPE_CHECKING:
    from streamfleet_api.client import Client

as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the fleet."""

    url: str
    token: str | None
    data_dir: Path

    def client(self) -> Client:
        """A client of the api."""
        from streamfleet_api.client import Client, token_for

        client = Client(self.url, self.token or token_for(self.url, self.data_dir / "api/token"))
        click.get_current_context().call_on_close(client.close)
        return client


class Commands(click.Group):
    """A group whose failures are two lines on stderr and exit code 1, and which Ctrl-C ends quietly."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as exc:
            show_error(exc)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(130)  # as a shell tells it


def show_error(failure: CommandFailed) -> None:
    """On stderr: what went wrong, and what to do next."""
    click.echo("error: " + "\n".join(map(plain, str(failure).splitlines())), err=True)
    if failure.hint:
        click.echo(f"       {failure.hint}", err=True)


def warn(text: str) -> None:
    """On stderr: what a person should know."""
    click.echo(plain(text), err=True)
