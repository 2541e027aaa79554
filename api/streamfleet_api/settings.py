"""What every command has: how to reach the fleet, `--json`, and what it says when it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from streamfleet_api.commands import CommandFailed, Rejected
from streamfleet_api.tables import plain

if TYPE_CHECKING:
    from streamfleet_api.client import Client

# Key of a request → the option that says it, where that has another name.
_OPTIONS = {
    "sources": "--video",
    "sinks": "--sink",
    "iou_threshold": "--iou",
    "labels": "--label",
    "sampling": "--sample",
}
_NAMED = ("device", "labels", "selector")
_HINTS = {
    "model": "'streamfleet models' lists them; 'streamfleet models add {} FILE' adds one",
    "device": "'streamfleet devices' lists them",
}
_CLOSE = 0.7  # of 1, where two are the same: with less, short names with one version are like any other
_COMPLETION_TIMEOUT = 2.0  # seconds that somebody who pressed Tab waits

as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")
selector_option = click.option(
    "-l", "--selector", metavar="SELECTOR", help="By labels: site=hall-1,line (this value, and any)."
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the fleet."""

    url: str
    token: str | None
    data_dir: Path

    def client(self, *, timeout: float | None = None) -> Client:
        """A client of the api."""
        from streamfleet_api.client import TIMEOUT, Client, token_for

        token = self.token or token_for(self.url, self.data_dir / "api/token")
        client = Client(self.url, token, timeout=timeout or TIMEOUT)
        click.get_current_context().call_on_close(client.close)
        return client


class Ordered(click.Group):
    """A group whose help has its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises: click.UsageError."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            shown = [name for name, each in self.commands.items() if not each.hidden]
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], shown, '; ') or ''}")
        return super().resolve_command(ctx, args)


class Commands(Ordered):
    """A group whose failures are two lines on stderr and exit code 1, and which Ctrl-C ends quietly."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as exc:
            show_error(exc)
            ctx.exit(1)
        except click.NoSuchOption as exc:
            misplaced = self._misplaced(exc)
            if misplaced is None:
                raise
            raise misplaced from exc
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # the shell's next line does not stand behind its ^C
            ctx.exit(130)  # as a shell tells it

    def _misplaced(self, exc: click.NoSuchOption) -> click.UsageError | None:
        """For an option of this group that was given after a command."""
        if not any(exc.option_name in option.opts for option in self.params):
            return None
        text = f"{exc.option_name} comes before the command: streamfleet {exc.option_name} … COMMAND"
        return click.UsageError(text, exc.ctx)


def did_you_mean(given: str, known: list[str], before: str = "") -> str:
    """A question for people; nothing when nothing is like it."""
    close = get_close_matches(given, known, n=3, cutoff=_CLOSE)
    return f"{before}did you mean {' or '.join(close)}?" if close else ""


def completes(what: str, key: str, *, within: str | None = None) -> Callable[..., list[CompletionItem]]:
    """What a shell offers: the names of what the fleet has, as pipelines by their pipeline_id."""

    def complete(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        from streamfleet_api.client import Client, token_for

        root = ctx.find_root().params
        url, data_dir = root["url"], root["data_dir"].expanduser()
        token = root["token"] or token_for(url, data_dir / "api/token")
        client = Client(url, token, timeout=_COMPLETION_TIMEOUT)
        try:
            names = [entry[key] for entry in client.list(what, within=within)]
        except CommandFailed:
            return []
        finally:
            client.close()
        return [CompletionItem(name) for name in names if name.startswith(begun)]

    return complete


def explained(refusal: Rejected) -> CommandFailed:
    """Each wrong value by the option that said it."""
    lines, hint = [], ""
    for error in refusal.errors:
        where, name = [*map(str, error["loc"]), "", ""][:2]
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        option = "--select" if (where, name) == ("body", "selector") else option
        if name == "sampling":  # a file has many values
            option = " ".join([option, ".".join(map(str, error["loc"][2:]))]).strip()
        expected = str(error["msg"]).partition("; PUT ")[0].replace("Input should be", "expected")
        if name in _NAMED and error["type"] == "string_pattern_mismatch":
            expected = "expected up to 64 letters, digits, '.', '_', '-'"
        came = f" {error['input']}" if isinstance(error.get("input"), str | int | float) else ""
        lines.append(f"{option}{came}: {expected}" if name else f"{where}: {expected}")
        hint = hint or _HINTS.get(name, "").format(error.get("input"))
    return CommandFailed("\n".join(lines), hint or refusal.hint)


def show_error(failure: CommandFailed) -> None:
    """On stderr: what went wrong, and what to do next."""
    if isinstance(failure, Rejected) and failure.errors:
        failure = explained(failure)
    click.echo("error: " + "\n".join(map(plain, str(failure).splitlines())), err=True)
    if failure.hint:
        click.echo(f"       {plain(failure.hint)}", err=True)


def warn(text: str) -> None:
    """On stderr: what a person should know."""
    click.echo(plain(text), err=True)
