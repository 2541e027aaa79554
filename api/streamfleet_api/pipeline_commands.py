"""The commands of `streamfleet` that are about pipelines: put to work, look at, change, follow."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from streamfleet_api import arguments
from streamfleet_api.commands import CommandFailed
from streamfleet_api.pipelines import change, find, rate, settle, short_ids, trouble
from streamfleet_api.settings import Settings, as_json_option, show_error, warn
from streamfleet_api.tables import on_terminal, plain, show, show_table

if TYPE_CHECKING:
    from streamfleet_api.client import Client

DEFAULT_SINK = "127.0.0.1:37020"  # where the original's UdpStream sends


@click.command()
@click.option("--model", required=True, metavar="ID", help="As in 'streamfleet models list'.")
@click.option(
    "--video",
    required=True,
    callback=arguments.reference,
    help="A file on the device, a URL, a device index, or TestPatternStreamProducer.",
)
@click.option(
    "--sink",
    default=DEFAULT_SINK,
    show_default=True,
    metavar="HOST:PORT",
    callback=arguments.host_and_port,
    help="Where the device sends a datagram for each prediction; the default is the device itself.",
)
@click.option("--device", show_default="the one with most room", help="Run it on this device and no other.")
@click.option(
    "--tracker",
    type=click.Choice(["bytetrack"]),
    show_default="none",
    help="Give objects an id from frame to frame.",
)
@click.option(
    "--max-fps", type=float, show_default="as fast as the source", help="Frames a second that are looked at."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    show_default="the device's, 0.4 unless set there",
    help="Leave out what is less sure.",
)
@click.option(
    "--iou-threshold",
    type=click.FloatRange(0, 1),
    show_default="the device's, 0.3 unless set there",
    help="Two boxes that overlap more are one object.",
)
@click.option(
    "--max-detections",
    type=click.IntRange(1),
    show_default="the device's, 300 unless set there",
    help="Keep the surest of one frame.",
)
@click.option(
    "--class-agnostic-nms",
    is_flag=True,
    default=None,
    show_default="the device's, off unless set there",
    help="Boxes of different classes that overlap are one object too.",
)
@click.option("--no-wait", is_flag=True, help="Do not look for 3 s whether it works.")
@as_json_option
@click.pass_obj
def init(
    settings: Settings,
    /,
    model: str,
    video: str | int,
    sink: tuple[str, int],
    device: str | None,
    tracker: str | None,
    max_fps: float | None,
    no_wait: bool,
    as_json: bool,
    **filtering: Any,
) -> None:
    """Put a video and a model to work, and look whether they do (not with --json)."""
    host, port = sink
    body = {
        "model_id": model,
        "video_reference": video,
        "sink_configuration": {"type": "udp_sink", "host": host, "port": port},
        "max_fps": max_fps,
        "device": device,
        "tracker": tracker,
        "model_configuration": filtering,
    }
    client = settings.client()
    answer = client.send("POST", "/initialise", body)
    pipeline_id, chosen = answer["context"]["pipeline_id"], answer["context"]["device"]
    entry = None if no_wait or as_json else settle(client, pipeline_id)
    if entry is None:
        show(answer, as_json, f"{pipeline_id} on {chosen or 'no device yet'}")
        return
    click.echo(f"{pipeline_id} {entry['status']} on {entry['device'] or 'no device yet'}")
    if wrong := trouble(entry):
        warn(wrong)


@click.command()
@click.argument("pipeline_id", metavar="ID")
@as_json_option
@click.pass_obj
def status(settings: Settings, pipeline_id: str, as_json: bool) -> None:
    """All that is known of one pipeline."""
    from streamfleet_api.client import path_of

    client = settings.client()
    pipeline_id = find(pipeline_id, client.list("pipelines"))["pipeline_id"]
    answer = client.get(path_of("status", pipeline_id))
    show(answer, as_json, "\n".join(map(plain, _status_lines(pipeline_id, answer["report"]))))


@click.command()
@as_json_option
@click.pass_obj
def pipelines(settings: Settings, as_json: bool) -> None:
    """Every pipeline: where it runs, its rate, what went wrong."""
    found = settings.client().list("pipelines")
    ids = [entry["pipeline_id"] for entry in found]
    names = short_ids(ids) if on_terminal() else dict(zip(ids, ids, strict=True))
    rows = [
        (
            names[entry["pipeline_id"]],
            entry["status"],
            entry["device"] or "",
            rate(entry),
            entry["spec"]["model"]["id"],
            str(entry["spec"]["sources"][0]["reference"]),
        )
        for entry in found
    ]
    show_table(
        found,
        as_json,
        ("ID", "state", "device", "fps", "model", "video"),
        rows,
        empty="no pipelines: streamfleet init --model ID --video SOURCE",
        shortened="video",
        notes=[entry["reason"] for entry in found],
    )


def _changing(verb: str, done: str, text: str) -> click.Command:
    @click.command(verb, help=f"{text} Each ID may be what it begins with.")
    @click.argument("pipeline_ids", metavar="ID...", nargs=-1, required=True)
    @as_json_option
    @click.pass_context
    def command(ctx: click.Context, pipeline_ids: tuple[str, ...], as_json: bool) -> None:
        client = ctx.obj.client()
        entries = client.list("pipelines")
        well = [_change(client, verb, done, given, entries, as_json) for given in dict.fromkeys(pipeline_ids)]
        ctx.exit(0 if all(well) else 1)

    return command


def _change(
    client: Client, verb: str, done: str, given: str, entries: Sequence[dict[str, Any]], as_json: bool
) -> bool:
    """Whether it went well; if not the others change all the same."""
    try:
        pipeline_id = find(given, entries)["pipeline_id"]
        show(change(client, verb, pipeline_id), as_json, f"{pipeline_id} {done}")
    except CommandFailed as exc:
        show_error(exc)
        return False
    return True


pause = _changing("pause", "paused", "Stop emitting; a file waits at its frame.")
resume = _changing("resume", "resumed", "Go on emitting.")
terminate = _changing("terminate", "terminated", "End a pipeline and forget it.")


@click.command()
@click.argument("pipeline_id", metavar="[ID]", required=False)
@click.option("-n", "count", type=click.IntRange(1), help="Stop after that many.")
@as_json_option
@click.pass_obj
def tail(settings: Settings, pipeline_id: str | None, count: int | None, as_json: bool) -> None:
    """Predictions as they happen, of one pipeline or of all."""
    from urllib.parse import urlencode

    from streamfleet_api.tail import ShortIds, follow, line

    client = settings.client()
    query = ""
    if pipeline_id is not None:
        query = f"?{urlencode({'pipeline': find(pipeline_id, client.list('pipelines'))['pipeline_id']})}"
    name = ShortIds(client) if on_terminal() else str
    with contextlib.closing(follow(client, f"/v2/predictions{query}", warn)) as predictions:
        for data in itertools.islice(predictions, count):
            click.echo(data if as_json else plain(line(json.loads(data), name)))


def _status_lines(pipeline_id: str, report: dict[str, Any]) -> Iterator[str]:
    yield f"{pipeline_id}: {report['state']} on {report['device'] or 'no device'}"
    if report["restarts"]:
        yield f"  restarts    {report['restarts']}"
    if report["reason"]:
        yield f"  reason      {report['reason']}"
    yield f"  throughput  {report['inference_throughput']:.1f} frames/s"
    for source in report["sources_metadata"]:
        yield f"  source {source['source_id']}    {source['source_reference']} {source['state']}"
    for latency in report["latency_reports"]:
        if latency["e2e_latency"] is not None:
            milliseconds = latency["e2e_latency"] * 1000
            yield f"  latency {latency['source_id']}   {milliseconds:.0f} ms from frame to prediction"
    for update in report["video_source_status_updates"][-5:]:
        yield f"  {update['timestamp']}  {update['event_type']}  {_brief(update['payload'])}"


def _brief(payload: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in payload.items())


PIPELINE_COMMANDS = (init, status, pipelines, pause, resume, terminate, tail)
