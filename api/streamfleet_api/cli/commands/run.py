"""The commands of `streamfleet` that say what a pipeline should be: `run`, `init` and `set`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

from streamfleet_api.cli import parameters
from streamfleet_api.cli.change_text import begins_anew, changes
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_device,
    complete_model,
    complete_pipeline,
    warn,
)
from streamfleet_api.cli.parameters import DEFAULT
from streamfleet_api.cli.pipeline_text import find, look_up, place, predicting, settle, trouble
from streamfleet_api.cli.tables import say, show
from streamfleet_api.client.errors import CommandFailed, Rejected
from streamfleet_core.protocol.limits import MAX_FPS
from streamfleet_core.protocol.values import MASK_FORMATS, ON_DISCONNECT, PRIORITIES, TRACKERS, DecoderChoice

if TYPE_CHECKING:
    from streamfleet.results import Pipeline
    from streamfleet_api.client.http_client import Client

DEFAULT_SINK = "127.0.0.1:37020"  # the default of Roboflow's UdpStream

_OF_SOURCES = ("mode", "decoder", "classes", "region", "motion")  # options that apply to each source

F = TypeVar("F", bound=Callable[..., Any])


def _pipeline_options(*, changing: bool) -> Callable[[F], F]:
    """Return the options of a pipeline's settings. They have no defaults when a pipeline is changed."""

    def number(inner: click.ParamType[Any]) -> dict[str, Any]:
        if not changing:
            return {"type": inner, "metavar": "NUMBER"}
        return {"callback": parameters.or_default(inner), "metavar": f"NUMBER|{DEFAULT}"}

    def shown_default(default: str) -> Any:
        return False if changing else default

    label_callback = parameters.label_changes if changing else parameters.labels
    label_metavar = "KEY=VALUE|KEY-" if changing else "KEY=VALUE"
    options = [
        click.option(
            "--model",
            required=not changing,
            metavar="ID",
            shell_complete=complete_model,
            help="A model of 'streamfleet models list'.",
        ),
        click.option(
            "--video",
            "videos",
            multiple=True,
            required=not changing,
            callback=parameters.references,
            metavar="SOURCE",
            help="A file on the device, a URL, a camera index, or scene://conveyor/1. Repeatable.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["live", "file"]),
            show_default=shown_default("file for local files"),
            help="live: newest frames, reconnects. file: every frame, then ends.",
        ),
        click.option(
            "--decoder",
            type=click.Choice(get_args(DecoderChoice)),
            show_default=shown_default("the device's, auto"),
            help="What decodes H.264, H.265 and AV1: hardware (nv, va), software, or auto.",
        ),
        click.option(
            "--class",
            "classes",
            multiple=True,
            metavar=f"NAME|{DEFAULT}" if changing else "NAME",
            callback=parameters.classes,
            show_default=shown_default("all"),
            help="Keep only objects of this class. Repeatable.",
        ),
        click.option(
            "--region",
            metavar=f"'X,Y X,Y X,Y …'|{DEFAULT}" if changing else "'X,Y X,Y X,Y …'",
            callback=parameters.region,
            show_default=shown_default("the whole picture"),
            help="Keep only objects whose center is in this polygon; 0,0 is the top left and 1,1 the bottom "
            "right of the picture.",
        ),
        click.option(
            "--motion",
            is_flag=False,
            flag_value=parameters.ON,
            metavar=f"[SENSITIVITY[,TIME]|{DEFAULT}]" if changing else "[SENSITIVITY[,TIME]]",
            callback=parameters.motion,
            show_default=shown_default("every frame"),
            help="Infer only frames with motion, and one after each TIME without; from 0 to 1, faint changes "
            "count at 1. Without a value 0.5,10s.",
        ),
        click.option(
            "--sink",
            "sinks",
            multiple=True,
            default=None if changing else [DEFAULT_SINK],
            show_default=not changing,
            metavar="HOST:PORT",
            callback=parameters.sinks,
            help="UDP receiver of predictions. Repeatable; none: no receiver.",
        ),
        click.option(
            "--device",
            metavar="NAME",
            show_default=shown_default("the one with most room"),
            shell_complete=complete_device,
            help="Run only on this device.",
        ),
        click.option(
            "--select",
            "selector",
            multiple=True,
            metavar=label_metavar,
            callback=label_callback,
            help="Run only on devices with this label. Repeatable.",
        ),
        click.option(
            "--on-disconnect",
            type=click.Choice([*ON_DISCONNECT, *([DEFAULT] if changing else [])]),
            show_default=shown_default("continue with --device, a file or a local camera, else stop"),
            help="Without the broker: stop, so that another device may run it, or continue, and never move.",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar=label_metavar,
            callback=label_callback,
            help="Label of the pipeline. Repeatable.",
        ),
        click.option(
            "--max-fps",
            **number(click.FloatRange(0, MAX_FPS, min_open=True)),
            show_default=shown_default("as fast as the source"),
            help="Maximum frames per second of each source.",
        ),
        click.option(
            "--confidence",
            **number(click.FloatRange(0, 1)),
            show_default=shown_default("the device's, 0.4"),
            help="Minimum confidence of an object.",
        ),
        click.option(
            "--iou",
            "--iou-threshold",
            "iou_threshold",
            **number(click.FloatRange(0, 1)),
            show_default=shown_default("the device's, 0.3"),
            help="Boxes that overlap more are one object.",
        ),
        click.option(
            "--max-detections",
            **number(click.IntRange(1)),
            show_default=shown_default("the device's, 300"),
            help="Maximum objects per frame.",
        ),
        click.option(
            "--class-agnostic-nms/--no-class-agnostic-nms",
            default=None,
            show_default=shown_default("the device's, off"),
            help="Overlapping boxes of different classes are one object, too.",
        ),
        click.option(
            "--tracker",
            is_flag=False,
            flag_value="bytetrack",
            type=click.Choice(TRACKERS),
            metavar=f"[{'|'.join(TRACKERS)}]",
            help="Give objects an id that persists between frames. Without a name bytetrack.",
        ),
        click.option("--no-tracker", is_flag=True, help="Remove the tracker."),
        click.option(
            "--priority",
            type=click.Choice(PRIORITIES),
            show_default=shown_default("normal"),
            help="Whose frames a busy device infers first.",
        ),
        click.option(
            "--mask-format",
            type=click.Choice(MASK_FORMATS),
            show_default=shown_default("polygon"),
            help="How predictions have masks: as outlines, or exactly, in COCO's run lengths.",
        ),
        click.option(
            "--stage",
            "stages",
            multiple=True,
            callback=parameters.stages,
            metavar="NAME=MODEL[@CLASS,…]|none",
            help="A further model, which runs on the objects that the model has found, or on those of these "
            "classes. Repeatable.",
        ),
        click.option(
            "--sample",
            "sampling",
            metavar="DATASET[=SHARE]|FILE.json|none",
            callback=parameters.sampling,
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
        callback=parameters.name,
        help="Id of the pipeline. An existing pipeline is changed.",
    )
    @_pipeline_options(changing=False)
    @click.option("--paused", is_flag=True, help="Emit nothing until 'streamfleet resume'.")
    @click.option(
        "--wait/--no-wait",
        default=None,
        help="Wait for its first prediction, or do not wait. Default: check for 3 s that it works.",
    )
    @click.option("--timeout", default="60s", show_default=True, metavar="TIME", help="Timeout of --wait.")
    @as_json_option
    @click.pass_obj
    def command(
        settings: Settings,
        /,
        pipeline_id: str | None,
        wait: bool | None,
        timeout: str,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Run a model on a video, and check that it works.

        It exits with 0 as soon as the pipeline is stored, even if the check finds that it does not work
        yet: 'streamfleet status ID' shows its state. With --wait it exits with 0 as soon as predictions
        come, with 3 when the pipeline has failed, and with 4 when none was received in time.

        \b
          streamfleet run --id door --model yolo11n/1 --video rtsp://10.0.0.9/door
        """
        seconds = parameters.seconds(timeout, "--timeout")
        client = settings.client()
        body = _body(options)
        if pipeline_id is None:
            before, entry = None, client.create_pipeline(**body)
        else:
            before, entry = look_up(client, pipeline_id), client.put_pipeline(pipeline_id, **body)
        if wait:
            entry = predicting(client, entry.pipeline_id, seconds)
        look = wait is None
        if as_json:
            show(_as_it_was(entry) if name == "init" else entry, as_json, "")
        elif before is not None:
            _report(client, before, entry, wait=look)
        elif wait:
            say(f"{entry.pipeline_id} {place(entry)}")
        else:
            _report_new(client, entry, wait=look)

    return command


run = _runner("run", hidden=False)
init = _runner("init", hidden=True)  # the name that it had


@click.command("set")
@click.argument("pipeline_id", metavar="ID", shell_complete=complete_pipeline)
@_pipeline_options(changing=True)
@click.option(
    "--add-sink",
    multiple=True,
    callback=parameters.sinks,
    metavar="HOST:PORT",
    help="Add a UDP receiver.",
)
@click.option(
    "--remove-sink",
    multiple=True,
    callback=parameters.sinks,
    metavar="HOST:PORT",
    help="Remove a UDP receiver.",
)
@as_json_option
@click.pass_context
def set_(ctx: click.Context, /, pipeline_id: str, as_json: bool, **options: Any) -> None:
    """Change a running pipeline.

    What is not given stays as it is. Another model, stage, video, device or
    --on-disconnect restarts it; with all else it goes on without a restart. Where an option takes it,
    the word 'default' puts its default back.

    \b
      streamfleet set door --confidence 0.6 --max-fps default --label line=3
    """
    given = {name: value for name, value in options.items() if _is_given(ctx, name)}
    if not given:
        raise click.UsageError("expected what to change, as --confidence 0.6")
    client = ctx.obj.client()
    before = find(pipeline_id, client.list_pipelines())
    after = _patch(client, before, given)
    if as_json:
        show(after, as_json, "")
    else:
        _report(client, before, after)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


# what is sent ---------------------------------------------------------------------------------------------


def _body(options: dict[str, Any]) -> dict[str, Any]:
    """A request for a pipeline."""
    body = {name: value for name, value in options.items() if value not in (None, {}, DEFAULT)}
    how = {name: body.pop(name) for name in _OF_SOURCES if name in body}
    body["sources"] = _sources(body.pop("videos"), how)
    if body.pop("no_tracker"):
        body["tracker"] = None
    return body


def _sources(videos: list[str | int], how: dict[str, Any]) -> list[Any]:
    return [{"reference": each, **how} if how else each for each in videos]


def _patch(client: Client, before: Pipeline, given: dict[str, Any]) -> Pipeline:
    """The pipeline after a change. Raises: CommandFailed."""
    patch = _merge_patch(before, given)
    # Lists are replaced whole: one that was made of what is there must not undo what others did meanwhile.
    version = before.version if "sinks" in patch and "sinks" not in given else None
    try:
        return client.patch_pipeline(before.pipeline_id, if_match=version, **patch)
    except Rejected as exc:
        if exc.status == 412:
            raise CommandFailed("another client changed it at the same time", "try again") from exc
        raise


def _merge_patch(before: Pipeline, given: dict[str, Any]) -> dict[str, Any]:
    from msgspec import to_builtins

    patch: dict[str, Any] = {name: None if value == DEFAULT else value for name, value in given.items()}
    videos = patch.pop("videos", None)
    how = {name: patch.pop(name) for name in _OF_SOURCES if name in patch}
    if videos is not None:
        patch["sources"] = _sources(videos, how)
    elif how:
        patch["sources"] = [{**to_builtins(source), **how} for source in before.spec.sources]
    if patch.pop("no_tracker", False):
        patch["tracker"] = None
    added: list[dict[str, Any]] = patch.pop("add_sink", [])
    removed: list[dict[str, Any]] = patch.pop("remove_sink", [])
    if added or removed:
        sinks = [sink for sink in patch.get("sinks", to_builtins(before.spec.sinks)) if sink not in removed]
        patch["sinks"] = [*sinks, *(sink for sink in added if sink not in sinks)]
    return patch


# what is said ---------------------------------------------------------------------------------------------


def _as_it_was(entry: Pipeline) -> dict[str, Any]:
    """Roboflow's response, which programs that call `init --json` expect."""
    context = {"pipeline_id": entry.pipeline_id, "device": entry.device}
    return {"status": "success", "context": context}


def _report_new(client: Client, entry: Pipeline, *, wait: bool) -> None:
    pipeline_id = entry.pipeline_id
    settled = settle(client, pipeline_id) if wait else None
    if settled is None:
        say(f"{pipeline_id} on {entry.device or 'no device yet'}")
    else:
        _tell_state(settled)


def _tell_state(entry: Pipeline) -> None:
    say(f"{entry.pipeline_id} {place(entry)}")
    if wrong := trouble(entry):
        warn(wrong)
    elif entry.status == "starting":
        warn(f"it is starting still: 'streamfleet status {entry.pipeline_id}' tells how it goes on")


def _report(client: Client, before: Pipeline, after: Pipeline, *, wait: bool = True) -> None:
    """Print what changed, and whether the pipeline restarts."""
    pipeline_id, changed = after.pipeline_id, changes(before, after)
    if not changed:
        say(f"{pipeline_id} is so already: {place(after)}")
        if wrong := trouble(after):
            warn(wrong)
        return
    say(f"{pipeline_id}: {', '.join(changed)}")
    if after.desired_status == "pause":
        click.echo("it is paused")
    elif begins_anew(before, after):
        click.echo("it restarts")
        if wait and (settled := settle(client, pipeline_id)) is not None:
            _tell_state(settled)
    elif after.status in ("ended", "failed"):
        say(f"it has {after.status}: 'streamfleet restart {pipeline_id}' plays it again")
    elif before.spec.model != after.spec.model:
        click.echo(after.reason or f"model {after.spec.model.id} takes over without a restart")
    else:
        click.echo("it goes on without a restart")


RUN_COMMANDS = (run, init, set_)
