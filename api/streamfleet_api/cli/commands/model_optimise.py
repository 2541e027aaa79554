"""`streamfleet models optimise`: a faster file of a model for one kind of board, if it finds the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.model_try import terminated_like_ctrl_c
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_dataset,
    complete_device,
    complete_model,
    warn,
)
from streamfleet_api.cli.tables import counted, plain, show, width
from streamfleet_api.cli.trials import variant_builder
from streamfleet_api.cli.trials.calibration import pictures_for, saved_samples
from streamfleet_api.cli.trials.device_optimisation import DeviceOptimisation
from streamfleet_api.cli.trials.known_devices import ready_device
from streamfleet_api.cli.trials.known_models import guessing
from streamfleet_api.cli.trials.variant_users import update_users
from streamfleet_api.cli.variant_text import outcome_document, outcome_table, variant_lines
from streamfleet_api.client.errors import CommandFailed, Rejected
from streamfleet_core.models.optimisation import Job
from streamfleet_core.protocol.source_reference import SourceKind, kind_of
from streamfleet_core.protocol.tasks.optimisation import (
    LEAST_AGREEMENT,
    LEAST_FRAMES,
    MOST_FRAMES,
    Outcome,
    Trial,
)
from streamfleet_core.protocol.values import Manifest, Variant

if TYPE_CHECKING:
    from streamfleet.results import AddedModel, Device, Model
    from streamfleet_api.client.http_client import Client


@click.command("optimise")
@click.argument("model_id", metavar="ID", callback=parameters.model_id, shell_complete=complete_model)
@click.option(
    "--device",
    metavar="NAME",
    callback=parameters.name,
    shell_complete=complete_device,
    help="Build and measure on this device. Without it: on this machine.",
)
@click.option(
    "--calibrate",
    metavar="FILM|FOLDER",
    help="The pictures; without it, samples of pipelines that use the model, of that device.",
)
@click.option(
    "--samples",
    "dataset",
    metavar="DATASET",
    shell_complete=complete_dataset,
    help="The pictures of this dataset of 'streamfleet samples'.",
)
@click.option(
    "--agreement",
    type=click.FloatRange(0, 1),
    default=LEAST_AGREEMENT,
    show_default=True,
    help="Minimum agreement with the model.",
)
@click.option(
    "--frames",
    type=click.IntRange(LEAST_FRAMES, MOST_FRAMES),
    default=64,
    show_default=True,
    help="Pictures to build with, and as many others to compare on.",
)
@click.option("--rebuild", is_flag=True, help="Also if there is a variant for this kind of board.")
@click.option("--dry-run", is_flag=True, help="Measure only: register nothing.")
@click.option("--no-update", is_flag=True, help="Let running pipelines keep the file that they have.")
@as_json_option
@click.pass_obj
def optimise_model(
    settings: Settings,
    /,
    model_id: str,
    device: str | None,
    calibrate: str | None,
    dataset: str | None,
    agreement: float,
    frames: int,
    rebuild: bool,
    dry_run: bool,
    no_update: bool,
    as_json: bool,
) -> None:
    """Build faster variants of a model and register the best.

    They are built and measured on a device, beside its pipelines and with low priority, or without --device
    on this machine, which needs the worker. All devices of that kind fetch the variant then, and their
    pipelines that use the model change to it while they run. The model itself stays for all others, and where
    the variant does not run. Ctrl-C ends it, also on the device.

    A variant must agree with the model on pictures that it was not built with, and find something in each
    in which the model does.

    \b
      streamfleet models optimise parts/1 --device jetson-1
      streamfleet models optimise parts/1 --calibrate belt.mp4 --dry-run
    """
    client = settings.client()
    with guessing(settings, model_id):
        model = client.get_model(model_id)
    if model.weights is None:
        raise CommandFailed(f"{model_id}: its manifest is not in the fleet", "add the model again")
    devices = client.list_devices()
    board = variant_builder.this_board() if device is None else _board_of(devices, device)
    if device is None and not any(each.board == board for each in devices):
        warn(f"no device of the fleet is of this machine's kind, {board}")
    known = [each for each in model.variants or () if each.board == board]
    if known and not (rebuild or dry_run):
        text = f"{model_id} has a variant already: {next(variant_lines(known))}\n--rebuild builds it again"
        show(known[0], as_json, text)
        return
    with TemporaryDirectory(prefix="streamfleet-") as name:
        asked = _Asked(
            model=model,
            pictures=calibrate,
            dataset=dataset,
            agreement=agreement,
            frames=frames,
            is_dry=dry_run,
            folder=Path(name),
        )
        try:
            done = _here(client, asked) if device is None else _there(client, asked, device)
        finally:
            _show_progress("")  # what follows begins on an empty line
    outcome, added = done.outcome, done.added
    updated = [] if added is None or no_update else update_users(client, added, devices, board)
    lines = [*outcome_table(outcome, model.weights).lines(width()), *_lines(done, model_id, updated)]
    told = outcome_document(outcome, registered=added is not None, updated=updated)
    show(told, as_json, "\n".join(lines))
    if done.failure:
        raise CommandFailed(f"{device}: {done.failure}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What was asked for. `folder`: for what is needed meanwhile."""

    model: Model
    pictures: str | None
    dataset: str | None
    agreement: float
    frames: int
    is_dry: bool
    folder: Path


