"""The commands of `streamfleet` about models."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.commands.model_diff import diff_models
from streamfleet_api.cli.commands.model_optimise import optimise_model
from streamfleet_api.cli.commands.model_try import try_model
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_model,
    listing,
    show_error,
)
from streamfleet_api.cli.model_text import card_lines, classes, input_size
from streamfleet_api.cli.tables import Table, counted, plain, say, show, show_table
from streamfleet_api.cli.trials.known_models import guessing
from streamfleet_api.client.errors import CommandFailed, Rejected
from streamfleet_core.models.digest import OnProgress, ignore_progress
from streamfleet_core.protocol.values import Family


@listing
@as_json_option
def models(settings: Settings, as_json: bool) -> None:
    """List the models that pipelines can use.

    \b
      streamfleet models
    """
    found = settings.client().list_models()
    rows = [
        (
            model.id,
            model.family or "",
            model.task or "",
            input_size(model),
            classes(model.labels or []),
            model.digest[:12],
        )
        for model in found
    ]
    header = ("ID", "family", "task", "input", "classes", "digest")
    empty = "no models: streamfleet models add ID FILE"
    show_table(found, as_json, Table(header, rows, "classes"), empty=empty)


@models.command("show")
@click.argument("model_id", metavar="ID", callback=parameters.model_id, shell_complete=complete_model)
@as_json_option
@click.pass_obj
def show_model(settings: Settings, model_id: str, as_json: bool) -> None:
    """Show the card of a model.

    What it finds, what its input is, who made it as its file says, and the pipelines that use it.

    \b
      streamfleet models show yolo11n/1
    """
    client = settings.client()
    with guessing(settings, model_id):
        model = client.get_model(model_id)
    if as_json:
        show(model, as_json, "")
        return
    used = [each for each in client.list_pipelines() if any(ref.id == model_id for ref in each.spec.models)]
    click.echo("\n".join(map(plain, card_lines(model, used))))


@models.command("export-labels")
@click.argument("model_id", metavar="ID", callback=parameters.model_id, shell_complete=complete_model)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
@click.pass_obj
def export_labels(settings: Settings, model_id: str, output: Path | None) -> None:
    """Print the class names of a model, one per line.

    They are in the order of its output. 'streamfleet models add --labels' reads such a file.

    \b
      streamfleet models export-labels yolo11n/1 -o labels.txt
    """
    with guessing(settings, model_id):
        model = settings.client().get_model(model_id)
    if model.labels is None:
        raise CommandFailed(f"{model_id}: its manifest is not in the fleet", "add the model again")
    if output is None:
        click.echo("\n".join(map(plain, model.labels)))
        return
    try:
        output.expanduser().write_text("".join(f"{label}\n" for label in model.labels), encoding="utf-8")
    except OSError as exc:
        raise CommandFailed(f"{output}: {exc.strerror}") from exc
    say(f"{output}: {counted(len(model.labels), 'class', 'classes')}")


@models.command("add")
@click.argument("model_id", metavar="ID", callback=parameters.model_id)
@click.argument("source", metavar="FILE|FOLDER|URL", type=click.Path())
@click.option("--sha256", metavar="HEX", help="Expected SHA-256 of the file; required for a URL.")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Class names, one per line.",
)
@click.option("--family", type=click.Choice(get_args(Family)), help="Layout of its input and output.")
@click.option("--replace", is_flag=True, help="Replace the model that ID refers to.")
@as_json_option
@click.pass_obj
def add_model(
    settings: Settings,
    /,
    model_id: str,
    source: str,
    sha256: str | None,
    labels: Path | None,
    family: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Upload an ONNX file as the model ID, for example shapes/1.

    A FOLDER holds weights.onnx, and may hold class_names.txt and manifest.json. A URL is fetched by this
    command and passed on, so that the fleet itself needs no internet.

    \b
      streamfleet models add yolo11n/1 yolo11n.onnx
      streamfleet models add yolo11n/1 https://host/yolo11n.onnx --sha256 9f86d081…
    """
    client = settings.client()
    given = None if labels is None else _read_labels(labels)
    found = _uploaded(settings, source, sha256)
    try:
        model = client.register_model(
            model_id,
            found.digest,
            family=family or found.family,
            labels=found.labels if given is None else given,
            replace=replace,
        )
    except Rejected as exc:
        raise CommandFailed(f"{source}: {exc}", exc.hint) if exc.status == 422 else exc from exc
    count = counted(len(model.labels or ()), "class", "classes")
    text = f"{model.id}: {model.family}, {model.task}, {input_size(model)}, {count}"
    if model.replaces:
        text += f"\nreplaces {model.replaces[:12]}; running pipelines keep it"
    show(model, as_json, text)


