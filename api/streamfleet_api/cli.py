"""`streamfleet`: tables for people, `--json` for programs, errors on stderr with the next step.

It starts fast: what a command needs is imported when that command runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamfleet_api.commands import DEFAULT_URL, CommandFailed

if TYPE_CHECKING:
    from streamfleet_api.client import Client

DEFAULT_DATA_DIR = "~/.streamfleet"
DEFAULT_SINK = "127.0.0.1:37020"  # where the original's UdpStream sends

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

F = TypeVar("F", bound=Callable[..., Any])


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
    """A group whose failures are two lines on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as exc:
            click.echo(f"error: {exc}", err=True)
            if exc.hint:
                click.echo(f"       {exc.hint}", err=True)
            ctx.exit(1)


_JSON = click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--url", envvar="STREAMFLEET_URL", default=DEFAULT_URL, show_default=True, help="The fleet's api."
)
@click.option("--token", envvar="STREAMFLEET_TOKEN", help="The operator's token, for a fleet elsewhere.")
@click.option(
    "--data-dir",
    envvar="STREAMFLEET_DATA_DIR",
    default=DEFAULT_DATA_DIR,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where a fleet on this machine keeps everything.",
)
@click.version_option(package_name="streamfleet", message="streamfleet %(version)s")
@click.pass_context
def cli(ctx: click.Context, url: str, token: str | None, data_dir: Path) -> None:
    """Video inference on a fleet of devices."""
    ctx.obj = Settings(url, token, data_dir.expanduser().absolute())


# a fleet on this machine ----------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(0, 64), help="Workers on this machine."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen here; 0.0.0.0 for the network.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="HTTP.")
@click.option("--devices-port", default=7771, show_default=True, type=click.IntRange(1, 65535))
@click.option("--relay-in-port", default=7773, show_default=True, type=click.IntRange(1, 65535))
@click.option("--relay-out-port", default=7774, show_default=True, type=click.IntRange(1, 65535))
@click.option("--advertise", multiple=True, metavar="HOST", help="How other hosts reach this one.")
@click.option("--trust", multiple=True, metavar="CIDR", help="A network whose HTTP needs no token.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep everything here.")
@click.option("--demo", is_flag=True, help="With a demo model on a test pattern.")
@click.pass_obj
def up(settings: Settings, /, data_dir: Path | None, **options: Any) -> None:
    """Start a fleet: broker, api and workers, until Ctrl-C."""
    from streamfleet_api.up import Options, run

    folder = data_dir.expanduser().absolute() if data_dir else settings.data_dir
    sys.exit(run(Options(data_dir=folder, **options), lambda text: click.echo(text)))


# models ---------------------------------------------------------------------------------------------------


@cli.group()
def models() -> None:
    """The models that pipelines may name."""


@models.command("add")
@click.argument("model_id", metavar="ID")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Class names, one a line."
)
@click.option("--family", type=click.Choice(["yolox", "ultralytics"]), help="How its output is laid out.")
@_JSON
@click.pass_obj
def add_model(
    settings: Settings, model_id: str, file: Path, labels: Path | None, family: str | None, as_json: bool
) -> None:
    """Upload the ONNX FILE, and let pipelines name it ID, as in shapes/1."""
    from streamfleet_api.client import digest_of

    body: dict[str, Any] = {"weights": digest_of(file)}
    if labels is not None:
        body["labels"] = [line.strip() for line in labels.read_text("utf-8").splitlines() if line.strip()]
    if family is not None:
        body["family"] = family
    client = settings.client()
    client.upload(body["weights"], file)
    model = client.send("PUT", f"/v2/models/{_model_path(model_id)}", body)
    size = f"{model['input_width']}x{model['input_height']}"
    _print(model, as_json, f"{model['id']}: {model['family']}, {size}, {len(model['labels'])} classes")


@models.command("list")
@_JSON
@click.pass_obj
def list_models(settings: Settings, as_json: bool) -> None:
    """Every model."""
    found = settings.client().get("/v2/models")["models"]
    rows = [
        (
            model["id"],
            model.get("family", ""),
            f"{model['input_width']}x{model['input_height']}" if "input_width" in model else "",
            _labels(model.get("labels", [])),
            model["digest"][:12],
        )
        for model in found
    ]
    _table(
        found,
        as_json,
        ("ID", "family", "input", "classes", "digest"),
        rows,
        "no models: streamfleet models add ID FILE",
    )