@dataclass(frozen=True, slots=True)
class _Done:
    """What was found out. `added`: the model with the variant, if it was registered."""

    outcome: Outcome
    added: Model | AddedModel | None
    failure: str = ""  # why the api has not registered it


def _here(client: Client, asked: _Asked) -> _Done:
    """Build on this machine. Raises: CommandFailed."""
    model_id, folder = asked.model.id, asked.folder
    pictures = asked.pictures or str(
        saved_samples(client, model_id, asked.dataset, 2 * asked.frames, folder / "samples")
    )
    job = _job(client, asked.model, pictures, folder, agreement=asked.agreement, frames=asked.frames)
    outcome = variant_builder.build(job, _show_progress)
    if outcome.winner is None or asked.is_dry:
        return _Done(outcome, None)
    return _Done(outcome, _register(client, model_id, outcome, outcome.winner))


def _there(client: Client, asked: _Asked, device: str) -> _Done:
    """Build on a device, which registers the best variant. Raises: CommandFailed."""
    model_id = asked.model.id
    task = DeviceOptimisation(
        client=client,
        model_id=model_id,
        device=device,
        agreement=asked.agreement,
        frames=asked.frames,
        dry_run=asked.is_dry,
    )
    with (
        terminated_like_ctrl_c(),
        pictures_for(
            *(client, model_id, device),
            calibrate=asked.pictures,
            dataset=asked.dataset,
            count=2 * asked.frames,
            folder=asked.folder / "pictures",
        ) as pictures,
    ):
        said = task.run(pictures, _show_progress)
    if said.outcome is None:
        hint = (
            ""
            if pictures
            else "pass pictures or a film with --calibrate, instead of the samples of the device"
        )
        raise CommandFailed(f"{device}: {said.failure}", hint)
    return _Done(said.outcome, client.get_model(model_id) if said.registered else None, said.failure)


def _board_of(devices: Sequence[Device], name: str) -> str:
    """The kind of a device. Raises: CommandFailed."""
    found = ready_device(devices, name)
    if not found.board:
        raise CommandFailed(f"{name} has not told its kind yet", "try again in a few seconds")
    return found.board


def _job(client: Client, model: Model, pictures: str, folder: Path, *, agreement: float, frames: int) -> Job:
    """Download the model. Raises: CommandFailed."""
    assert model.weights is not None
    client.download(model.digest, folder / "manifest.json")
    client.download(model.weights.sha256, folder / "model.onnx")
    if kind_of(pictures) is SourceKind.FILE:
        pictures = str(Path(pictures).expanduser().absolute())
    return Job(
        manifest=replace(Manifest.decode((folder / "manifest.json").read_bytes()), variants=()),
        weights_path=str(folder / "model.onnx"),
        pictures=pictures,
        folder=str(folder),
        least_agreement=agreement,
        frames=frames,
    )


def _register(client: Client, model_id: str, outcome: Outcome, winner: Trial) -> AddedModel:
    client.upload_weights(winner.weights.sha256, Path(winner.path))
    assert winner.agreement is not None
    variant = Variant(
        board=outcome.board,
        provider=outcome.provider,
        precision=winner.precision,
        weights=winner.weights,
        speedup=round(winner.speedup, 3),
        agreement=round(winner.agreement, 4),
    )
    try:
        return client.add_variant(model_id, variant)
    except Rejected as exc:
        if exc.status != 422:
            raise
        raise CommandFailed(f"{model_id}: {exc}", exc.hint) from exc


def _lines(done: _Done, model_id: str, updated: Sequence[str]) -> Iterator[str]:
    """What stands below the table."""
    outcome = done.outcome
    objects = counted(outcome.boxes, "object", "objects")
    yield (
        f"on {outcome.board}; built with {outcome.calibrated} pictures, compared on {outcome.compared} "
        f"others, with {objects}"
    )
    if outcome.winner is None:
        yield "no variant may replace the model: nothing is registered"
    elif done.added is not None:
        yield f"{model_id}: devices of this kind run {outcome.winner.precision} from now on"
    elif not done.failure:
        yield f"{outcome.winner.precision} would be registered"
    if updated:
        yield f"updated: {', '.join(updated)}"


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{plain(text)}\r", nl=False, err=True)
