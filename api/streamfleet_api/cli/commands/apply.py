"""The commands of `streamfleet` for a fleet as a file: apply, plan, diff, delete, export and schema."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamfleet_api.cli.commands.apply_text import diff_lines, plan_lines, summary
from streamfleet_api.cli.confirmation import confirm, listed, yes_option
from streamfleet_api.cli.context import Settings, as_json_option, show_error
from streamfleet_api.cli.tables import counted, document, plain, say, show
from streamfleet_api.client.errors import CommandFailed, Rejected

if TYPE_CHECKING:
    from streamfleet.errors import FieldError
    from streamfleet.results import AppliedObject, ApplyResult
    from streamfleet_api.client.http_client import Client
    from streamfleet_core.documents.node import Node

DIFFERENT = 3  # exit code of `diff --exit-code`

_file_option = click.option(
    "-f",
    "--file",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A YAML or JSON file; '-' is stdin.",
)
_take_over_option = click.option(
    "--take-over", is_flag=True, help="Also change pipelines of other managers, and of none."
)
_prune_option = click.option(
    "--prune/--no-prune",
    default=True,
    help="Remove pipelines of the file's manager that are not in the file, or leave them. Default: remove.",
)


@dataclass(frozen=True, slots=True)
class FleetFile:
    """A file, with the files of its models."""

    path: Path
    root: Node
    sent: bytes | dict[str, Any]  # the text, or with the digests of its models' files
    models: dict[str, Path]  # by the sha256 of their content


@click.command("apply")
@_file_option
@_prune_option
@_take_over_option
@yes_option
@as_json_option
@click.pass_context
def apply(ctx: click.Context, /, file: Path, prune: bool, take_over: bool, yes: bool, as_json: bool) -> None:
    """Let the fleet be as a file says.

    Only what differs is changed; what goes on loses no frame. The files of models are uploaded if the fleet
    lacks them. At a terminal it asks before it removes pipelines; --yes does not.

    \b
      streamfleet apply -f fleet.yaml
    """
    client = ctx.obj.client()
    read = _read(file)
    with _placed(read):
        planned = client.apply(read.sent, dry_run=True, prune=prune, take_over=take_over)
        removed = [each.id for each in planned.objects if each.action == "delete"]
        if removed:
            count = counted(len(removed), "pipeline that is", "pipelines that are")
            confirm(f"Remove {count} not in {file}: {listed(removed)}?", yes=yes)
        _upload(client, read, planned.objects)
        done = client.apply(read.sent, prune=prune, take_over=take_over)
    ctx.exit(_report(done, as_json))


@click.command("plan")
@_file_option
@_prune_option
@_take_over_option
@as_json_option
@click.pass_obj
def plan(settings: Settings, /, file: Path, prune: bool, take_over: bool, as_json: bool) -> None:
    """Show what applying a file would change, and where.

    Each pipeline with its device, and whether it restarts. Nothing is changed.

    \b
      streamfleet plan -f fleet.yaml
    """
    planned = _planned(settings, file, prune=prune, take_over=take_over)
    show(planned, as_json, "\n".join([*plan_lines(planned.objects), summary(planned.objects, is_plan=True)]))


@click.command("diff")
@_file_option
@_prune_option
@_take_over_option
@click.option("--exit-code", is_flag=True, help=f"Exit with {DIFFERENT} if the fleet differs from the file.")
@as_json_option
@click.pass_context
def diff(
    ctx: click.Context, /, file: Path, prune: bool, take_over: bool, exit_code: bool, as_json: bool
) -> None:
    """Show each value in which the fleet differs from a file.

    It prints nothing if the fleet is as the file says. '-' stands before what the fleet has, '+' before what
    the file says.

    \b
      streamfleet diff -f fleet.yaml
      streamfleet export | streamfleet diff -f -
    """
    planned = _planned(ctx.obj, file, prune=prune, take_over=take_over)
    if as_json:
        click.echo(document(planned.changed, indent=2))
    for line in () if as_json else diff_lines(planned.changed):
        say(line)
    ctx.exit(DIFFERENT if exit_code and planned.changed else 0)


@click.command("delete")
@_file_option
@_take_over_option
@yes_option
@as_json_option
@click.pass_context
def delete(ctx: click.Context, /, file: Path, take_over: bool, yes: bool, as_json: bool) -> None:
    """Remove the pipelines of a file.

    Models and settings of devices stay. At a terminal it asks first; --yes does not.

    \b
      streamfleet delete -f fleet.yaml
    """
    client = ctx.obj.client()
    read = _read(file)
    with _placed(read):
        planned = client.apply(read.sent, dry_run=True, take_over=take_over, delete=True)
        if names := [each.id for each in planned.objects]:
            confirm(f"Remove {counted(len(names), 'pipeline', 'pipelines')}: {listed(names)}?", yes=yes)
        done = client.apply(read.sent, take_over=take_over, delete=True)
    ctx.exit(_report(done, as_json))


@click.command("export")
@click.option(
    "--manager", metavar="NAME", help="Whose pipelines; '' for those without one. Default: the only manager."
)
@as_json_option
@click.pass_obj
def export(settings: Settings, /, manager: str | None, as_json: bool) -> None:
    """Write what is there as a file that 'apply' takes.

    Passwords of sources are left out. Applied to the same fleet, such a source keeps its password.

    \b
      streamfleet export > fleet.yaml
    """
    from streamfleet_core.documents.yaml_text import write_yaml

    try:
        found = settings.client().export(manager)
    except Rejected as exc:
        if exc.status != 409:
            raise
        hint = "give --manager NAME, or --manager '' for the pipelines without one"
        raise CommandFailed(str(exc), hint) from exc
    click.echo(document(found, indent=2) if as_json else write_yaml(found), nl=as_json)


@click.command("schema")
@click.pass_obj
def schema(settings: Settings) -> None:
    """Print the JSON Schema of a fleet's file, for editors.

    \b
      streamfleet schema > fleet.schema.json
    """
    click.echo(document(settings.client().file_schema(), indent=2))


# files ----------------------------------------------------------------------------------------------------


def _planned(settings: Settings, file: Path, *, prune: bool, take_over: bool) -> ApplyResult:
    read = _read(file)
    with _placed(read):
        return settings.client().apply(read.sent, dry_run=True, prune=prune, take_over=take_over)


def _read(path: Path) -> FleetFile:
    """Read a file, and the digests of its models' files. Raises: CommandFailed."""
    from streamfleet_core.documents.errors import BadDocument
    from streamfleet_core.documents.yaml_text import MAX_TEXT_SIZE, read_yaml
    from streamfleet_core.runtime.small_file import read_small

    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(MAX_TEXT_SIZE + 1)
        else:
            content = read_small(path, most=MAX_TEXT_SIZE)
        root = read_yaml(content)
    except OSError as exc:
        raise CommandFailed(f"{path}: {exc.strerror or exc}") from exc
    except BadDocument as exc:
        texts = (f"{path}:{each.line}:{each.column}: {each.text}" for each in exc.findings)
        raise CommandFailed("\n".join(texts)) from exc
    if not isinstance(root.value, dict):
        raise CommandFailed(f"{path}:1:1: expected an object with 'pipelines', got {root.plain!r}")
    value = root.plain
    models = _model_files(path, root, value)
    return FleetFile(path, root, value if models else content, models)