# pipelines ------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--model", required=True, metavar="ID", help="As in 'streamfleet models list'.")
@click.option(
    "--video",
    required=True,
    help="A file on the device, a URL, a device index, or TestPatternStreamProducer.",
)
@click.option(
    "--sink", default=DEFAULT_SINK, show_default=True, metavar="HOST:PORT", help="Where datagrams go."
)
@click.option("--device", help="Run it on this device and no other.")
@click.option("--tracker", type=click.Choice(["bytetrack"]), help="Give objects an id from frame to frame.")
@click.option("--max-fps", type=float)
@click.option("--confidence", type=click.FloatRange(0, 1))
@click.option("--iou-threshold", type=click.FloatRange(0, 1))
@click.option("--max-detections", type=click.IntRange(1))
@click.option("--class-agnostic-nms", is_flag=True, default=None)
@_JSON
@click.pass_obj
def init(
    settings: Settings,
    /,
    model: str,
    video: str,
    sink: str,
    device: str | None,
    tracker: str | None,
    max_fps: float | None,
    as_json: bool,
    **filtering: Any,
) -> None:
    """Put a video and a model to work."""
    host, port = _host_and_port(sink)
    body = {
        "model_id": model,
        "video_reference": _reference(video),
        "sink_configuration": {"type": "udp_sink", "host": host, "port": port},
        "max_fps": max_fps,
        "device": device,
        "tracker": tracker,
        "model_configuration": filtering,
    }
    answer = settings.client().send("POST", "/initialise", body)
    context = answer["context"]
    _print(answer, as_json, f"{context['pipeline_id']} on {context['device'] or 'no device yet'}")


@cli.command()
@click.argument("pipeline_id", metavar="ID")
@_JSON
@click.pass_obj
def status(settings: Settings, pipeline_id: str, as_json: bool) -> None:
    """All that is known of one pipeline."""
    answer = settings.client().get(_path("status", pipeline_id))
    _print(answer, as_json, "\n".join(_status_lines(pipeline_id, answer["report"])))


@cli.command()
@_JSON
@click.pass_obj
def pipelines(settings: Settings, as_json: bool) -> None:
    """Every pipeline: where it runs, its rate, what went wrong."""
    found = settings.client().get("/v2/pipelines")["pipelines"]
    rows = [
        (
            entry["pipeline_id"],
            entry["status"],
            entry["device"] or "",
            "" if entry["fps"] is None or entry["age"] > 5 else f"{entry['fps']:.1f}",
            entry["spec"]["model"]["id"],
            str(entry["spec"]["sources"][0]["reference"]),
            entry["reason"],
        )
        for entry in found
    ]
    hint = "no pipelines: streamfleet init --model ID --video SOURCE"
    _table(found, as_json, ("ID", "state", "device", "fps", "model", "video", "reason"), rows, hint)


def _command(verb: str, done: str, text: str) -> None:
    @cli.command(verb, help=text)
    @click.argument("pipeline_id", metavar="ID")
    @_JSON
    @click.pass_obj
    def command(settings: Settings, pipeline_id: str, as_json: bool) -> None:
        answer = settings.client().send("POST", _path(verb, pipeline_id))
        _print(answer, as_json, f"{pipeline_id} {done}")


_command("pause", "paused", "Stop emitting; a file waits at its frame.")
_command("resume", "resumed", "Go on emitting.")
_command("terminate", "terminated", "End a pipeline and forget it.")


@cli.command()
@click.argument("pipeline_id", metavar="[ID]", required=False)
@click.option("-n", "count", type=click.IntRange(1), help="Stop after that many.")
@_JSON
@click.pass_obj
def tail(settings: Settings, pipeline_id: str | None, count: int | None, as_json: bool) -> None:
    """Predictions as they happen, of one pipeline or of all."""
    from urllib.parse import urlencode

    query = f"?{urlencode({'pipeline': pipeline_id})}" if pipeline_id else ""
    shown = 0
    with contextlib.closing(settings.client().events(f"/v2/predictions{query}")) as events:
        for name, data in events:
            if name == "gap":
                click.echo(f"{json.loads(data)['gap']} predictions are missing here", err=True)
                continue
            click.echo(data if as_json else _prediction(json.loads(data)))
            shown += 1
            if shown == count:
                return


# devices and keys -----------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True)
@_JSON
@click.pass_context
def devices(ctx: click.Context, as_json: bool) -> None:
    """Every device, its state, how many pipelines it runs."""
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.client().get("/v2/devices")["devices"]
    rows = [
        (
            entry["device"],
            entry["state"],
            f"{entry['pipelines']} of {entry['capacity']}",
            "" if entry["silent"] is None else f"{entry['silent']:.0f} s",
            entry["agent"],
        )
        for entry in found
    ]
    hint = "no devices: streamfleet devices add NAME"
    _table(found, as_json, ("device", "state", "pipelines", "silent", "version"), rows, hint)


