"""The commands of `streamfleet` that look at pipelines and change what they do: list, status, pause, …"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from streamfleet_api import arguments
from streamfleet_api.commands import CommandFailed, Rejected
from streamfleet_api.pipelines import Entry, find, rate, short_ids
from streamfleet_api.report import status_lines
from streamfleet_api.settings import Settings, as_json_option, completes, selector_option, show_error
from streamfleet_api.tables import Table, on_terminal, plain, show, show_table, size

if TYPE_CHECKING:
    from streamfleet_api.client import Client

_EMPTY = "no pipelines: streamfleet run --model ID --video SOURCE"
_pipeline_ids = completes("pipelines", "pipeline_id")


def _state(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """One of those that there are, which are known when one is asked for."""
    from streamfleet_broker.protocol.requests import PipelineStatus

    return text and click.Choice(get_args(PipelineStatus)).convert(text, parameter, ctx)


@click.command()
@selector_option
@click.option("--status", "state", callback=_state, metavar="STATE", help="As running, pending or failed.")
@click.option(
    "--device", metavar="NAME", shell_complete=completes("devices", "device"), help="On this device."
)
@click.option("-w", "--watch", is_flag=True, help="Look each second, until Ctrl-C.")
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
    """Every pipeline: where it runs, its rate, what went wrong.

    \b
      streamfleet pipelines -l site=hall-1 --status running
    """
    if watch and (as_json or not on_terminal()):
        raise click.UsageError("--watch is for people at a terminal; programs: streamfleet events -f --json")
    chosen = {"selector": selector, "status": state, "device": device}
    if watch:
        from streamfleet_api.watch import TIMEOUT, watch_table

        watching = settings.client(timeout=TIMEOUT)
        watch_table(lambda: watching.list("pipelines", **chosen), pipeline_table, _tally)
        return
    found = settings.client().list("pipelines", **chosen)
    empty = "no such pipelines: 'streamfleet pipelines' lists all" if any(chosen.values()) else _EMPTY
    show_table(found, as_json, pipeline_table(found), empty=empty)


def pipeline_table(found: Sequence[Entry]) -> Table:
    """Pipelines for people; their ids are short where somebody looks."""
    ids = [entry["pipeline_id"] for entry in found]
    names = short_ids(ids) if on_terminal() else dict(zip(ids, ids, strict=True))
    rows = [
        (
            names[entry["pipeline_id"]],
            entry["status"],
            entry["device"] or "",
            rate(entry),
            entry["spec"]["model"]["id"],
            _videos(entry),
        )
        for entry in found
    ]
    header = ("ID", "state", "device", "fps", "model", "video")
    return Table(header, rows, "video", [entry["reason"] for entry in found])


def _videos(entry: Entry) -> str:
    first, *others = entry["spec"]["sources"]
    return f"{first['reference']}{f' and {len(others)} more' if others else ''}"


def _tally(found: Sequence[Entry]) -> str:
    running = sum(entry["status"] == "running" for entry in found)
    return f"{len(found)} pipelines, {running} running"


@click.command()
@click.argument("pipeline_id", metavar="ID", shell_complete=_pipeline_ids)
@as_json_option
@click.pass_obj
def status(settings: Settings, pipeline_id: str, as_json: bool) -> None:
    """All that is known of one pipeline.

    Its sources, their rates, what went wrong, what was dropped and why.

    \b
      streamfleet status door
    """
    from streamfleet_api.client import path_of

    client = settings.client()
    entry = find(pipeline_id, client.list("pipelines"))
    answer = client.get(path_of("v2", "pipelines", entry["pipeline_id"], "status"))
    show(answer, as_json, "" if as_json else "\n".join(map(plain, status_lines(entry, answer))))


@click.command()
@click.argument("pipeline_id", metavar="ID", shell_complete=_pipeline_ids)
@click.argument(
    "file",
    metavar="FILE.jpg",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    callback=arguments.jpeg,
)
@click.option("--source", type=click.IntRange(0), help="Which, when it has several; the first is 0.")
@click.pass_obj
def picture(settings: Settings, pipeline_id: str, file: Path, source: int | None) -> None:
    """Save the next picture with what was found in it.

    A JPEG, at most 640 pixels wide; '-' is stdout.

    \b
      streamfleet picture door door.jpg
    """
    from streamfleet_api.client import path_of

    client = settings.client()
    pipeline_id = find(pipeline_id, client.list("pipelines"))["pipeline_id"]
    query = "" if source is None else f"?source={source}"
    content = client.fetch(path_of("v2", "pipelines", pipeline_id, "picture") + query)
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
    example = f"\b\n  streamfleet {verb} door\n  streamfleet {verb} -l site=hall-1"

    @click.command(verb, help=f"{text} Each ID may be what it begins with.\n\n{example}")
    @click.argument("pipeline_ids", metavar="[ID]...", nargs=-1, shell_complete=_pipeline_ids)
    @selector_option
    @as_json_option
    @click.pass_context
    def command(
        ctx: click.Context, pipeline_ids: tuple[str, ...], selector: str | None, as_json: bool
    ) -> None:
        if bool(pipeline_ids) == (selector is not None):
            raise click.UsageError("expected IDs or --selector, one of both")
        client = ctx.obj.client()
        entries = client.list("pipelines", selector=selector)
        if selector is not None:
            pipeline_ids = tuple(entry["pipeline_id"] for entry in entries)
            if not pipeline_ids:
                raise CommandFailed(f"no pipeline has {selector}", "'streamfleet pipelines' lists them")
        well = [_change(client, verb, done, given, entries, as_json) for given in dict.fromkeys(pipeline_ids)]
        ctx.exit(0 if all(well) else 1)

    return command


def _change(
    client: Client, verb: str, done: str, given: str, entries: Sequence[Entry], as_json: bool
) -> bool:
    """Whether it went well; if not the others change all the same."""
    from streamfleet_api.client import path_of

    try:
        before = find(given, entries)
        path = path_of("v2", "pipelines", before["pipeline_id"])
        request = ("DELETE", path) if verb == "terminate" else ("POST", f"{path}/{verb}")
        confirmed, answer = client.done(*request)
    except CommandFailed as exc:
        over = isinstance(exc, Rejected) and exc.status == 409 and before["status"] in ("ended", "failed")
        show_error(_over(before) if over else exc)
        return False
    if as_json:  # a line each, whether it is one or many
        click.echo(json.dumps(answer or {"pipeline_id": before["pipeline_id"], "status": "gone"}))
    else:
        click.echo(_said(verb, done, before, confirmed=confirmed))
    return True


def _over(entry: Entry) -> CommandFailed:
    because = f" ({entry['reason']})" if entry["reason"] else ""
    again = f"start it again with 'streamfleet restart {entry['pipeline_id']}'"
    return CommandFailed(f"{entry['pipeline_id']} has {entry['status']}{because}", again)


def _said(verb: str, done: str, before: Entry, *, confirmed: bool) -> str:
    pipeline_id, state = before["pipeline_id"], before["status"]
    if (verb, state) in (("pause", "paused"), ("resume", "running")):
        return f"{pipeline_id} is {state} already"
    if verb == "resume" and before["want"] == "run":
        return f"{pipeline_id} is not paused, it is {state}"
    return f"{pipeline_id} {done}{'' if confirmed else ' as soon as its device answers'}"


pause = _changing("pause", "paused", "Stop emitting; a file waits at its frame.")
resume = _changing("resume", "resumed", "Go on emitting.")
restart = _changing("restart", "restarted", "Play from the beginning, also what ended or failed.")
terminate = _changing("terminate", "terminated", "End a pipeline and forget it.")

PIPELINE_COMMANDS = (pipelines, status, picture, pause, resume, restart, terminate)
