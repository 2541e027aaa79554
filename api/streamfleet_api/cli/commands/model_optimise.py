"""`streamfleet models optimise`: a faster file of a model for one kind of board, if it finds the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_dataset,
    complete_device,
    complete_model,
    did_you_mean,
    warn,
)
from streamfleet_api.cli.tables import counted, plain, show, width
from streamfleet_api.cli.trials import variant_builder
from streamfleet_api.cli.trials.known_models import guessing
from streamfleet_api.cli.variant_text import outcome_document, outcome_table, variant_lines
from streamfleet_api.client.errors import CommandFailed, Rejected
from streamfleet_core.models.optimisation import (
    LEAST_AGREEMENT,
    LEAST_FRAMES,
    MOST_FRAMES,
    Job,
    Outcome,
    Trial,
)
from streamfleet_core.protocol.limits import SAMPLE_NAME_PATTERN, whole
from streamfleet_core.protocol.source_reference import SourceKind, kind_of
from streamfleet_core.protocol.values import Manifest, Variant

if TYPE_CHECKING:
    from streamfleet.results import AddedModel, Device, Model
    from streamfleet_api.client.http_client import Client

_NAME = re.compile(whole(SAMPLE_NAME_PATTERN))
_MOST_SAMPLES = 10_000  # of which some are taken, evenly spread


@click.command("optimise")
@click.argument("model_id", metavar="ID", callback=parameters.model_id, shell_complete=complete_model)
@click.option(
    "--device",
    metavar="NAME",
    callback=parameters.name,
    shell_complete=complete_device,
    help="Make sure that this machine is of the same kind as this device.",
)
@click.option(
    "--calibrate",
    metavar="FILM|FOLDER",
    help="The pictures; without it, samples of pipelines that use the model.",
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
@click.option("--no-restart", is_flag=True, help="Let running pipelines keep the file that they have.")
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
    no_restart: bool,
    as_json: bool,
) -> None:
    """Build faster variants of a model and register the best.

    They are built and measured on this machine, which needs the worker. Run it on a device or on a machine
    of the same kind: all devices of that kind fetch the variant then, and their pipelines that use the model
    are restarted with it. The model itself stays for all others, and where the variant does not run.

    A variant must agree with the model on pictures that it was not built with, and find something in each
    in which the model does.

    \b
      streamfleet models optimise parts/1
      streamfleet models optimise parts/1 --calibrate belt.mp4 --dry-run
    """
    client = settings.client()
    with guessing(settings, model_id):
        model = client.get_model(model_id)
    if model.weights is None:
        raise CommandFailed(f"{model_id}: its manifest is not in the fleet", "add the model again")
    board = variant_builder.this_board()
    devices = client.list_devices()
    _check_board(devices, device, board, model_id)
    known = [each for each in model.variants or () if each.board == board]
    if known and not (rebuild or dry_run):
        text = f"{model_id} has a variant already: {next(variant_lines(known))}\n--rebuild builds it again"
        show(known[0], as_json, text)
        return
    with TemporaryDirectory(prefix="streamfleet-") as name:
        folder = Path(name)
        pictures = calibrate or str(_samples(client, model_id, dataset, 2 * frames, folder / "samples"))
        job = _job(client, model, pictures, folder, agreement=agreement, frames=frames)
        outcome = variant_builder.build(job, _show_progress)
        winner = outcome.winner
        added = None
        if winner is not None and not dry_run:
            added = _register(client, model_id, outcome, winner)
    restarted = [] if added is None or no_restart else _restart(client, added, devices, board)
    lines = [*outcome_table(outcome, model.weights).lines(width()), *_lines(outcome, added, restarted)]
    told = outcome_document(outcome, registered=added is not None, restarted=restarted)
    show(told, as_json, "\n".join(lines))


def _check_board(devices: Sequence[Device], name: str | None, board: str, model_id: str) -> None:
    """Raises: CommandFailed."""
    if name is None:
        if not any(each.board == board for each in devices):
            warn(f"no device of the fleet is of this machine's kind, {board}")
        return
    chosen = next((each for each in devices if each.device == name), None)
    if chosen is None:
        hint = did_you_mean(name, [each.device for each in devices]) or "'streamfleet devices' lists them"
        raise CommandFailed(f"no device {name}", hint)
    if chosen.board != board:
        kind = f"is of another kind, {chosen.board}" if chosen.board else "has not told its kind yet"
        raise CommandFailed(
            f"variants are measured on the kind of board that runs them: this machine is {board}, and {name} "
            f"{kind}",
            f"run it on the device: streamfleet --url URL --token TOKEN models optimise {model_id}",
        )


def _samples(client: Client, model_id: str, dataset: str | None, count: int, folder: Path) -> Path:
    """Save samples, evenly spread over their datasets, and return their folder. Raises: CommandFailed."""
    datasets = [dataset] if dataset is not None else _datasets_of(client, model_id)
    folder.mkdir()
    for each in datasets:
        names = [name for name in client.sample_names(each, _MOST_SAMPLES) if _NAME.match(name)]
        room = max(1, count // len(datasets))
        step = max(1, len(names) // room)
        for name in names[::step][:room]:
            with (folder / f"{name}.jpg").open("wb") as file:
                client.sample_image(each, name, file)
    found = len(list(folder.iterdir()))
    if found < 2 * LEAST_FRAMES:
        where = ", ".join(datasets) or f"the pipelines that use {model_id}"
        raise CommandFailed(
            f"expected at least {2 * LEAST_FRAMES} samples of {where}, got {found}",
            "pass pictures or a film with --calibrate; 'streamfleet set ID --sample DATASET' keeps samples",
        )
    return folder


def _datasets_of(client: Client, model_id: str) -> list[str]:
    users = {each.pipeline_id for each in client.list_pipelines() if each.spec.model.id == model_id}
    return [each.dataset for each in client.list_datasets() if users & set(each.pipelines)]


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
        raise CommandFailed(f"{model_id}: {exc}", exc.hint) if exc.status == 422 else exc from exc


def _restart(client: Client, model: AddedModel, devices: Iterable[Device], board: str) -> list[str]:
    """Let the pipelines on such boards run the variant, and return their ids."""
    here = {each.device for each in devices if each.board == board}
    found = []
    for each in client.list_pipelines():
        ref = each.spec.model
        if ref.id == model.id and ref.digest != model.digest and (each.device is None or each.device in here):
            client.patch_pipeline(each.pipeline_id, model=model.id)
            found.append(each.pipeline_id)
        elif any(other.id == model.id for other in each.spec.models if other is not ref):
            warn(
                f"{each.pipeline_id} runs {model.id} in a stage, and keeps its file until its stages are set"
            )
    return found


def _lines(outcome: Outcome, added: AddedModel | None, restarted: Sequence[str]) -> Iterator[str]:
    """What stands below the table."""
    objects = counted(outcome.boxes, "object", "objects")
    yield (
        f"on {outcome.board}; built with {outcome.calibrated} pictures, compared on {outcome.compared} "
        f"others, with {objects}"
    )
    if outcome.winner is None:
        yield "no variant may replace the model: nothing is registered"
    elif added is None:
        yield f"{outcome.winner.precision} would be registered"
    else:
        yield f"{added.id}: devices of this kind run {outcome.winner.precision} from now on"
    if restarted:
        yield f"restarted: {', '.join(restarted)}"


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{plain(text)}\r", nl=False, err=True)