def _read_labels(path: Path) -> list[str]:
    from streamfleet_core.models.model_folder import read_labels
    from streamfleet_core.models.onnx_graph import BadModel

    try:
        return list(read_labels(path))
    except (BadModel, OSError) as exc:
        raise CommandFailed(str(exc)) from exc


@dataclass(frozen=True, slots=True)
class _Uploaded:
    """Weights that are in the fleet, and what stood beside them."""

    digest: str
    family: str | None = None
    labels: Sequence[str] | None = None


def _uploaded(settings: Settings, source: str, sha256: str | None) -> _Uploaded:
    """Upload the weights of a model.

    Raises: CommandFailed, click.BadParameter.
    """
    if "://" in source:
        return _Uploaded(_pass_on(settings, source, sha256))
    from streamfleet_core.models.model_folder import FoundModel, read_folder
    from streamfleet_core.models.onnx_graph import BadModel

    path = Path(source)
    try:
        found = read_folder(path) if path.is_dir() else FoundModel(path)
        return _Uploaded(_upload(settings, found.weights, sha256), found.family, found.labels)
    except BadModel as exc:
        raise CommandFailed(str(exc)) from exc
    except OSError as exc:
        wanted = "a file, a folder or https://…"
        raise click.UsageError(f"expected {wanted}, {source} cannot be read: {exc.strerror}") from exc


def _upload(settings: Settings, file: Path, expected: str | None) -> str:
    """The sha256 of a file that is in the fleet then. Raises: CommandFailed, OSError."""
    from streamfleet_core.models.digest import digest_of, pieces_of
    from streamfleet_core.models.onnx_file import read_file
    from streamfleet_core.models.onnx_graph import BadModel

    try:
        read_file(file)  # report an invalid file before the upload
    except BadModel as exc:
        raise CommandFailed(f"{file}: {exc}".replace("FILE.pt", f"{file.stem}.pt")) from exc
    with _progress() as stage:
        digest = digest_of(file, stage("reading"))
        if expected is not None and digest != expected.lower():
            raise CommandFailed(f"{file}: expected content of sha256 {expected}, got {digest}")
        with contextlib.closing(pieces_of(file, stage("sending"))) as content:
            settings.client().upload_weights(digest, content)
    return digest


def _pass_on(settings: Settings, address: str, sha256: str | None) -> str:
    """The sha256 of content of the web that is in the fleet then. Raises: CommandFailed."""
    from streamfleet_core.models.download import DownloadFailed, Remote, fetch

    try:
        remote = Remote.of(address, sha256)
        with _progress() as stage, contextlib.closing(fetch(remote, stage("fetching"))) as content:
            settings.client().upload_weights(remote.sha256, content)
    except DownloadFailed as exc:
        raise CommandFailed(str(exc)) from exc
    return remote.sha256


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], OnProgress]]:
    """Yield a function that starts a stage with a progress bar, which is drawn on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _name: ignore_progress
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=20),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:

        def stage(name: str) -> OnProgress:
            task = bar.add_task(name, total=None, visible=False)
            # What is in the fleet already is not sent, and no bar of it is drawn.
            return lambda passed, total: bar.update(task, completed=passed, total=total, visible=True)

        yield stage


@models.command("remove")
@click.argument("model_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_model)
@yes_option
@as_json_option
@click.pass_context
def remove_models(ctx: click.Context, model_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove models. Running pipelines continue.

    Where pipelines use one it asks first at a terminal; --yes does not.

    \b
      streamfleet models remove yolo11n/1
    """
    users = [
        f"{pipeline.pipeline_id} ({used})"
        for pipeline in ctx.obj.client().list_pipelines()
        for used in dict.fromkeys(model.id for model in pipeline.spec.models)
        if used in model_ids
    ]
    if users:
        confirm(f"Remove {listed(model_ids)}, in use by {listed(users)}?", yes=yes)
    well = [_remove(ctx.obj, model_id, as_json) for model_id in dict.fromkeys(model_ids)]
    ctx.exit(0 if all(well) else 1)


def _remove(settings: Settings, model_id: str, as_json: bool) -> bool:
    try:
        with guessing(settings, model_id):
            settings.client().remove_model(model_id, force=True)
    except CommandFailed as exc:
        show_error(exc)
        return False
    click.echo(json.dumps({"id": model_id, "state": "gone"}) if as_json else f"{model_id} removed")
    return True


for _each in (try_model, diff_models, optimise_model):
    models.add_command(_each)