def _model_files(path: Path, root: Node, value: dict[str, Any]) -> dict[str, Path]:
    """Name the content of models that are given as files. Raises: CommandFailed."""
    from streamfleet_core.models.digest import digest_of

    files: dict[str, Path] = {}
    for node, model in zip(root.items_of("models"), value.get("models") or [], strict=False):
        given = node.entries.get("file")
        if given is None or not isinstance(given.value, str):
            continue
        file = path.parent / Path(given.value).expanduser()  # an absolute one stays as it is
        where = f"{path}:{given.line}:{given.column}"
        try:
            digest = digest_of(file)
        except OSError as exc:
            raise CommandFailed(f"{where}: expected a file, got {given.value!r}: {exc.strerror}") from exc
        if model.get("weights") not in (None, digest):
            raise CommandFailed(f"{where}: expected content of sha256 {model['weights']}, got {digest}")
        del model["file"]
        model["weights"] = digest
        files[digest] = file
    return files


def _upload(client: Client, read: FleetFile, objects: Sequence[AppliedObject]) -> None:
    """Upload the models that the fleet lacks."""
    for each in objects:
        if each.upload is None:
            continue
        file = read.models.get(each.upload)
        if file is None:
            text = f"{read.path}: expected the content of {each.id} in the fleet, {each.upload[:12]} is not"
            raise CommandFailed(text, "give its 'file' in place of its 'weights'")
        click.echo(f"uploading {each.id}: {plain(str(file))}", err=True)
        client.upload_weights(each.upload, file)


@contextlib.contextmanager
def _placed(read: FleetFile) -> Iterator[None]:
    """Say the place in the file of each value that the api refuses. Raises: CommandFailed."""
    try:
        yield
    except Rejected as exc:
        if not exc.errors:
            raise
        raise CommandFailed("\n".join(dict.fromkeys(_line(read, each) for each in exc.errors))) from exc


def _line(read: FleetFile, error: FieldError) -> str:
    """An error as compilers write it. The api knows the places in what is sent as it is."""
    path = error.loc[1:]
    node = read.root.find(path)
    line, column = error.line or node.line, error.column or node.column
    expected = error.msg.replace("Input should be", "expected", 1)
    got = "" if error.input is None else f", got {error.input!r}"
    place = f"{'.'.join(map(str, path))}: " if path else ""
    return f"{read.path}:{line}:{column}: {place}{expected}{got}"


def _report(done: ApplyResult, as_json: bool) -> int:
    """Print what was done. Returns the exit code."""
    text = "\n".join([*plan_lines(done.objects), summary(done.objects, is_plan=False)])
    show(done, as_json, text)
    failed = [each for each in done.objects if each.problem]
    for each in failed:
        show_error(CommandFailed(f"{each.id}: {each.problem}"))
    return 1 if failed else 0


FLEET_FILE_COMMANDS = (apply, plan, diff, delete, export, schema)
