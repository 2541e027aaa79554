"""The commands of `streamfleet devices` that move pipelines on purpose."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.devices import guessing
from streamfleet_api.cli.commands.drain_text import is_drained, left_lines, progress, rebalance_lines
from streamfleet_api.cli.context import Settings, as_json_option, complete_device
from streamfleet_api.cli.tables import plain, show

if TYPE_CHECKING:
    from streamfleet.results import Device
    from streamfleet_api.client.http_client import Client

_EVERY = 0.5  # seconds between two looks
_FORCED = 45.0  # seconds after --timeout for the last pipelines to move


@click.command("cordon")
@click.argument("name", callback=parameters.name, shell_complete=complete_device)
@as_json_option
@click.pass_obj
def cordon_device(settings: Settings, name: str, as_json: bool) -> None:
    """Place nothing on a device any more. What runs there goes on.

    \b
      streamfleet devices cordon edge-1
    """
    with guessing(settings, name):
        entry = settings.client().cordon_device(name)
    show(entry, as_json, f"{name} is cordoned: 'streamfleet devices uncordon {name}' takes that back")


@click.command("uncordon")
@click.argument("name", callback=parameters.name, shell_complete=complete_device)
@as_json_option
@click.pass_obj
def uncordon_device(settings: Settings, name: str, as_json: bool) -> None:
    """Place pipelines on a device again, and end its drain.

    \b
      streamfleet devices uncordon edge-1
    """
    with guessing(settings, name):
        entry = settings.client().uncordon_device(name)
    show(entry, as_json, f"{name} takes pipelines again")


@click.command("drain")
@click.argument("name", callback=parameters.name, shell_complete=complete_device)
@click.option("--wait", is_flag=True, help="Wait until nothing moves any more. Ctrl-C ends only the waiting.")
@click.option(
    "--timeout",
    metavar="TIME",
    help="Wait for files and for other devices only so long: 90s, 15m. Then files begin again elsewhere.",
)
@click.option("--force", is_flag=True, help="The same as --timeout 0s.")
@as_json_option
@click.pass_context
def drain_device(
    ctx: click.Context, name: str, wait: bool, timeout: str | None, force: bool, as_json: bool
) -> None:
    """Cordon a device, and move its pipelines to others.

    Each runs on until another device is ready for it. Files end first. What cannot move is listed with the
    reason, and then the exit status of --wait is 1. The drain goes on until 'streamfleet devices uncordon'.

    \b
      streamfleet devices drain edge-1 --wait --timeout 10m
    """
    settings: Settings = ctx.obj
    if force and timeout is not None:
        raise click.UsageError("--force is --timeout 0s: give one of them")
    after = 0.0 if force else None if timeout is None else parameters.seconds(timeout, "--timeout")
    client = settings.client()
    with guessing(settings, name):
        entry = client.drain_device(name, force_after=after)
    said = ""
    if wait:
        deadline = float("inf") if after is None else time.monotonic() + after + _FORCED
        entry, said = _wait(client, entry, deadline, silent=as_json)
    text = _text(entry)
    show(entry, as_json, text if text != said else f"{name} is not drained yet: the drain goes on")
    ctx.exit(1 if wait and entry.remaining else 0)


def _wait(client: Client, entry: Device, deadline: float, *, silent: bool) -> tuple[Device, str]:
    """Look until the device is drained, or an operator uncordons it. Say each change on stderr.

    Returns the device, and what was said last.
    """
    said = ""
    while entry.draining and not is_drained(entry) and time.monotonic() < deadline:
        text = _text(entry)
        if text != said and not silent:
            click.echo(text, err=True)
        said = text
        time.sleep(_EVERY)
        entry = client.get_device(entry.device)
    return entry, said


def _text(entry: Device) -> str:
    return "\n".join(map(plain, [progress(entry), *left_lines(entry)]))


@click.command("rebalance")
@click.option("--dry-run", is_flag=True, help="Only say what would move.")
@as_json_option
@click.pass_obj
def rebalance_devices(settings: Settings, dry_run: bool, as_json: bool) -> None:
    """Move running pipelines from devices with much load to others with less.

    Each runs on until another device is ready for it, at most four at a time. Files, and what never moves,
    stay.

    \b
      streamfleet devices rebalance --dry-run
    """
    found = settings.client().rebalance_devices(dry_run=dry_run)
    show(found, as_json, "\n".join(map(plain, rebalance_lines(found, dry_run=dry_run))))


DRAIN_COMMANDS = (cordon_device, uncordon_device, drain_device, rebalance_devices)
