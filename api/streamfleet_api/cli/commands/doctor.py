"""`streamfleet doctor`: what is wrong with this machine, or with a device, and the step that mends it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from streamfleet.defaults import DEFAULT_URL
from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.devices import guessing
from streamfleet_api.cli.context import Settings, as_json_option, complete_device
from streamfleet_api.cli.tables import counted, document, say
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet_core.runtime.finding import Finding

_TIMEOUT = 4.0  # seconds for an answer of the API
_MOST_OFFSET = 2.0  # seconds; the API tells whole seconds


@click.command()
@click.argument("device", required=False, callback=parameters.name, shell_complete=complete_device)
@as_json_option
@click.pass_context
def doctor(ctx: click.Context, device: str | None, as_json: bool) -> None:
    """Say what is wrong with this machine or a DEVICE.

    What is wrong comes with what mends it. Without DEVICE it needs no fleet. A device is judged by what it
    last told the fleet. Exits with 1 if something does not work.

    \b
      streamfleet doctor
      streamfleet doctor edge-1
    """
    from streamfleet_core.runtime.finding import has_error, lines

    settings: Settings = ctx.obj
    findings = _this_machine(settings) if device is None else _device(settings, device)
    if as_json:
        click.echo(document(findings, indent=2))
    else:
        for line in lines(findings):
            say(line)
        click.echo(_summary(findings))
    ctx.exit(int(has_error(findings)))


def _this_machine(settings: Settings) -> list[Finding]:
    from streamfleet_api.local.machine_findings import machine_findings, options_of, port_findings

    return [
        *machine_findings(settings.data_dir),
        *port_findings(options_of(settings.data_dir, os.environ)),
        *_fleet(settings),
    ]


def _fleet(settings: Settings) -> Iterator[Finding]:
    """Does the API answer, and do its clock and ours agree?"""
    from streamfleet_api.local.machine_findings import is_running
    from streamfleet_core.runtime.finding import error, ok, warning

    try:
        ahead = settings.client(timeout=_TIMEOUT).clock_offset()
    except CommandFailed as exc:
        expected = settings.url != DEFAULT_URL or is_running(settings.data_dir)
        yield (
            error("fleet", str(exc), exc.hint) if expected else ok("fleet", f"none answers at {settings.url}")
        )
        return
    yield ok("fleet", f"it answers at {settings.url}")
    if ahead is None or abs(ahead) <= _MOST_OFFSET:
        return
    shown = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the API's"
    yield warning("clock", f"ours is {shown}", "on both machines: timedatectl; sudo timedatectl set-ntp true")


def _device(settings: Settings, name: str) -> list[Finding]:
    """Raises: CommandFailed."""
    from streamfleet_api.cli.device_findings import device_findings

    client = settings.client()
    with guessing(settings, name):
        entry = client.get_device(name)
    version = importlib.metadata.version("streamfleet")
    pipelines, models = client.list_pipelines(device=name), client.list_models()
    return list(device_findings(entry, pipelines, models, version=version))


def _summary(findings: list[Finding]) -> str:
    errors = sum(each.severity == "error" for each in findings)
    warnings = sum(each.severity == "warning" for each in findings)
    if not errors and not warnings:
        return "nothing is wrong"
    return f"{counted(errors, 'error', 'errors')}, {counted(warnings, 'warning', 'warnings')}"
