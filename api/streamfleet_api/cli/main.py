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

from streamfleet.defaults import DEFAULT_DATA_DIR, DEFAULT_URL
from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.apply import FLEET_FILE_COMMANDS
from streamfleet_api.cli.commands.backup import BACKUP_COMMANDS
from streamfleet_api.cli.commands.devices import devices
from streamfleet_api.cli.commands.doctor import doctor
from streamfleet_api.cli.commands.drain import DRAIN_COMMANDS
from streamfleet_api.cli.commands.drill import drill
from streamfleet_api.cli.commands.models import models
from streamfleet_api.cli.commands.pipelines import PIPELINE_COMMANDS
from streamfleet_api.cli.commands.ready import ready
from streamfleet_api.cli.commands.rollout import rollout, rollouts
from streamfleet_api.cli.commands.run import RUN_COMMANDS
from streamfleet_api.cli.commands.samples import samples
from streamfleet_api.cli.commands.streams import STREAM_COMMANDS
from streamfleet_api.cli.commands.subscribers import keys, subscribers
from streamfleet_api.cli.context import Commands, Settings
from streamfleet_api.cli.tables import plain
from streamfleet_api.local.options import ENVIRONMENT, MAX_WORKERS, Options, joined_before, workers_for
from streamfleet_core.protocol.limits import MAX_PORT

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--url",
    envvar="STREAMFLEET_URL",
    show_envvar=True,
    default=DEFAULT_URL,
    show_default=True,
    callback=parameters.address,
    help="URL of the fleet's API.",
)
@click.option(
    "--token",
    envvar="STREAMFLEET_TOKEN",
    show_envvar=True,
    help="The operator's token, for a fleet on another machine.",
)
@click.option(
    "--fingerprint",
    envvar="STREAMFLEET_FINGERPRINT",
    show_envvar=True,
    help="SHA-256 of its certificate, as 'streamfleet up' shows it.",
)
@click.option(
    "--ca",
    "issuer",
    envvar="STREAMFLEET_CA",
    show_envvar=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="PEM file with the issuer of its certificate.",
)
@click.option(
    "--data-dir",
    envvar="STREAMFLEET_DATA_DIR",
    show_envvar=True,
    default=DEFAULT_DATA_DIR,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Data directory of a fleet on this machine.",
)
@click.version_option(package_name="streamfleet", message="streamfleet %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    url: str,
    token: str | None,
    fingerprint: str | None,
    issuer: Path | None,
    data_dir: Path,
) -> None:
    """Video inference on a fleet of devices.

    \b
      streamfleet up --demo
      streamfleet COMMAND --help

    Tab completes commands and names after: eval "$(_STREAMFLEET_COMPLETE=bash_source streamfleet)" (or
    zsh_source). Exit codes: 0 done, 1 it could not be done, 2 a wrong command, 130 Ctrl-C; of
    'run --wait' also 3 it has failed, 4 it did not predict in time.
    """
    ctx.obj = Settings(
        url=url,
        token=token,
        data_dir=data_dir.expanduser().absolute(),
        fingerprint=fingerprint,
        issuer=issuer,
    )


# a fleet on this machine ----------------------------------------------------------------------------------


def _port(option: str, default: int, text: str) -> Callable[[F], F]:
    """An option for a port of the broker's, and the name that this one has in the broker's environment."""
    names = list(ENVIRONMENT[option])
    number = click.IntRange(1, MAX_PORT)
    return click.option(option, envvar=names, default=default, show_default=True, type=number, help=text)


def _read_by(
    name: str,
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]:
    """Checks each value of an option as the api will, which takes a moment to load."""

    def check(ctx: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
        if texts:
            from streamfleet_api import config

            try:
                for text in texts:
                    getattr(config, name)(text)
            except config.BadConfig as exc:
                raise click.UsageError(str(exc), ctx) from exc
        return texts

    return check


@cli.command()
@click.option(
    "--workers",
    show_default="as many as there were; at first 1, 2 with --demo",
    type=click.IntRange(0, MAX_WORKERS),
    help="Number of workers on this machine.",
)
@click.option(
    "--host",
    envvar=list(ENVIRONMENT["--host"]),
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Address to listen on; 0.0.0.0 for the network.",
)
@click.option(
    "--port",
    envvar=list(ENVIRONMENT["--port"]),
    default=8080,
    show_default=True,
    show_envvar=True,
    type=click.IntRange(0, MAX_PORT),
    help="Port of the HTTP API.",
)
@click.option(
    "--manager-port",
    envvar=list(ENVIRONMENT["--manager-port"]),
    default=7070,
    show_default=True,
    show_envvar=True,
    type=click.IntRange(0, MAX_PORT),
    help="TCP port of the Stream Manager; 0: none.",
)
@_port("--devices-port", 7771, "Port for the control of devices.")
@_port("--relay-in-port", 7773, "Port for predictions from devices.")
@_port("--relay-out-port", 7774, "Port for subscribers on other machines.")
@_port("--pictures-in-port", 7775, "Port for pictures from devices.")
@_port("--pictures-out-port", 7776, "Port for picture subscribers on other machines.")
@click.option("--advertise", multiple=True, metavar="HOST", help="Address of this host for other hosts.")
@click.option(
    "--trust",
    multiple=True,
    metavar="CIDR",
    callback=_read_by("network"),
    help="Network that needs no token for HTTP.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    callback=_read_by("allowed_host"),
    help="Additional host name under which HTTP needs no token.",
)
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    callback=_read_by("origin"),
    help="Allow web pages of this origin, for example https://page.example.",
)
@click.option(
    "--tls-cert",
    envvar="STREAMFLEET_TLS_CERT",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Serve HTTPS with this certificate (PEM) instead of a generated one.",
)
@click.option(
    "--tls-key",
    envvar="STREAMFLEET_TLS_KEY",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Its key (PEM), if that file has none.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Accept the token over plain HTTP from other machines. It can be intercepted.",
)
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Data directory.")
@click.option("--demo", is_flag=True, help="Run a demo: four cameras over generated conveyor belts.")
@click.pass_obj
def up(settings: Settings, /, data_dir: Path | None, workers: int | None, **options: Any) -> None:
    """Start a fleet on this machine, until Ctrl-C.

    \b
      streamfleet up --demo
    """
    from streamfleet_api.local.demo import WORKERS
    from streamfleet_api.local.up import run

    folder = data_dir.expanduser().absolute() if data_dir else settings.data_dir
    if workers is None:
        workers = workers_for(joined_before(folder), at_least=WORKERS if options["demo"] else 1)
    sys.exit(run(Options(data_dir=folder, workers=workers, **options), lambda text: click.echo(text)))


for _each in (
    *RUN_COMMANDS,
    *PIPELINE_COMMANDS,
    *FLEET_FILE_COMMANDS,
    *STREAM_COMMANDS,
    devices,
    models,
    rollout,
    rollouts,
    samples,
    keys,
    subscribers,
    ready,
    doctor,
    drill,
    *BACKUP_COMMANDS,
):
    cli.add_command(_each)
for _each in DRAIN_COMMANDS:
    devices.add_command(_each)


def main() -> None:
    """The console script."""
    try:
        cli(prog_name="streamfleet")  # click itself ends `streamfleet tail | head` quietly
    except OSError as exc:  # a disk that is full, as in `streamfleet tail > file`
        click.echo(f"error: {plain(str(exc))}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again
        sys.exit(1)


if __name__ == "__main__":
    main()
