"""`streamfleet models try`: a model on pictures and films, before a pipeline uses it."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.context import Settings, as_json_option, complete_device, complete_model, warn
from streamfleet_api.cli.tables import document, say
from streamfleet_api.cli.trials import known_models
from streamfleet_api.cli.trials.device_trial import DeviceTrial
from streamfleet_api.cli.trials.local_trial import try_here
from streamfleet_api.cli.trials.results import Result, steps_text
from streamfleet_api.client.errors import CommandFailed

MAX_FRAMES = 1000  # of one film
_PATIENCE = 15.0  # seconds for an answer: the api waits up to 5 s for a picture


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
    "--timeout",
    default="60s",
    show_default=True,
    metavar="TIME",
    help="For the results of a device.",
)
@parameters.output_folder("Save the pictures with what was found.")
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
    timeout: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Try a model on pictures and short films.

    No pipeline needs to use it yet. It prints what was found and how long each step took. A picture is a
    JPEG, PNG, WebP, BMP or TIFF of any size, orientation and colour depth. ID may also be the path of an
    ONNX file, or of a folder with weights.onnx, class_names.txt and manifest.json.

    With --device, a pipeline of its own runs it there, and is removed at the end; saved pictures are at most
    640 pixels wide, and frames of films are not saved. With --json a document a line.

    It exits with 1 if a file cannot be read, with 3 if the model fails there, and with 4 if there is no
    result in time.

    \b
      streamfleet models try yolo11n/1 street.jpg -o tried
      streamfleet models try yolo11n/1 street.jpg --device jetson-1
      streamfleet models try ./yolo11n.onnx street.jpg yard.mp4 --frames 50
    """
    rules = {} if confidence is None else {"confidence": confidence}
    seconds = parameters.seconds(timeout, "--timeout")
    with _folder(output), terminated_like_ctrl_c():
        if device is None:
            results = _here(ctx.obj, model_id, files, frames=frames, output=output, rules=rules)
        else:
            results = _there(
                ctx.obj,
                model_id,
                device,
                files,
                frames=frames,
                output=output,
                rules=rules,
                timeout=seconds,
            )
        with closing(results):
            ctx.exit(0 if _tell(results, as_json) else 1)


def _here(
    settings: Settings,
    model_id: str,
    files: tuple[Path, ...],
    *,
    frames: int,
    output: Path | None,
    rules: dict[str, Any],
) -> Generator[Result, None, None]:
    with TemporaryDirectory(prefix="streamfleet-") as folder:
        model = known_models.load(settings, model_id, Path(folder))
        yield from try_here(model, files, frames=frames, output=output, rules=rules)


def _there(
    settings: Settings,
    model_id: str,
    device: str,
    files: tuple[Path, ...],
    *,
    frames: int,
    output: Path | None,
    rules: dict[str, Any],
    timeout: float,
) -> Generator[Result, None, None]:
    if known_models.is_path(model_id):
        raise CommandFailed(
            f"{model_id}: expected a model of the fleet, as devices run no others",
            f"'streamfleet models add ID {model_id}' adds it",
        )
    client = settings.client(timeout=_PATIENCE)
    with known_models.guessing(settings, model_id):
        client.get_model(model_id)
    trial = DeviceTrial(
        client=client,
        model_id=model_id,
        device=device,
        frames=frames,
        output=output,
        rules=rules,
        timeout=timeout,
    )
    yield from trial.run(files)


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what it made in the fleet is removed."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        say(f"mean of {len(spent)}: {steps_text(_means(spent))}")
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
