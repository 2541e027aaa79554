"""The commands of `streamfleet` about models."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from streamfleet_api import arguments
from streamfleet_api.commands import CommandFailed, Rejected
from streamfleet_api.settings import (
    Ordered,
    Settings,
    as_json_option,
    completes,
    did_you_mean,
    show_error,
)
from streamfleet_api.tables import Table, counted, plain, show, show_table, size
from streamfleet_broker.models.content import Told, untold

Entry = dict[str, Any]  # one of `GET /v2/models`

_models = completes("models", "id")


@click.group(cls=Ordered, invoke_without_command=True)
@as_json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """The models that pipelines may name.

    \b
      streamfleet models
    """
    if ctx.invoked_subcommand is None:
        _list(ctx.obj, as_json)


@models.command("list")
@as_json_option
@click.pass_obj
def list_models(settings: Settings, as_json: bool) -> None:
    """The same as 'streamfleet models'."""
    _list(settings, as_json)


def _list(settings: Settings, as_json: bool) -> None:
    found = settings.client().list("models")
    rows = [
        (
            model["id"],
            model["family"] or "",
            _input(model),
            _classes(model["labels"] or []),
            model["digest"][:12],
        )
        for model in found
    ]
    header = ("ID", "family", "input", "classes", "digest")
    empty = "no models: streamfleet models add ID FILE"
    show_table(found, as_json, Table(header, rows, "classes"), empty=empty)


@models.command("show")
@click.argument("model_id", metavar="ID", callback=arguments.model_id, shell_complete=_models)
@as_json_option
@click.pass_obj
def show_model(settings: Settings, model_id: str, as_json: bool) -> None:
    """One model: its classes, its size, which pipelines name it.

    \b
      streamfleet models show yolo11n/1
    """
    client = settings.client()
    with _guessing(settings, model_id):
        model = client.get(_path(model_id))
    if as_json:
        show(model, as_json, "")
        return
    used = [each for each in client.list("pipelines") if each["spec"]["model"]["id"] == model_id]
    click.echo("\n".join(map(plain, _model_lines(model, used))))


def _model_lines(model: Entry, used: list[Entry]) -> Iterator[str]:
    yield f"{model['id']}: {model['family'] or 'its manifest is not here'}"
    if model["input_width"]:
        yield _line("input", _input(model))
    if model["weights"]:
        yield _line("weights", size(model["weights"]["size"]))
        yield _line("sha256", model["weights"]["sha256"])
    yield _line("digest", model["digest"])
    if model["labels"]:
        yield _line("classes", f"{len(model['labels'])}: {', '.join(model['labels'])}")
    old = [each for each in used if each["spec"]["model"]["digest"] != model["digest"]]
    yield _line("pipelines", ", ".join(each["pipeline_id"] for each in used) or "none")
    if old:
        yield _line("", f"an earlier content: {', '.join(each['pipeline_id'] for each in old)}")


def _line(name: str, text: str) -> str:
    return f"  {name:10}  {text}"


@models.command("add")
@click.argument("model_id", metavar="ID", callback=arguments.model_id)
@click.argument("source", metavar="FILE|FOLDER|URL", type=click.Path())
@click.option("--sha256", metavar="HEX", help="What the file must be; a URL needs it.")
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Class names, one a line."
)
@click.option("--family", type=click.Choice(["yolox", "ultralytics"]), help="How its output is laid out.")
@click.option("--replace", is_flag=True, help="Put it in the place of what ID stands for now.")
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
    """Upload an ONNX file, and let pipelines name it ID, as in shapes/1.

    A FOLDER holds weights.onnx, and may hold class_names.txt and manifest.json. A URL is fetched by this
    command and passed on, so that the fleet itself needs no internet.

    \b
      streamfleet models add yolo11n/1 yolo11n.onnx
      streamfleet models add yolo11n/1 https://host/yolo11n.onnx --sha256 9f86d081…
    """
    client = settings.client()
    body: dict[str, Any] = {**_uploaded(settings, source, sha256), "replace": replace}
    if labels is not None:
        body["labels"] = [line.strip() for line in labels.read_text("utf-8").splitlines() if line.strip()]
    if family is not None:
        body["family"] = family
    try:
        model = client.send("PUT", _path(model_id), body)
    except Rejected as exc:
        raise CommandFailed(f"{source}: {exc}", exc.hint) if exc.status == 422 else exc from exc
    classes = counted(len(model["labels"]), "class", "classes")
    text = f"{model['id']}: {model['family']}, {_input(model)}, {classes}"
    if model["replaces"]:
        text += f"\nreplaces {model['replaces'][:12]}; running pipelines keep it"
    show(model, as_json, text)


def _uploaded(settings: Settings, source: str, sha256: str | None) -> dict[str, Any]:
    """What the fleet has then, as the api takes it: the sha256 of the weights, and what lies beside them.

    Raises: CommandFailed, click.BadParameter.
    """
    if "://" in source:
        return {"weights": _pass_on(settings, source, sha256)}
    from streamfleet_broker.models.folder import FoundModel, read_folder
    from streamfleet_broker.models.graph import BadModel

    path = Path(source)
    try:
        found = read_folder(path) if path.is_dir() else FoundModel(path)
        beside = {"family": found.family, "labels": found.labels and list(found.labels)}
        return {**beside, "weights": _upload(settings, found.weights, sha256)}
    except BadModel as exc:
        raise CommandFailed(str(exc)) from exc
    except OSError as exc:
        wanted = "a file, a folder or https://…"
        raise click.UsageError(f"expected {wanted}, {source} cannot be read: {exc.strerror}") from exc


def _upload(settings: Settings, file: Path, expected: str | None) -> str:
    """The sha256 of a file that is in the fleet then. Raises: CommandFailed, OSError."""
    from streamfleet_broker.models.content import digest_of

    with _progress() as stage:
        digest = digest_of(file, stage("reading"))
        if expected is not None and digest != expected.lower():
            raise CommandFailed(f"{file}: expected content of sha256 {expected}, came {digest}")
        settings.client().upload(digest, file, stage("sending"))
    return digest


def _pass_on(settings: Settings, address: str, sha256: str | None) -> str:
    """The sha256 of content of the web that is in the fleet then. Raises: CommandFailed."""
    from streamfleet_broker.models.download import DownloadFailed, Remote, fetch

    try:
        remote = Remote.of(address, sha256)
        with _progress() as stage:
            settings.client().pass_on(remote.sha256, fetch(remote, stage("fetching")))
    except DownloadFailed as exc:
        raise CommandFailed(str(exc)) from exc
    return remote.sha256


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], Told]]:
    """Starts a stage that is told of bytes; it is drawn where somebody looks."""
    if not sys.stderr.isatty():
        yield lambda _name: untold
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

        def stage(name: str) -> Told:
            task = bar.add_task(name, total=None, visible=False)
            # What is in the fleet already is not sent, and no bar of it is drawn.
            return lambda passed, total: bar.update(task, completed=passed, total=total, visible=True)

        yield stage


@models.command("remove")
@click.argument("model_ids", metavar="ID...", nargs=-1, required=True, shell_complete=_models)
@as_json_option
@click.pass_context
def remove_models(ctx: click.Context, model_ids: tuple[str, ...], as_json: bool) -> None:
    """Let pipelines name models no longer; what runs goes on.

    \b
      streamfleet models remove yolo11n/1
    """
    well = [_remove(ctx.obj, model_id, as_json) for model_id in dict.fromkeys(model_ids)]
    ctx.exit(0 if all(well) else 1)


def _remove(settings: Settings, model_id: str, as_json: bool) -> bool:
    try:
        with _guessing(settings, model_id):
            settings.client().send("DELETE", _path(model_id))
    except CommandFailed as exc:
        show_error(exc)
        return False
    click.echo(json.dumps({"id": model_id, "state": "gone"}) if as_json else f"{model_id} removed")
    return True


# helpers --------------------------------------------------------------------------------------------------


def _path(model_id: str) -> str:
    from streamfleet_api.client import path_of

    return path_of("v2", "models", *model_id.split("/"))


@contextlib.contextmanager
def _guessing(settings: Settings, model_id: str) -> Iterator[None]:
    """For a model that nobody knows: which was meant. Raises: CommandFailed."""
    try:
        yield
    except Rejected as exc:
        if exc.status != 404:
            raise
        known = [entry["id"] for entry in settings.client().list("models")]
        hint = did_you_mean(model_id, known) or "'streamfleet models' lists them"
        raise CommandFailed(f"no model {model_id}", hint) from exc


def _input(model: Entry) -> str:
    return f"{model['input_width']}x{model['input_height']}" if model["input_width"] else ""


def _classes(labels: list[str]) -> str:
    shown = ", ".join(labels[:4])
    return f"{len(labels)}: {shown}, …" if len(labels) > 4 else f"{len(labels)}: {shown}"
