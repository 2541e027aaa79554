"""The commands of `streamfleet` about devices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.drain_text import is_drained
from streamfleet_api.cli.commands.ready import retry_until_ready
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_device,
    did_you_mean,
    listing,
    selector_option,
    show_error,
    warn,
)
from streamfleet_api.cli.device_findings import engine_name
from streamfleet_api.cli.pipeline_text import is_stale
from streamfleet_api.cli.tables import Table, counted, labelled, plain, show, show_table, size
from streamfleet_api.client.errors import CommandFailed, Rejected

if TYPE_CHECKING:
    from streamfleet.results import BatchingStat, Device, DeviceLoad, KeepingStat


@listing
@selector_option
@as_json_option
def devices(settings: Settings, selector: str | None, as_json: bool) -> None:
    """List devices with their state and number of pipelines.

    \b
      streamfleet devices -l site=hall-1
    """
    found = settings.client().list_devices(selector)
    rows = [
        (
            entry.device,
            f"{entry.state}{_cordon(entry)}",
            f"{entry.pipelines} of {entry.capacity}",
            "" if entry.silent is None else f"{entry.silent:.0f} s",
            entry.agent,
            labelled(entry.labels),
        )
        for entry in found
    ]
    empty = f"no device has {selector}" if selector else "no devices: streamfleet devices add NAME"
    header = ("device", "state", "pipelines", "silent", "version", "labels")
    show_table(found, as_json, Table(header, rows, "labels"), empty=empty)


@devices.command("show")
@click.argument("name", callback=parameters.name, shell_complete=complete_device)
@as_json_option
@click.pass_obj
def show_device(settings: Settings, name: str, as_json: bool) -> None:
    """Show one device: load, memory, models and pipelines.

    \b
      streamfleet devices show edge-1
    """
    client = settings.client()
    with guessing(settings, name):
        entry = client.get_device(name)
    if as_json:
        show(entry, as_json, "")
        return
    here = [each.pipeline_id for each in client.list_pipelines(device=name)]
    models = {model.digest: model.id for model in client.list_models()}
    click.echo("\n".join(map(plain, device_lines(entry, here, models))))


def device_lines(entry: Device, pipelines: Sequence[str], models: dict[str, str]) -> Iterator[str]:
    """A device for people; `models`: ids by digest."""
    yield f"{entry.device}: {entry.state}{_cordon(entry)}"
    where = f": {', '.join(pipelines)}" if pipelines else ""
    yield _line("pipelines", f"{entry.pipelines} of {entry.capacity}{where}")
    yield from _left(entry)
    if entry.labels:
        yield _line("labels", labelled(entry.labels))
    yield from _resources(entry)
    if heat := _heat(entry):
        yield _line("heat", heat)
    if gpu := _gpu(entry):
        yield _line("gpu", gpu)
    if entry.dropped:
        counts = ", ".join(f"{count} {plane}" for plane, count in entry.dropped.items())
        yield _line("dropped", f"{counts} messages beyond its budget")
    yield from _engines(entry, models)
    if entry.missing_accelerator is not None:
        yield _line("warning", entry.missing_accelerator.reason)
        yield _line("", entry.missing_accelerator.remedy)
    yield _line("version", entry.agent or "unknown")
    if entry.silent is not None:
        yield _line("heard", f"{entry.silent:.1f} s ago")


def _resources(entry: Device) -> Iterator[str]:
    """What it has, and what is in use."""
    if entry.cores:
        yield _line("load", f"{entry.load:.1f} on {entry.cores} cores{_age(entry)}")
        memory = f"{size(entry.memory_available or 0)} of {size(entry.memory or 0)} available"
        yield _line("memory", memory)
    if entry.disk:
        yield _line("disk", f"{size(entry.disk_available or 0)} of {size(entry.disk)} available")
    if entry.clock is not None:
        within = f"synchronised to {entry.clock.max_error:.3f} s"
        yield _line("clock", within if entry.clock.synchronised else "not synchronised")
    if entry.keeping is not None:
        trouble = f"; not at the moment: {entry.keeping.trouble}" if entry.keeping.trouble else ""
        yield _line("keeps", f"predictions, {_where(entry.keeping)}{trouble}")
    if entry.demand is not None:
        yield _line("needed", _load_text(entry.demand))
    if entry.board:
        yield _line("board", entry.board)


def _where(keeping: KeepingStat) -> str:
    return "on disk" if keeping.where == "disk" else "in memory"


def _load_text(load: DeviceLoad) -> str:
    """What the pipelines of a device need."""
    cores = f"{load.cores:.2f}" + ("" if load.all_cores is None else f" of {load.all_cores:g}") + " cores"
    memory = size(load.memory) + ("" if load.all_memory is None else f" of {size(load.all_memory)}")
    text = f"{load.engine:.0%} of its engine, {cores}, {memory}"
    if load.guessed:
        text += f" ({counted(load.guessed, 'pipeline is', 'pipelines are')} not measured yet)"
    return text


def _engines(entry: Device, models: dict[str, str]) -> Iterator[str]:
    for engine in entry.engines:
        name = engine_name(engine, models)
        restarts = f", {counted(engine.restarts, 'restart', 'restarts')}" if engine.restarts else ""
        why = "".join(f": {text}" for text in (engine.reason, engine.activity) if text)
        where = f" on {runs_on(engine.provider)}" if engine.provider else ""
        where += f" ({engine.variant})" if engine.variant else ""
        yield _line("model", f"{name} {engine.state}{where}, {engine.inferences} inferences{restarts}{why}")
        if engine.variant_trouble:
            yield _line("", f"not its variant for this board: {engine.variant_trouble}")
        if engine.batching is not None:
            yield _line("", _batching(engine.batching))


def _batching(rules: BatchingStat) -> str:
    delay = f"{rules.max_delay * 1000:g} ms ({rules.max_delay_origin})"
    return f"in batches of up to {rules.max_batch} ({rules.max_batch_origin}), which wait for up to {delay}"


def _heat(entry: Device) -> str:
    degrees = "" if entry.temperature is None else f"{entry.temperature:.0f} °C"
    throttled = f"throttled: {entry.throttle_reason}" if entry.throttled else ""
    return ", ".join(filter(None, (degrees, throttled)))


def _gpu(entry: Device) -> str:
    load = "" if entry.gpu_load is None else f"load {entry.gpu_load:.0%}"
    power = "" if entry.gpu_power_watts is None else f"{entry.gpu_power_watts:.1f} W"
    return ", ".join(filter(None, (load, power)))


def runs_on(provider: str) -> str:
    """A provider of ONNX Runtime in short: CPU, CUDA, TensorRT."""
    return provider.removesuffix("ExecutionProvider")


def _line(name: str, text: str) -> str:
    return f"  {name:10}  {text}"


def _left(entry: Device) -> Iterator[str]:
    for number, each in enumerate(entry.remaining):
        yield _line("left" if number == 0 else "", f"{each.pipeline_id} {each.state}: {each.reason}")


def _cordon(entry: Device) -> str:
    if not entry.draining:
        return ", cordoned" if entry.cordoned else ""
    return ", drained" if is_drained(entry) else ", draining"


def _age(entry: Device) -> str:
    return f", {entry.age:.0f} s ago" if is_stale(entry.age) else ""


@devices.command("add")
@click.argument("name", callback=parameters.name)
@click.option(
    "--ttl",
    default="15m",
    show_default=True,
    help="Lifetime of the token: 90s, 15m, 2h, 1d.",
)
@click.option("--token-only", is_flag=True, help="Print only the token, for scripts.")
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the token to this file, which only you can read, for streamfleet-worker --join-file.",
)
@click.option("--wait", default="0s", show_default=True, metavar="TIME", help="Time to wait for the fleet.")
@as_json_option
@click.pass_obj
def add_device(
    settings: Settings, name: str, ttl: str, token_only: bool, file: Path | None, wait: str, as_json: bool
) -> None:
    """Print a token with which one device can join as NAME.

    \b
      streamfleet devices add edge-1 --ttl 2h
    """
    from streamfleet_core.protocol.errors import BadToken
    from streamfleet_core.protocol.join_token import JoinToken
    from streamfleet_core.runtime.private_file import write_private

    good_for = parameters.seconds(ttl, "--ttl")
    client = settings.client()
    answer = retry_until_ready(
        lambda: client.add_device(name, ttl=good_for), parameters.seconds(wait, "--wait")
    )
    if file is not None:
        write_private(file, answer.token.encode("ascii") + b"\n")
        click.echo(f"{name}: the token is in {file}, good within {ttl}")
        return
    show(answer, as_json, answer.token)
    if not token_only and not as_json:
        click.echo(
            f"\nOn the device, within {ttl}:\n\n"
            f"  streamfleet-worker --join {answer.token}\n\n"
            "The token is good for one device, once.",
            err=True,
        )
    with contextlib.suppress(BadToken):  # a fleet of another version: what its tokens hold is its own
        warn_if_only_loopback(JoinToken.decode(answer.token).endpoints)


@devices.command("label")
@click.argument("name", callback=parameters.name, shell_complete=complete_device)
@click.argument(
    "labels", metavar="KEY=VALUE|KEY-...", nargs=-1, required=True, callback=parameters.label_changes
)
@as_json_option
@click.pass_obj
def label_device(settings: Settings, name: str, labels: dict[str, str | None], as_json: bool) -> None:
    """Set labels, or remove them with KEY-. Pipelines whose selector no longer matches move.

    \b
      streamfleet devices label edge-1 site=hall-1 old-
    """
    with guessing(settings, name):
        entry = settings.client().label_device(name, labels)
    show(entry, as_json, f"{name}: {labelled(entry.labels) or 'no labels'}")


@devices.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_device)
@yes_option
@as_json_option
@click.pass_context
def remove_devices(ctx: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove devices and their keys.

    Their connections are cut within seconds, and what may move goes to others. It asks first at a terminal;
    --yes does not.

    \b
      streamfleet devices remove edge-1
    """
    confirm(f"Remove {listed(names)}? To return, each needs a new token.", yes=yes)
    well = [_remove(ctx.obj, name, as_json) for name in dict.fromkeys(names)]
    ctx.exit(0 if all(well) else 1)


def _remove(settings: Settings, name: str, as_json: bool) -> bool:
    try:
        with guessing(settings, name):
            settings.client().remove_device(name)
    except CommandFailed as exc:
        show_error(exc)
        return False
    click.echo(json.dumps({"device": name, "state": "gone"}) if as_json else f"{name} removed")
    return True


@contextlib.contextmanager
def guessing(settings: Settings, name: str) -> Iterator[None]:
    """Explain an unknown device: it has not joined, or a similar name exists. Raises: CommandFailed."""
    try:
        yield
    except Rejected as exc:
        if exc.status != 404:
            raise
        known = {entry.device: entry.state for entry in settings.client().list_devices()}
        if known.get(name) == "new":  # there is a token for it, and no more
            raise CommandFailed(f"{name} has not joined yet", "try again when it has") from exc
        hint = did_you_mean(name, list(known)) or "'streamfleet devices' lists them"
        raise CommandFailed(f"no device {name}", hint) from exc


def warn_if_only_loopback(endpoints: Iterable[str]) -> None:
    """Warn if other hosts cannot reach an address."""
    from streamfleet.connection import only_loopback

    if only_loopback(endpoints):
        warn("the fleet listens on this machine only: start it with --host")
