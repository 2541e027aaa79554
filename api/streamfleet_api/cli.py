"""`streamfleet`: tables for people, `--json` for programs, errors on stderr with the next step.

It starts fast: what a command needs is imported when that command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from streamfleet_api.commands import DEFAULT_DATA_DIR, DEFAULT_URL
from streamfleet_api.device_commands import devices, keys
from streamfleet_api.model_commands import models
from streamfleet_api.options import MAX_WORKERS, Options, joined_before, workers_for
from streamfleet_api.pipeline_commands import PIPELINE_COMMANDS
from streamfleet_api.ready_command import ready
from streamfleet_api.run_commands import RUN_COMMANDS
from streamfleet_api.sample_commands import samples
from streamfleet_api.settings import Commands, Settings
from streamfleet_api.stream_commands import STREAM_COMMANDS

F = TypeVar("F", bound=Callable[..., Any])


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
    """Video inference on a fleet of devices.

    \b
      streamfleet up --demo
      streamfleet COMMAND --help

    Tab completes commands and names after: eval "$(_STREAMFLEET_COMPLETE=bash_source streamfleet)" (or
    zsh_source). Exit codes: 0 done, 1 it could not be done, 2 a wrong command, 130 Ctrl-C.
    """
    ctx.obj = Settings(url, token, data_dir.expanduser().absolute())


# a fleet on this machine ----------------------------------------------------------------------------------


def _port(option: str, default: int, text: str) -> Callable[[F], F]:
    """An option for a port of the broker's, and the name that this one has in the broker's environment."""
    name = f"STREAMFLEET_{option.removeprefix('--').replace('-', '_').upper()}"
    number = click.IntRange(1, 65535)
    return click.option(option, envvar=name, default=default, show_default=True, type=number, help=text)


def _networks(ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """As the api will read them. Raises: click.UsageError."""
    if texts:
        from streamfleet_api.config import BadConfig, network

        try:
            for text in texts:
                network(text)
        except BadConfig as exc:
            raise click.UsageError(str(exc), ctx) from exc
    return texts


@cli.command()
@click.option(
    "--workers",
    show_default="as many as there were; at first 1, 2 with --demo",
    type=click.IntRange(0, MAX_WORKERS),
    help="Workers on this machine.",
)
@click.option(
    "--host",
    envvar=["STREAMFLEET_HOST", "STREAM_MANAGEMENT_API_HOST"],
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Listen here; 0.0.0.0 for the network.",
)
@click.option(
    "--port",
    envvar=["STREAMFLEET_PORT", "STREAM_MANAGEMENT_API_PORT"],
    default=8080,
    show_default=True,
    show_envvar=True,
    type=click.IntRange(0, 65535),
    help="HTTP.",
)
@click.option(
    "--manager-port",
    envvar=["STREAMFLEET_MANAGER_PORT", "STREAM_MANAGER_PORT", "PORT"],
    default=7070,
    show_default=True,
    show_envvar=True,
    type=click.IntRange(0, 65535),
    help="The Stream Manager's commands over TCP; 0: none.",
)
@_port("--devices-port", 7771, "Devices join and are steered here.")
@_port("--relay-in-port", 7773, "Devices send predictions here.")
@_port("--relay-out-port", 7774, "Subscribers elsewhere connect here.")
@_port("--pictures-in-port", 7775, "Devices send pictures here.")
@_port("--pictures-out-port", 7776, "Who looks at pictures from elsewhere connects here.")
@click.option("--advertise", multiple=True, metavar="HOST", help="How other hosts reach this one.")
@click.option(
    "--trust",
    multiple=True,
    metavar="CIDR",
    callback=_networks,
    help="A network whose HTTP needs no token.",
)
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep everything here.")
@click.option("--demo", is_flag=True, help="With four cameras over generated conveyor belts.")
@click.pass_obj
def up(settings: Settings, /, data_dir: Path | None, workers: int | None, **options: Any) -> None:
    """Start a fleet on this machine, until Ctrl-C.

    \b
      streamfleet up --demo
    """
    from streamfleet_api.demo import WORKERS
    from streamfleet_api.up import run

    folder = data_dir.expanduser().absolute() if data_dir else settings.data_dir
    if workers is None:
        workers = workers_for(joined_before(folder), at_least=WORKERS if options["demo"] else 1)
    sys.exit(run(Options(data_dir=folder, workers=workers, **options), lambda text: click.echo(text)))


for _each in (
    *RUN_COMMANDS,
    *PIPELINE_COMMANDS,
    *STREAM_COMMANDS,
    devices,
    models,
    samples,
    keys,
    ready,
):
    cli.add_command(_each)


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
