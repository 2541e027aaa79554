"""The commands of `streamfleet` that say what a pipeline should be: `run`, `init` and `set`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from streamfleet_api import arguments
from streamfleet_api.arguments import DEFAULT
from streamfleet_api.changes import begins_anew, changes
from streamfleet_api.commands import CommandFailed, Rejected
from streamfleet_api.pipelines import Entry, find, place, settle, trouble
from streamfleet_api.settings import Settings, as_json_option, completes, warn
from streamfleet_api.tables import plain, show

if TYPE_CHECKING:
    from streamfleet_api.client import Client

DEFAULT_SINK = "127.0.0.1:37020"  # where the original's UdpStream sends

F = TypeVar("F", bound=Callable[..., Any])


def _wish(*, changing: bool) -> Callable[[F], F]:
    """The options that say what a pipeline should be. When it is changed nothing has a default."""

    def number(inner: click.ParamType[Any]) -> dict[str, Any]:
        if not changing:
            return {"type": inner, "metavar": "NUMBER"}
        return {"callback": arguments.or_default(inner), "metavar": f"NUMBER|{DEFAULT}"}

    def told(default: str) -> Any:
        return False if changing else default

    label_callback = arguments.label_changes if changing else arguments.labels
    label_metavar = "KEY=VALUE|KEY-" if changing else "KEY=VALUE"
    options = [
        click.option(
            "--model",
            required=not changing,
            metavar="ID",
            shell_complete=completes("models", "id"),
            help="As in 'streamfleet models list'.",
        ),
        click.option(
            "--video",
            "videos",
            multiple=True,
            required=not changing,
            callback=arguments.references,
            metavar="SOURCE",
            help="A file on the device, a URL, a camera's index, or scene://conveyor/1. May be given again.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["live", "file"]),
            show_default=told("file for local files"),
            help="live: newest frames, opened again. file: every frame, and it ends.",
        ),
        click.option(
            "--sink",
            "sinks",
            multiple=True,
            default=None if changing else [DEFAULT_SINK],
            show_default=not changing,
            metavar="HOST:PORT",
            callback=arguments.sinks,
            help="Where the device sends a datagram for each prediction. May be given again; none: nowhere.",
        ),
        click.option(
            "--device",
            metavar="NAME",
            show_default=told("the one with most room"),
            shell_complete=completes("devices", "device"),
            help="On this device and no other.",
        ),
        click.option(
            "--select",
            "selector",
            multiple=True,
            metavar=label_metavar,
            callback=label_callback,
            help="Only on devices with this label. May be given again.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar=label_metavar,
            callback=label_callback,
            help="To find it by. May be given again.",
        ),
        click.option(
            "--max-fps",
            **number(click.FloatRange(0, 10_000, min_open=True)),
            show_default=told("as fast as the source"),
            help="Frames a second that are looked at.",
        ),
        click.option(
            "--confidence",
            **number(click.FloatRange(0, 1)),
            show_default=told("the device's, 0.4"),
            help="Leave out what is less sure.",
        ),
        click.option(
            "--iou",
            "--iou-threshold",
            "iou_threshold",
            **number(click.FloatRange(0, 1)),
            show_default=told("the device's, 0.3"),
            help="Two boxes that overlap more are one object.",
        ),
        click.option(
            "--max-detections",
            **number(click.IntRange(1)),
            show_default=told("the device's, 300"),
            help="Keep the surest of one frame.",
        ),
        click.option(
            "--class-agnostic-nms/--no-class-agnostic-nms",
            default=None,
            show_default=told("the device's, off"),
            help="Boxes of different classes that overlap are one object too.",
        ),
        click.option(
            "--tracker",
            is_flag=False,
            flag_value="bytetrack",
            type=click.Choice(["bytetrack"]),
            metavar="",
            help="Give objects an id from frame to frame.",
        ),
        click.option("--no-tracker", is_flag=True, help="Take the tracker away."),
        click.option(
            "--sample",
            "sampling",
            metavar="DATASET[=SHARE]|FILE.json|none",
            callback=arguments.sampling,
            help="Keep pictures for labelling: of what the model is unsure of, at most 144 a day; a share of "
            "all, as doors=0.01; or as the file says. 'streamfleet samples' lists them.",
        ),
    ]

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _runner(name: str, *, hidden: bool) -> click.Command:
    @click.command(name, hidden=hidden)
    @click.option(
        "--id",
        "pipeline_id",
        metavar="NAME",
        callback=arguments.name,
        help="Its id. Doing it again changes that pipeline.",
    )
    @_wish(changing=False)
    @click.option("--paused", is_flag=True, help="Emit nothing until 'streamfleet resume'.")
    @click.option("--no-wait", is_flag=True, help="Do not look for 3 s whether it works.")
    @as_json_option
    @click.pass_obj
    def command(
        settings: Settings,
        /,
        pipeline_id: str | None,
        no_wait: bool,
        as_json: bool,
        **wish: Any,
    ) -> None:
        """Put a model to work on a video, and look whether it works.

        It exits with 0 as soon as the pipeline is wished for, also where the look finds that it does not work
        yet: 'streamfleet status ID' tells how it goes on.

        \b
          streamfleet run --id door --model yolo11n/1 --video rtsp://10.0.0.9/door
        """
        client = settings.client()
        body = _body(wish)
        if pipeline_id is None:
            before, entry = None, _send(client, "POST", "/v2/pipelines", body)
        else:
            before, entry = _put(client, pipeline_id, body)
        if as_json:
            show(_as_it_was(entry) if name == "init" else entry, as_json, "")
        elif before is not None:
            _tell(client, before, entry, wait=not no_wait)
        else:
            _tell_new(client, entry, wait=not no_wait)

    return command


run = _runner("run", hidden=False)
init = _runner("init", hidden=True)  # the name that it had


@click.command("set")
@click.argument("pipeline_id", metavar="ID", shell_complete=completes("pipelines", "pipeline_id"))
@_wish(changing=True)
@click.option(
    "--add-sink",
    multiple=True,
    callback=arguments.sinks,
    metavar="HOST:PORT",
    help="Beside those that there are.",
)
@click.option(
    "--remove-sink", multiple=True, callback=arguments.sinks, metavar="HOST:PORT", help="No longer there."
)
@as_json_option
@click.pass_context
def set_(ctx: click.Context, /, pipeline_id: str, as_json: bool, **wish: Any) -> None:
    """Change a pipeline while it plays.

    What is not given stays as it is. Another model, video or device lets it begin anew; with all else it
    goes on without a restart. The word 'default' puts a default back.

    \b
      streamfleet set door --confidence 0.6 --max-fps default --label line=3
    """
    given = {name: value for name, value in wish.items() if _is_given(ctx, name)}
    if not given:
        raise click.UsageError("expected what to change, as --confidence 0.6")
    client = ctx.obj.client()
    before = find(pipeline_id, client.list("pipelines"))
    after = _patch(client, before, given)
    if as_json:
        show(after, as_json, "")
    else:
        _tell(client, before, after)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


# what is sent ---------------------------------------------------------------------------------------------


def _body(wish: dict[str, Any]) -> dict[str, Any]:
    """A request for a pipeline."""
    body = {name: value for name, value in wish.items() if value not in (None, {}, DEFAULT)}
    body["sources"] = _sources(body.pop("videos"), body.pop("mode", None))
    if body.pop("no_tracker"):
        body["tracker"] = None
    return body


def _sources(videos: list[str | int], mode: str | None) -> list[Any]:
    return [{"reference": each, "mode": mode} if mode else each for each in videos]


def _put(client: Client, pipeline_id: str, body: Entry) -> tuple[Entry | None, Entry]:
    """The pipeline before, None when it is new, and now."""
    from streamfleet_api.client import path_of

    path = path_of("v2", "pipelines", pipeline_id)
    return client.find(path), _send(client, "PUT", path, body)


def _patch(client: Client, before: Entry, given: Entry) -> Entry:
    """The pipeline after a change."""
    from streamfleet_api.client import path_of

    path = path_of("v2", "pipelines", before["pipeline_id"])
    patch = _merge_patch(before, given)
    # Lists are replaced whole: one that was made of what is there must not undo what others did meanwhile.
    headers = {"If-Match": f'"{before["version"]}"'} if "sinks" in patch and "sinks" not in given else None
    return _send(client, "PATCH", path, patch, headers)


def _merge_patch(before: Entry, given: Entry) -> Entry:
    patch: Entry = {name: None if value == DEFAULT else value for name, value in given.items()}
    videos, mode = patch.pop("videos", None), patch.pop("mode", None)
    if videos is not None:
        patch["sources"] = _sources(videos, mode)
    elif mode is not None:
        patch["sources"] = [{**source, "mode": mode} for source in before["spec"]["sources"]]
    if patch.pop("no_tracker", False):
        patch["tracker"] = None
    added: list[Entry] = patch.pop("add_sink", [])
    removed: list[Entry] = patch.pop("remove_sink", [])
    if added or removed:
        sinks = [sink for sink in patch.get("sinks", before["spec"]["sinks"]) if sink not in removed]
        patch["sinks"] = [*sinks, *(sink for sink in added if sink not in sinks)]
    return patch


def _send(
    client: Client, method: str, path: str, body: Entry, headers: dict[str, str] | None = None
) -> Entry:
    """Raises: CommandFailed, in the words of the command line."""
    try:
        answer: Entry = client.send(method, path, body, headers=headers)
    except Rejected as exc:
        if exc.status == 412:
            raise CommandFailed("somebody else changed it at the same time", "try again") from exc
        raise
    return answer


# what is said ---------------------------------------------------------------------------------------------


def _as_it_was(entry: Entry) -> Entry:
    """What programs that call `init --json` expect: the original's answer."""
    context = {"pipeline_id": entry["pipeline_id"], "device": entry["device"]}
    return {"status": "success", "context": context}


