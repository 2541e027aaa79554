"""`streamfleet`: tables for people, `--json` for programs, errors on stderr with the next step.

It starts fast: what a command needs is imported when that command runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from streamfleet_api import arguments
from streamfleet_api.commands import DEFAULT_URL, CommandFailed, Rejected
from streamfleet_api.pipeline_commands import PIPELINE_COMMANDS
from streamfleet_api.settings import Commands, Settings, as_json_option, warn
from streamfleet_api.tables import on_terminal, show, show_table

DEFAULT_DATA_DIR = "~/.streamfleet"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--url",
    envvar="STREAMFLEET_URL",
    show_envvar=True,
    default=DEFAULT_URL,
    show_default=True,
    help="The fleet's api.",
)
@click.option(
    "--token",
    envvar="STREAMFLEET_TOKEN",
    show_envvar=True,
    help="The operator's token, for a fleet elsewhere.",
)
@click.option(
    "--data-dir",
    envvar="STREAMFLEET_DATA_DIR",
    show_envvar=True,
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
    "--workers", show_default="1; 2 with --demo", type=click.IntRange(0, 64), help="Workers on this machine."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen here; 0.0.0.0 for the network.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="HTTP.")
@click.option(
    "--devices-port",
    default=7771,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Devices join and are steered here.",
)
@click.option(
    "--relay-in-port",
    default=7773,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Devices send predictions here.",
)
@click.option(
    "--relay-out-port",
    default=7774,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Subscribers elsewhere connect here.",
)
@click.option(
    "--pictures-in-port",
    default=7775,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Devices send pictures here.",
)
@click.option(
    "--pictures-out-port",
    default=7776,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Who looks at pictures from elsewhere connects here.",
)
@click.option("--advertise", multiple=True, metavar="HOST", help="How other hosts reach this one.")
@click.option("--trust", multiple=True, metavar="CIDR", help="A network whose HTTP needs no token.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep everything here.")
@click.option("--demo", is_flag=True, help="With four cameras over generated conveyor belts.")
@click.pass_obj
def up(settings: Settings, /, data_dir: Path | None, workers: int | None, **options: Any) -> None:
    """Start a fleet: broker, api and workers, until Ctrl-C."""
    from streamfleet_api.demo import WORKERS
    from streamfleet_api.up import Options, run

    folder = data_dir.expanduser().absolute() if data_dir else settings.data_dir
    if workers is None:
        workers = WORKERS if options["demo"] else 1
    sys.exit(run(Options(data_dir=folder, workers=workers, **options), lambda text: click.echo(text)))


# models ---------------------------------------------------------------------------------------------------


@cli.group()
def models() -> None:
    """The models that pipelines may name."""


@models.command("add")
@click.argument("model_id", metavar="ID", callback=arguments.model_id)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Class names, one a line."
)
@click.option("--family", type=click.Choice(["yolox", "ultralytics"]), help="How its output is laid out.")
@click.option("--replace", is_flag=True, help="Put it in the place of what ID stands for now.")
@as_json_option
@click.pass_obj
def add_model(
    settings: Settings,
    /,
    model_id: str,
    file: Path,
    labels: Path | None,
    family: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Upload the ONNX FILE, and let pipelines name it ID, as in shapes/1."""
    from streamfleet_api.client import digest_of, path_of

    body: dict[str, Any] = {"weights": digest_of(file), "replace": replace}
    if labels is not None:
        body["labels"] = [line.strip() for line in labels.read_text("utf-8").splitlines() if line.strip()]
    if family is not None:
        body["family"] = family
    client = settings.client()
    client.upload(body["weights"], file)
    try:
        model = client.send("PUT", path_of("v2", "models", *model_id.split("/")), body)
    except Rejected as exc:
        raise CommandFailed(f"{file}: {exc}", exc.hint) if exc.status == 422 else exc from exc
    text = f"{model['id']}: {model['family']}, {_size(model)}, {len(model['labels'])} classes"
    if model["replaces"]:
        text += f"\nreplaces {model['replaces'][:12]}; running pipelines keep it"
    show(model, as_json, text)


@models.command("list")
@as_json_option
@click.pass_obj
def list_models(settings: Settings, as_json: bool) -> None:
    """Every model."""
    found = settings.client().list("models")
    rows = [
        (
            model["id"],
            model["family"] or "",
            _size(model) if model["input_width"] else "",
            _labels(model["labels"] or []),
            model["digest"][:12],
        )
        for model in found
    ]
    show_table(
        found,
        as_json,
        ("ID", "family", "input", "classes", "digest"),
        rows,
        empty="no models: streamfleet models add ID FILE",
        shortened="classes",
    )


for _each in PIPELINE_COMMANDS:
    cli.add_command(_each)


# devices and keys -----------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True)
@as_json_option
@click.pass_context
def devices(ctx: click.Context, as_json: bool) -> None:
    """Every device, its state, how many pipelines it runs."""
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.client().list("devices")
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
    show_table(found, as_json, ("device", "state", "pipelines", "silent", "version"), rows, empty=hint)


@devices.command("add")
@click.argument("name")
@click.option(
    "--ttl",
    default="15m",
    show_default=True,
    help="How long the token is good: 90s, 15m, 2h, 1d.",
)
@click.option("--token-only", is_flag=True, help="Nothing but the token, for scripts.")
@as_json_option
@click.pass_obj
def add_device(settings: Settings, name: str, ttl: str, token_only: bool, as_json: bool) -> None:
    """Let one device of this NAME join: prints its token."""
    from streamfleet_broker.protocol.errors import BadToken
    from streamfleet_broker.protocol.tokens import JoinToken

    body = {"name": name, "ttl": arguments.seconds(ttl, "--ttl")}
    answer = settings.client().send("POST", "/v2/devices", body)
    show(answer, as_json, answer["token"])
    if not token_only and not as_json:
        click.echo(
            f"\nOn the device, within {ttl}:\n\n"
            f"  streamfleet-worker --join {answer['token']}\n\n"
            "The token is good for one device, once.",
            err=True,
        )
    with contextlib.suppress(BadToken):  # a fleet of another version: what its tokens hold is its own
        _warn_if_only_here(JoinToken.decode(answer["token"]).endpoints)


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
    from streamfleet_api.script import reached, subscriber_script

    answer = settings.client().send("POST", "/v2/subscribers", {"name": name, "device": device})
    click.echo(subscriber_script(answer, settings.url), nl=False)
    if not on_terminal():
        warn(f"the key in it is known nowhere else: keep the program as private as '{name}' is")
    if device is None:
        _warn_if_only_here([reached(answer["endpoint"], settings.url)])


# helpers --------------------------------------------------------------------------------------------------


def _warn_if_only_here(endpoints: Iterable[str]) -> None:
    from streamfleet_api.client import only_here

    if only_here(endpoints):
        warn("the fleet listens on this machine only: start it with --host")


def _size(model: dict[str, Any]) -> str:
    return f"{model['input_width']}x{model['input_height']}"


def _labels(labels: list[str]) -> str:
    shown = ", ".join(labels[:4])
    return f"{len(labels)}: {shown}, …" if len(labels) > 4 else f"{len(labels)}: {shown}"


def main() -> None:
    """The console script."""
    try:
        cli(prog_name="streamfleet")  # click itself ends `streamfleet tail | head` quietly
    except OSError as exc:  # a disk that is full, as in `streamfleet tail > file`
        click.echo(f"error: {exc}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again
        sys.exit(1)


if __name__ == "__main__":
    main()
