"""`streamfleet models diff`: where two models disagree on the same pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.context import (
    Settings,
    as_json_option,
    complete_dataset,
    complete_model,
    did_you_mean,
    warn,
)
from streamfleet_api.cli.tables import document, say
from streamfleet_api.cli.trials import known_models, picture_files
from streamfleet_api.cli.trials.comparison import Compared, Comparison, summary_document, summary_lines
from streamfleet_api.client.errors import CommandFailed, Rejected
from streamfleet_core.models.agreement import MIN_IOU, summarize
from streamfleet_core.protocol.limits import SAMPLE_NAME_PATTERN, whole

MAX_PICTURES = 10_000
_NAME = re.compile(whole(SAMPLE_NAME_PATTERN))


@click.command("diff")
@click.argument("first", metavar="A", shell_complete=complete_model)
@click.argument("second", metavar="B", shell_complete=complete_model)
@click.option(
    "--samples",
    "source",
    required=True,
    metavar="DATASET|FOLDER",
    shell_complete=complete_dataset,
    help="The pictures: a dataset of 'streamfleet samples', or a folder of pictures or of an export.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, MAX_PICTURES),
    default=200,
    show_default=True,
    help="Maximum number of pictures.",
)
@click.option("--worst", type=click.IntRange(0), default=10, show_default=True, help="Pictures to show.")
@click.option("--confidence", type=click.FloatRange(0, 1), help="Minimum confidence of an object.")
@click.option(
    "--iou",
    "min_iou",
    type=click.FloatRange(0, 1, min_open=True),
    default=MIN_IOU,
    show_default=True,
    help="Overlap of two boxes that are the same object.",
)
@parameters.output_folder("Save what A and B find side by side, of the shown pictures.")
@as_json_option
@click.pass_obj
def diff_models(
    settings: Settings,
    /,
    first: str,
    second: str,
    source: str,
    count: int,
    worst: int,
    confidence: float | None,
    min_iou: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show where two models disagree on the same pictures.

    Both run on this machine, which needs the worker. A and B are ids, or paths of ONNX files. The pictures
    in which they differ most come first. An object is the same if the boxes overlap enough.

    \b
      streamfleet models diff parts/1 parts/2 --samples doors
      streamfleet models diff parts/1 ./new.onnx --samples ~/doors -o differences
    """
    rules = {} if confidence is None else {"confidence": confidence}
    with TemporaryDirectory(prefix="streamfleet-") as folder, _disk_errors():
        place = Path(folder)
        comparison = Comparison(
            first=known_models.load(settings, first, place / "first"),
            second=known_models.load(settings, second, place / "second"),
            min_iou=min_iou,
            rules=rules,
            samples=place / "samples",
        )
        _check(comparison)
        read = _read(comparison.on(_pictures(settings, source, count, place / "samples")))
        differing = (each for each in read if each.found.disagreement > 0)
        shown = sorted(differing, key=lambda each: -each.found.disagreement)[:worst]
        if output is not None:
            _save(comparison, [each.file for each in shown], output)
    total = summarize(each.found for each in read)
    if as_json:
        found = {**summary_document(total), "pictures": [each.document() for each in shown]}
        click.echo(document(found, indent=2))
        return
    for line in summary_lines(total, first, second):
        say(line)
    for each in shown:
        for line in each.lines():
            say(line)


def _check(comparison: Comparison) -> None:
    """Raises: CommandFailed if there is nothing to compare."""
    try:
        comparison.check()
    except ValueError as exc:
        raise CommandFailed(str(exc)) from exc


def _read(results: Iterable[Compared]) -> list[Compared]:
    """Those of pictures that could be read. Raises: CommandFailed if there are none."""
    read = []
    for each in results:
        if each.error:
            warn(f"skipped: {each.error}")
        else:
            read.append(each)
    if not read:
        raise CommandFailed("expected pictures that can be read, got none")
    return read


def _save(comparison: Comparison, files: list[Path], output: Path) -> None:
    """Write the pictures, the worst as the first. Raises: OSError."""
    output.mkdir(parents=True, exist_ok=True)
    stems = picture_files.unique_stems(files)
    for number, (file, stem) in enumerate(zip(files, stems, strict=True), 1):
        (output / f"{number:03}-{stem}.jpg").write_bytes(comparison.side_by_side(file))


def _pictures(settings: Settings, source: str, count: int, folder: Path) -> list[Path]:
    """The pictures of a folder, or of a dataset in the fleet, which are downloaded. Raises: CommandFailed."""
    path = Path(source).expanduser()
    if path.is_dir():
        return picture_files.pictures_in(path, count)
    if "/" in source:
        raise CommandFailed(f"{source}: there is no such folder")
    client = settings.client()
    try:
        names = client.sample_names(source, count)
    except Rejected as exc:
        if exc.status not in (404, 422):
            raise
        known = [entry.dataset for entry in client.list_datasets()]
        hint = did_you_mean(source, known) or "'streamfleet samples' lists them; ./NAME is a folder"
        raise CommandFailed(f"no dataset {source}", hint) from exc
    folder.mkdir()
    files = []
    for name in filter(_NAME.match, names):  # a name becomes that of a file
        files.append(folder / f"{name}.jpg")
        with files[-1].open("wb") as file:
            client.sample_image(source, name, file)
    return files


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raises: CommandFailed."""
    try:
        yield
    except OSError as exc:
        raise CommandFailed(f"{exc.filename or 'the temporary folder'}: {exc.strerror}") from exc
