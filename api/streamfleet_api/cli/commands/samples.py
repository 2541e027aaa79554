"""The commands of `streamfleet` about samples: pictures that devices picked for labelling."""

from __future__ import annotations

import contextlib
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_dataset,
    did_you_mean,
    listing,
    show_error,
)
from streamfleet_api.cli.tables import Table, counted, show, show_table, size
from streamfleet_api.client.errors import CommandFailed, Rejected

if TYPE_CHECKING:
    from streamfleet_api.client.http_client import Client

_EMPTY = "no samples: streamfleet set ID --sample DATASET lets a pipeline pick some"


@listing
@as_json_option
def samples(settings: Settings, as_json: bool) -> None:
    """List the pictures for labelling by dataset.

    \b
      streamfleet set door --sample doors
      streamfleet samples
      streamfleet samples export doors ~/doors
    """
    found = settings.client().list_datasets()
    now = time.time()
    rows = [
        (
            entry.dataset,
            str(entry.samples),
            size(entry.size),
            _ago(now - entry.newest),
            ", ".join(entry.devices),
            ", ".join(entry.pipelines),
        )
        for entry in found
    ]
    header = ("dataset", "samples", "size", "newest", "devices", "pipelines")
    show_table(found, as_json, Table(header, rows, "pipelines"), empty=_EMPTY)


@samples.command("export")
@click.argument("dataset", shell_complete=complete_dataset)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@as_json_option
@click.pass_obj
def export(settings: Settings, dataset: str, folder: Path, as_json: bool) -> None:
    """Save a dataset in COCO format to a new FOLDER.

    It has annotations.json and images/.

    \b
      streamfleet samples export doors ~/doors
      supervision.DetectionDataset.from_coco("doors/images", "doors/annotations.json")
    """
    client, folder = settings.client(), folder.expanduser()
    with _guessing(client, dataset), _writing(folder), TemporaryFile(dir=_made(folder)) as file:
        client.export_dataset(dataset, file)
        _unpack(client, file, folder)
        written = json.loads((folder / "annotations.json").read_bytes())
    counts = {name: len(written[name]) for name in ("images", "annotations", "categories")}
    pictures = counted(counts["images"], "picture", "pictures")
    objects = counted(counts["annotations"], "object", "objects")
    text = f"{pictures}, {objects} of {counted(counts['categories'], 'class', 'classes')}"
    show({"dataset": dataset, "folder": str(folder), **counts}, as_json, f"{folder}: {text}")


def _made(folder: Path) -> Path:
    """Check that a folder is empty: images of two exports must not mix. Raises: CommandFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CommandFailed(f"{folder} is not empty", "name a folder that is not there yet")
    return folder


def _unpack(client: Client, file: Any, folder: Path) -> None:
    """Raises: CommandFailed."""
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as exc:
        raise CommandFailed(
            f"expected a complete ZIP file from {client.connection.shown}, got an invalid one: {exc}",
            "try again",
        ) from exc


@samples.command("remove")
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, shell_complete=complete_dataset)
@yes_option
@as_json_option
@click.pass_context
def remove(ctx: click.Context, datasets: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove datasets. Pipelines continue sampling, and devices still upload what they have.

    It asks first at a terminal; --yes does not.

    \b
      streamfleet samples remove doors
    """
    confirm(f"Remove all pictures of {listed(datasets)}?", yes=yes)
    well = [_remove(ctx.obj.client(), dataset, as_json) for dataset in dict.fromkeys(datasets)]
    ctx.exit(0 if all(well) else 1)


def _remove(client: Client, dataset: str, as_json: bool) -> bool:
    try:
        with _guessing(client, dataset):
            client.remove_dataset(dataset)
    except CommandFailed as exc:
        show_error(exc)
        return False
    click.echo(json.dumps({"dataset": dataset, "state": "gone"}) if as_json else f"{dataset} removed")
    return True


# helpers --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _guessing(client: Client, dataset: str) -> Iterator[None]:
    """Suggest a known dataset in place of an unknown one. Raises: CommandFailed."""
    try:
        yield
    except Rejected as exc:
        if exc.status != 404:
            raise
        known = [entry.dataset for entry in client.list_datasets()]
        hint = did_you_mean(dataset, known) or "'streamfleet samples' lists them"
        raise CommandFailed(f"no dataset {dataset}", hint) from exc


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert errors of the disk. Raises: CommandFailed."""
    try:
        yield
    except OSError as exc:
        raise CommandFailed(f"{folder}: {exc.strerror}") from exc


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
