"""The context of every command: how to reach the fleet, `--json`, and the output of errors."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from streamfleet_api.cli.tables import plain
from streamfleet_api.client.errors import CommandFailed, Rejected

if TYPE_CHECKING:
    from streamfleet_api.client.http_client import Client

# Key of a request → the option that says it, where that has another name.
_OPTIONS = {
    "sources": "--video",
    "sinks": "--sink",
    "iou_threshold": "--iou",
    "labels": "--label",
    "sampling": "--sample",
    "stages": "--stage",
    "classes": "--class",
}
_OF_SOURCES = ("classes", "region", "motion", "decoder", "mode")
_NAMED = ("device", "labels", "selector")
_HINTS = {
    "model": "'streamfleet models' lists them; 'streamfleet models add {} FILE' adds one",
    "device": "'streamfleet devices' lists them",
}
_CLOSE = 0.7  # of 1, where two are the same: with less, short names with one version are like any other
_COMPLETION_TIMEOUT = 2.0  # seconds that a completion may take

as_json_option = click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")
selector_option = click.option(
    "-l", "--selector", metavar="SELECTOR", help="By labels: site=hall-1,line (this value, and any)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The connection to the fleet."""

    url: str
    token: str | None
    data_dir: Path
    fingerprint: str | None = None
    issuer: Path | None = None

    def client(self, *, timeout: float | None = None) -> Client:
        """A client of the api, closed at the end of the command. Raises: CommandFailed."""
        client = self.connect(timeout=timeout)
        click.get_current_context().call_on_close(client.close)
        return client

    def connect(self, *, timeout: float | None = None) -> Client:
        """A client of the api, to be closed. Raises: CommandFailed."""
        from streamfleet.connection import Connection
        from streamfleet_api.client.http_client import TIMEOUT, Client

        connection = Connection(
            url=self.url,
            token=self.token,
            ca_file=self.issuer,
            fingerprint=self.fingerprint,
            data_dir=self.data_dir,
        )
        return Client(connection, timeout=timeout or TIMEOUT)


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


def listing(show: Callable[..., None]) -> Ordered:
    """A group that shows without a command what it is about, and its command `list`, which does the same.

    `show` has the name and the help of the group; it gets the settings and what its options say.
    """
    same = click.command("list", help=f"The same as 'streamfleet {show.__name__}'.")(click.pass_obj(show))

    @click.pass_context
    def without_command(ctx: click.Context, /, **given: Any) -> None:
        if ctx.invoked_subcommand is None:
            show(ctx.obj, **given)

    group = Ordered(
        show.__name__,
        callback=without_command,
        params=same.params,
        help=show.__doc__,
        invoke_without_command=True,
    )
    group.add_command(same)
    return group


class Commands(Ordered):
    """A group whose failures are two lines on stderr and their exit code, and which Ctrl-C ends quietly."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as exc:
            show_error(exc)
            ctx.exit(exc.exit_code)
        except click.NoSuchOption as exc:
            misplaced = self._misplaced(exc)
            if misplaced is None:
                raise
            raise misplaced from exc
        except UnicodeEncodeError as exc:  # an argument that the shell gave us as bytes of another encoding
            got = exc.object[max(0, exc.start - 40) : exc.end + 40]
            show_error(CommandFailed(f"expected {exc.encoding.upper()}, got {got!a}"))
            ctx.exit(CommandFailed.exit_code)
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


def completes(names_in: Callable[[Client], list[str]]) -> Callable[..., list[CompletionItem]]:
    """Shell completion of names in the fleet."""

    def complete(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        root = dict(ctx.find_root().params)
        data_dir = root.pop("data_dir").expanduser()
        try:
            with contextlib.closing(
                Settings(data_dir=data_dir, **root).connect(timeout=_COMPLETION_TIMEOUT)
            ) as client:
                names = names_in(client)
        except CommandFailed:
            return []
        return [CompletionItem(name) for name in names if name.startswith(begun)]

    return complete


complete_pipeline = completes(lambda client: [each.pipeline_id for each in client.list_pipelines()])
complete_device = completes(lambda client: [each.device for each in client.list_devices()])
complete_dataset = completes(lambda client: [each.dataset for each in client.list_datasets()])
complete_model = completes(lambda client: [each.id for each in client.list_models()])


def explained(refusal: Rejected) -> CommandFailed:
    """Each wrong value by the option that said it."""
    lines, hint = [], ""
    for error in refusal.errors:
        where, name = [*map(str, error.loc), "", ""][:2]
        option = _option(name, error.loc)
        option = "--select" if (where, name) == ("body", "selector") else option
        if name == "sampling":  # a file has many values
            option = " ".join([option, ".".join(map(str, error.loc[2:]))]).strip()
        expected = error.msg.partition("; PUT ")[0].replace("Input should be", "expected")
        if name in _NAMED and error.type == "string_pattern_mismatch":
            expected = "expected up to 64 letters, digits, '.', '_', '-'"
        got = f" {error.input}" if isinstance(error.input, str | int | float) else ""
        lines.append(f"{option}{got}: {expected}" if name else f"{where}: {expected}")
        hint = hint or _HINTS.get(error.type, _HINTS.get(name, "")).format(error.input)
    return CommandFailed("\n".join(lines), hint or refusal.hint)


def _option(name: str, place: Sequence[str | int]) -> str:
    """The option that says the value at a place. What a source filters by has options of its own."""
    if name == "sources":
        name = next((str(part) for part in place if part in _OF_SOURCES), name)
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")


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
