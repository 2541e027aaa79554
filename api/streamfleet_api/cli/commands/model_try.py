"""`streamfleet models try`: a model on pictures and films, before a pipeline uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from streamfleet_api.cli.context import Settings, as_json_option, complete_device, complete_model, warn
from streamfleet_api.cli.tables import document, say
from streamfleet_api.cli.trials import known_models
from streamfleet_api.cli.trials.local_trial import try_here
from streamfleet_api.cli.trials.results import Result, steps_text
from streamfleet_api.client.errors import CommandFailed

MAX_FRAMES = 1000  # of one film


@click.command("try")
@click.argument("model_id", metavar="ID", shell_complete=complete_model)
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--device",
    metavar="NAME",
    shell_complete=complete_device,
    help="Run it on this device. Without it: on this machine.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, MAX_FRAMES),
    default=10,
    show_default=True,
    help="Frames of a film, from its beginning.",
)
@click.option("--confidence", type=click.FloatRange(0, 1), help="Minimum confidence of an object.")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Save the pictures with what was found.",
)
@as_json_option
@click.pass_context
def try_model(
    ctx: click.Context,
    /,
    model_id: str,
    files: tuple[Path, ...],
    device: str | None,
    frames: int,
    confidence: float | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Try a model on pictures and short films, before a pipeline uses it.

    It prints what was found and how long each step took. A picture is a JPEG, PNG, WebP, BMP or TIFF of any
    size, orientation and colour depth. ID may also be the path of an ONNX file.

    With --json a document a line. It exits with 1 if a file cannot be read.

    \b
      streamfleet models try yolo11n/1 street.jpg -o tried
      streamfleet models try ./yolo11n.onnx street.jpg yard.mp4 --frames 50
    """
    rules = {} if confidence is None else {"confidence": confidence}
    with _folder(output):
        results = _here(ctx.obj, model_id, files, frames=frames, output=output, rules=rules)
        ctx.exit(0 if _tell(results, as_json) else 1)


def _here(
    settings: Settings,
    model_id: str,
    files: tuple[Path, ...],
    *,
    frames: int,
    output: Path | None,
    rules: dict[str, Any],
) -> Iterator[Result]:
    with TemporaryDirectory(prefix="streamfleet-") as folder:
        model = known_models.load(settings, model_id, Path(folder))
        yield from try_here(model, files, frames=frames, output=output, rules=rules)


def _tell(results: Iterable[Result], as_json: bool) -> bool:
    """Print each result as it comes. Returns whether all files could be read."""
    spent: list[Result] = []
    well = True
    for result in results:
        if result.error:
            well = False
            warn(f"error: {result.shown_error}")
        else:
            spent.append(result)
        if as_json:
            click.echo(document(result.document()))
        elif not result.error:
            for line in result.lines():
                say(line)
    if len(spent) > 1 and not as_json:
        say(f"in the mean of {len(spent)}: {steps_text(_means(spent))}")
    return well


def _means(results: list[Result]) -> dict[str, float]:
    names = {name for result in results for name in result.seconds}
    return {name: sum(result.seconds.get(name, 0.0) for result in results) / len(results) for name in names}


@contextmanager
def _folder(output: Path | None) -> Iterator[None]:
    """Make the folder, and convert errors of the disk. Raises: CommandFailed."""
    try:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as exc:
        raise CommandFailed(f"{output or exc.filename}: {exc.strerror}") from exc