def _tell_new(client: Client, entry: Entry, *, wait: bool) -> None:
    pipeline_id = entry["pipeline_id"]
    settled = settle(client, pipeline_id) if wait else None
    if settled is None:
        click.echo(f"{pipeline_id} on {entry['device'] or 'no device yet'}")
    else:
        _tell_state(settled)


def _tell_state(entry: Entry) -> None:
    click.echo(f"{entry['pipeline_id']} {place(entry)}")
    if wrong := trouble(entry):
        warn(wrong)
    elif entry["status"] == "starting":
        warn(f"it is starting still: 'streamfleet status {entry['pipeline_id']}' tells how it goes on")


def _tell(client: Client, before: Entry, after: Entry, *, wait: bool = True) -> None:
    """What changed, and what that does to what plays."""
    pipeline_id, changed = after["pipeline_id"], changes(before, after)
    if not changed:
        click.echo(f"{pipeline_id} is so already: {place(after)}")
        if wrong := trouble(after):
            warn(wrong)
        return
    click.echo(plain(f"{pipeline_id}: {', '.join(changed)}"))
    if after["want"] == "pause":
        click.echo("it is paused")
    elif begins_anew(before, after):
        click.echo("it begins anew")
        if wait and (settled := settle(client, pipeline_id)) is not None:
            _tell_state(settled)
    elif after["status"] in ("ended", "failed"):
        click.echo(f"it has {after['status']}: 'streamfleet restart {pipeline_id}' plays it again")
    else:
        click.echo("it goes on without a restart")


RUN_COMMANDS = (run, init, set_)