@devices.command("add")
@click.argument("name")
@click.option("--ttl", default="15m", show_default=True, help="How long the token is good: 90s, 15m, 2h, 1d.")
@click.option("--token-only", is_flag=True, help="Nothing but the token, for scripts.")
@_JSON
@click.pass_obj
def add_device(settings: Settings, name: str, ttl: str, token_only: bool, as_json: bool) -> None:
    """Let one device of this NAME join: prints its token."""
    answer = settings.client().send("POST", "/v2/devices", {"name": name, "ttl": _seconds(ttl)})
    _print(answer, as_json, answer["token"])
    if not token_only and not as_json:
        click.echo(
            f"\nOn the device, within {ttl}:\n\n  streamfleet-worker --join {answer['token']}\n\n"
            "The token is good for one device, once.",
            err=True,
        )


@cli.group()
def keys() -> None:
    """Keys for programs elsewhere."""


@keys.command("subscriber")
@click.argument("name")
@click.option("--device", metavar="NAME", help="Connect to this device itself, which has a --publish-port.")
@click.pass_obj
def add_subscriber(settings: Settings, name: str, device: str | None) -> None:
    """Print a Python program that subscribes to predictions from any host, with a key of its own.

    It needs pyzmq and msgpack: streamfleet keys subscriber NAME > sub.py
    """
    from streamfleet_api.script import subscriber_script

    answer = settings.client().send("POST", "/v2/subscribers", {"name": name, "device": device})
    click.echo(subscriber_script(answer, settings.url), nl=False)
    if not sys.stdout.isatty():
        click.echo(
            f"the key in it is known nowhere else: keep the program as private as '{name}' is", err=True
        )


# helpers --------------------------------------------------------------------------------------------------


def _print(answer: Any, as_json: bool, text: str) -> None:
    click.echo(json.dumps(answer, indent=2) if as_json else text)


def _table(
    found: list[Any], as_json: bool, header: Sequence[str], rows: Iterable[Sequence[str]], empty: str
) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo(empty, err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    width = None if sys.stdout.isatty() else 250  # what reads a pipe wants whole lines
    Console(width=width, highlight=False).print(table)


def _plain(cell: str) -> Any:
    """Text from the fleet is text: it is no markup, and moves no cursor."""
    from rich.text import Text

    return Text("".join(each if each.isprintable() else "?" for each in cell))


def _status_lines(pipeline_id: str, report: dict[str, Any]) -> Iterator[str]:
    yield f"{pipeline_id}: {report['state']} on {report['device'] or 'no device'}"
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


def _labels(labels: list[str]) -> str:
    shown = ", ".join(labels[:4])
    return f"{len(labels)}: {shown}, …" if len(labels) > 4 else f"{len(labels)}: {shown}"


def _brief(payload: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in payload.items())


def _prediction(message: dict[str, Any]) -> str:
    about = message["inference_metadata"]
    found = " ".join(_object(prediction) for prediction in message["predictions"]) or "nothing"
    return f"{about['pipeline_id']} {about['device']} #{about['frame_id']} {found}"


def _object(prediction: dict[str, Any]) -> str:
    track = f"#{prediction['tracker_id']}" if "tracker_id" in prediction else ""
    place = f"({prediction['x']:.0f},{prediction['y']:.0f})"
    return f"{prediction['class']}{track} {prediction['confidence']:.2f} {place}"


def _path(*parts: str) -> str:
    from streamfleet_api.client import path_of

    return path_of(*parts)


def _model_path(model_id: str) -> str:
    from streamfleet_api.client import path_of

    return path_of(*model_id.split("/")).removeprefix("/")


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"expected HOST:PORT, came {text!r}", param_hint="--sink")
    return host.strip("[]"), int(port)


def _reference(text: str) -> str | int:
    """A device index is a number; a file of this machine is named whole, as the worker has another folder."""
    if text.isdigit():
        return int(text)
    path = Path(text)
    return str(path.absolute()) if path.is_file() else text


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise click.BadParameter(f"expected 90s, 15m, 2h or 1d, came {text!r}", param_hint="--ttl")
    return float(found[1]) * _UNITS[found[2] or "s"]


def main() -> None:
    """The console script."""
    try:
        cli(prog_name="streamfleet")
    except BrokenPipeError:  # `streamfleet tail | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
