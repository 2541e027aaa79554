"""The commands of `streamfleet` that show and change pipelines: list, status, pause, …"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_device,
    complete_pipeline,
    selector_option,
    show_error,
)
from streamfleet_api.cli.pipeline_text import find, matching, rate, short_ids
from streamfleet_api.cli.status_text import status_lines
from streamfleet_api.cli.tables import Table, document, on_terminal, plain, say, show, show_table, size
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet.results import CommandResult, Pipeline
    from streamfleet_api.client.http_client import Client

_EMPTY = "no pipelines: streamfleet run --model ID --video SOURCE"


def _state(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """A value from a list that is fetched on first use."""
    from streamfleet_core.protocol.requests import PipelineStatus

    return text and click.Choice(get_args(PipelineStatus)).convert(text, parameter, ctx)


@click.command()
@selector_option
@click.option(
    "--status",
    "state",
    callback=_state,
    metavar="STATE",
    help="Only this status, for example running, pending or failed.",
)
@click.option("--device", metavar="NAME", shell_complete=complete_device, help="Only on this device.")
@click.option("-w", "--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@as_json_option
@click.pass_obj
def pipelines(
    settings: Settings,
    /,
    selector: str | None,
    state: str | None,
    device: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """List pipelines with their device, rate and problems.

    \b
      streamfleet pipelines -l site=hall-1 --status running
    """
    if watch and (as_json or not on_terminal()):
        raise click.UsageError("--watch is for people at a terminal; programs: streamfleet events -f --json")
    if watch:
        from streamfleet_api.cli.watch import TIMEOUT, watch_table

        watching = settings.client(timeout=TIMEOUT)
        watch_table(
            lambda: watching.list_pipelines(selector, status=state, device=device), pipeline_table, _tally
        )
        return
    found = settings.client().list_pipelines(selector, status=state, device=device)
    empty = "no such pipelines: 'streamfleet pipelines' lists all" if selector or state or device else _EMPTY
    show_table(found, as_json, pipeline_table(found), empty=empty)


def pipeline_table(found: Sequence[Pipeline]) -> Table:
    """A table of pipelines; their ids are shortened on a terminal."""
    ids = [entry.pipeline_id for entry in found]
    names = short_ids(ids) if on_terminal() else dict(zip(ids, ids, strict=True))
    rows = [
        (
            names[entry.pipeline_id],
            entry.status,
            entry.device or "",
            rate(entry),
            entry.spec.model.id,
            _videos(entry),
        )
        for entry in found
    ]
    header = ("ID", "state", "device", "fps", "model", "video")
    return Table(header, rows, "video", [entry.reason for entry in found])


def _videos(entry: Pipeline) -> str:
    first, *others = entry.spec.sources
    return f"{first.reference}{f' and {len(others)} more' if others else ''}"


def _tally(found: Sequence[Pipeline]) -> str:
    running = sum(entry.status == "running" for entry in found)
    return f"{len(found)} pipelines, {running} running"


@click.command()
@click.argument("pipeline_id", metavar="ID", shell_complete=complete_pipeline)
@as_json_option
@click.pass_obj
def status(settings: Settings, pipeline_id: str, as_json: bool) -> None:
    """Show everything about one pipeline.

    Its sources, their rates, what went wrong, what was dropped and why.

    \b
      streamfleet status door
    """
    client = settings.client()
    entry = find(pipeline_id, client.list_pipelines())
    answer = client.pipeline_report(entry.pipeline_id)
    show(answer, as_json, "" if as_json else "\n".join(map(plain, status_lines(entry, answer))))


@click.command()
@click.argument("pipeline_id", metavar="ID", shell_complete=complete_pipeline)
@click.argument(
    "file",
    metavar="FILE.jpg",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    callback=parameters.jpeg,
)
@click.option("--source", type=click.IntRange(0), help="Index of the source, from 0.")
@click.pass_obj
def picture(settings: Settings, pipeline_id: str, file: Path, source: int | None) -> None:
    """Save the next picture with its detections.

    A JPEG, at most 640 pixels wide; '-' is stdout.

    \b
      streamfleet picture door door.jpg
    """
    client = settings.client()
    pipeline_id = find(pipeline_id, client.list_pipelines()).pipeline_id
    content = client.pipeline_picture(pipeline_id, source=source)
    if str(file) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        file.write_bytes(content)
    except OSError as exc:
        raise CommandFailed(f"{file}: {exc.strerror}") from exc
    click.echo(f"{file}: {size(len(content))}")


# words ----------------------------------------------------------------------------------------------------


def _changing(verb: str, done: str, text: str) -> click.Command:
    example = (
        f"\b\n  streamfleet {verb} door\n  streamfleet {verb} 'hall-*'\n  streamfleet {verb} -l site=hall-1"
    )
    named = "Each ID may be a unique prefix or a pattern."
    asks = " It asks first where it is more than one; --yes does not." if verb == "terminate" else ""

    @click.command(verb, help=f"{text} {named}{asks}\n\n{example}")
    @click.argument("pipeline_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_pipeline)
    @selector_option
    @as_json_option
    @click.pass_context
    def command(
        ctx: click.Context,
        pipeline_ids: tuple[str, ...],
        selector: str | None,
        as_json: bool,
        yes: bool = True,
    ) -> None:
        if bool(pipeline_ids) == (selector is not None):
            raise click.UsageError("expected IDs or --selector, one of both")
        client = ctx.obj.client()
        entries = client.list_pipelines(selector)
        if selector is not None and not entries:
            raise CommandFailed(f"no pipeline has {selector}", "'streamfleet pipelines' lists them")
        chosen, well = _chosen(pipeline_ids, entries) if selector is None else (entries, True)
        if len(chosen) > 1:
            names = listed([entry.pipeline_id for entry in chosen])
            confirm(f"{verb.capitalize()} {len(chosen)} pipelines: {names}?", yes=yes)
        for before, result in _commanded(client, verb, chosen):
            well = _report(verb, done, before, result, as_json) and well
        ctx.exit(0 if well else 1)

    return yes_option(command) if verb == "terminate" else command


def _chosen(given: Sequence[str], entries: Sequence[Pipeline]) -> tuple[list[Pipeline], bool]:
    """The selected pipelines, each once, and whether every argument matched one."""
    found = [_meant(each, entries) for each in dict.fromkeys(given)]
    chosen = {entry.pipeline_id: entry for some in found for entry in some}
    return list(chosen.values()), all(found)


def _meant(given: str, entries: Sequence[Pipeline]) -> list[Pipeline]:
    """None: the argument is ambiguous. The other pipelines change nevertheless."""
    try:
        return matching(given, entries)
    except CommandFailed as exc:
        show_error(exc)
        return []


def _commanded(
    client: Client, verb: str, chosen: Sequence[Pipeline]
) -> Iterator[tuple[Pipeline, CommandResult]]:
    """Return each pipeline before the command and its result, with one request for all."""
    if chosen:
        results = client.command_pipelines(verb, ids=[entry.pipeline_id for entry in chosen])
        yield from zip(chosen, results, strict=True)


def _report(verb: str, done: str, before: Pipeline, result: CommandResult, as_json: bool) -> bool:
    """Return whether the command succeeded. Other pipelines have changed in any case."""
    if result.status >= 400:
        over = result.status == 409 and before.status in ("ended", "failed")
        show_error(_over(before) if over else CommandFailed(result.detail))
        return False
    if as_json:  # a line each, whether it is one or many
        click.echo(document(result.pipeline or {"pipeline_id": before.pipeline_id, "status": "gone"}))
    else:
        say(_said(verb, done, before, confirmed=result.status != 202))
    return True


def _over(entry: Pipeline) -> CommandFailed:
    because = f" ({entry.reason})" if entry.reason else ""
    again = f"start it again with 'streamfleet restart {entry.pipeline_id}'"
    return CommandFailed(f"{entry.pipeline_id} has {entry.status}{because}", again)


def _said(verb: str, done: str, before: Pipeline, *, confirmed: bool) -> str:
    pipeline_id, state = before.pipeline_id, before.status
    if (verb, state) in (("pause", "paused"), ("resume", "running")):
        return f"{pipeline_id} is {state} already"
    if verb == "resume" and before.desired_status == "run":
        return f"{pipeline_id} is not paused, it is {state}"
    return f"{pipeline_id} {done}{'' if confirmed else ' as soon as its device answers'}"


pause = _changing("pause", "paused", "Pause a pipeline; a file stays at its frame.")
resume = _changing("resume", "resumed", "Resume a paused pipeline.")
restart = _changing("restart", "restarted", "Restart a pipeline, even one that ended or failed.")
terminate = _changing("terminate", "terminated", "Stop a pipeline and delete it.")

PIPELINE_COMMANDS = (pipelines, status, picture, pause, resume, restart, terminate)
