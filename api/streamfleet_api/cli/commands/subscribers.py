"""The commands of `streamfleet` about programs elsewhere that subscribe, and about their keys."""

from __future__ import annotations

import json
from pathlib import Path

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.devices import warn_if_only_loopback
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import (
    Ordered,
    Settings,
    as_json_option,
    complete_device,
    complete_pipeline,
    completes,
    did_you_mean,
    listing,
    show_error,
    warn,
)
from streamfleet_api.cli.tables import Table, labelled, on_terminal, show_table
from streamfleet_api.client.errors import CommandFailed, Rejected

_subscribers = completes(lambda client: [each.name for each in client.list_subscribers()])


@click.group(cls=Ordered)
def keys() -> None:
    """Create keys for programs on other machines.

    \b
      streamfleet keys subscriber wall > wall.py
      streamfleet keys subscriber wall --to wall.json
    """


@keys.command("subscriber")
@click.argument("name", callback=parameters.name)
@click.option(
    "--device",
    metavar="NAME",
    shell_complete=complete_device,
    help="Connect directly to this device, which needs a --publish-port.",
)
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    metavar="ID",
    shell_complete=complete_pipeline,
    help="Allow only this pipeline and others that are given or selected. Repeatable.",
)
@click.option(
    "--select",
    "selector",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parameters.labels,
    help="Allow pipelines with this label. Repeatable: pipelines need all labels.",
)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the keys to this file, which only you can read, for streamfleet.subscribe(keys=FILE).",
)
@click.pass_obj
def add_subscriber(
    settings: Settings,
    /,
    name: str,
    device: str | None,
    pipelines: tuple[str, ...],
    selector: dict[str, str],
    file: Path | None,
) -> None:
    """Print a Python program that subscribes to predictions from any host, with its own key.

    It needs pyzmq and msgpack: streamfleet keys subscriber NAME > sub.py
    """
    from streamfleet.subscription import write_keys
    from streamfleet_api.cli.subscriber_script import is_answered, subscriber_script

    keys = settings.client().add_subscriber(name, pipelines=pipelines, selector=selector, device=device)
    if file is not None:
        try:
            write_keys(file, keys)
        except OSError as exc:
            raise CommandFailed(f"{file}: {exc.strerror}", "the next call makes another key") from exc
        click.echo(f"{name}: the keys are in {file}")
    else:
        click.echo(subscriber_script(keys), nl=False)
        if not on_terminal():
            warn(f"the key in it is known nowhere else: keep the program as private as '{name}' is")
    if device is None:
        warn_if_only_loopback(keys.endpoints)
    if not any(map(is_answered, keys.endpoints)):
        warn(f"no answer from {listed(keys.endpoints)} on this machine: is there a firewall in between?")


@listing
@as_json_option
def subscribers(settings: Settings, as_json: bool) -> None:
    """List subscribers and the pipelines that they may receive.

    \b
      streamfleet subscribers
    """
    found = settings.client().list_subscribers()
    rows = [
        (
            entry.name,
            ", ".join(entry.pipelines) or ("" if entry.selector else "all"),
            labelled(entry.selector),
        )
        for entry in found
    ]
    empty = "no subscribers: streamfleet keys subscriber NAME"
    show_table(found, as_json, Table(("name", "pipelines", "labels"), rows, "pipelines"), empty=empty)


@subscribers.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_subscribers)
@yes_option
@as_json_option
@click.pass_context
def remove_subscribers(ctx: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Revoke the keys of subscribers.

    Their connections are cut within seconds. It asks first at a terminal; --yes does not.

    \b
      streamfleet subscribers remove wall
    """
    confirm(f"Remove {listed(names)}? To subscribe again, each needs a new key.", yes=yes)
    well = [_remove(ctx.obj, name, as_json) for name in dict.fromkeys(names)]
    ctx.exit(0 if all(well) else 1)


def _remove(settings: Settings, name: str, as_json: bool) -> bool:
    client = settings.client()
    try:
        try:
            client.remove_subscriber(name)
        except Rejected as exc:
            if exc.status != 404:
                raise
            known = [entry.name for entry in client.list_subscribers()]
            hint = did_you_mean(name, known) or "'streamfleet subscribers' lists them"
            raise CommandFailed(f"no subscriber {name}", hint) from exc
    except CommandFailed as exc:
        show_error(exc)
        return False
    click.echo(json.dumps({"name": name, "state": "gone"}) if as_json else f"{name} removed")
    return True
