"""The commands of `streamfleet` that keep a fleet's own data safe: `backup` and `restore`.

The broker's program copies store and keys; beside them, under `api/`, lies what the api keeps. Samples are
left out: they are many, and `streamfleet samples export` takes them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfleet_api.cli.context import Settings
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    import tarfile

_SAMPLES, _MODELS = "samples", "blobs"  # folders of the api's
_MEMBER = re.compile(r"api/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/){0,2}[A-Za-z0-9_-][A-Za-z0-9._-]*")
_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False, resolve_path=True))


@click.command()
@_file
@click.option("--without-models", is_flag=True, help="Leave out the models, which may be large.")
@click.pass_obj
def backup(settings: Settings, file: Path, without_models: bool) -> None:
    """Back up this machine's fleet to a new FILE. The fleet may run.

    It holds pipelines, devices, models, the token and the secret keys: keep it private.
    Samples and what devices keep are not in it.

    \b
      streamfleet backup fleet-$(date +%F).tar
    """
    import tarfile

    if not (settings.data_dir / "broker").is_dir():
        hint = "on the broker's own host: streamfleet-broker --data-dir DIRECTORY --backup FILE"
        raise CommandFailed(f"there is no broker in {settings.data_dir}", hint)
    try:
        with _part_of(file) as part:
            said = _broker(settings.data_dir, "--backup", str(part))
            with tarfile.open(part, "a:") as archive:
                count = _add_api(archive, settings.data_dir / "api", without_models=without_models)
            part.rename(file)
    except OSError as exc:
        raise CommandFailed(f"{file}: {exc.strerror}") from exc
    click.echo(f"{said.partition(' are in ')[0]} and {count} files of the api are in {file}")


@click.command()
@_file
@click.option("--replace", is_flag=True, help="Move the existing fleet into folders beside the new one.")
@click.pass_obj
def restore(settings: Settings, file: Path, replace: bool) -> None:
    """Restore a backup into this machine's data directory.

    No fleet may run on it. Devices that joined later must join again, and those that were removed later
    are to be removed again. Each pipeline restarts once.

    \b
      streamfleet restore fleet-2026-01-31.tar
    """
    from streamfleet_api.local import preflight
    from streamfleet_core.runtime.process import make_files_private

    make_files_private()
    with preflight.locked(settings.data_dir):
        api = settings.data_dir / "api"
        if _kept(api) and not replace:
            hint = "--replace moves it into a folder beside it, or choose another --data-dir"
            raise CommandFailed(f"{settings.data_dir} holds a fleet already", hint)
        draft = settings.data_dir / f".api-{secrets.token_hex(4)}"
        try:
            _extract_api(file, draft)
            said = _broker(settings.data_dir, "--restore", str(file), *(["--replace"] if replace else []))
            aside = _put(draft / "api", api)
        finally:
            _remove(draft)
    click.echo(f"{said}{f' and {aside}' if aside else ''}")


@contextlib.contextmanager
def _part_of(file: Path) -> Iterator[Path]:
    """The path of an unfinished backup, for this command alone. What a killed one left is removed.

    Raises: CommandFailed, OSError.
    """
    from streamfleet_core.runtime.draft_file import lock_draft

    draft, part = file.with_name(f".{file.name}.draft"), file.with_name(f".{file.name}.part")
    lock = lock_draft(draft)
    try:
        part.unlink(missing_ok=True)
        if file.exists():
            raise CommandFailed(f"{file} exists already", "choose another name")
        yield part
    finally:
        part.unlink(missing_ok=True)
        draft.unlink()
        os.close(lock)


def _broker(data_dir: Path, *task: str) -> str:
    """Run a task of the broker's program and return its message. Raises: CommandFailed."""
    command = [sys.executable, "-m", "streamfleet_broker", "--data-dir", str(data_dir / "broker"), *task]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        *_, last = ["", *done.stderr.strip().splitlines()]
        raise CommandFailed(last.partition(" broker: ")[2] or last or f"it ended with {done.returncode}")
    return done.stdout.strip()


def _add_api(archive: tarfile.TarFile, folder: Path, *, without_models: bool) -> int:
    """Add the files of the API and return their number. Raises: OSError."""
    count = 0
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        left_out = (_SAMPLES, _MODELS) if without_models else (_SAMPLES,)
        if inside.parts[0] in left_out or not _MEMBER.fullmatch(f"api/{inside}"):
            continue
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file() and not path.is_symlink():
                archive.add(path, f"api/{inside}")
                count += 1
    return count


def _extract_api(file: Path, folder: Path) -> None:
    """The files of the api, readable by their owner only. Raises: CommandFailed."""
    import shutil
    import tarfile

    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if not member.isreg() or not _MEMBER.fullmatch(member.name):
                    continue
                path = folder / member.name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)
                content = archive.extractfile(member)
                assert content is not None
                with path.open("wb") as target:
                    shutil.copyfileobj(content, target)
    except (OSError, tarfile.TarError) as exc:
        raise CommandFailed(f"{file}: expected a backup: {exc}") from exc


def _kept(api: Path) -> list[Path]:
    """The existing files, without samples, which stay."""
    return [path for path in api.iterdir() if path.name != _SAMPLES] if api.exists() else []


def _put(draft: Path, api: Path) -> Path | None:
    """Let the new files take the place of the old ones, which move to the folder that is returned."""
    aside = None
    if kept := _kept(api):
        aside = api.with_name(time.strftime("api-replaced-%Y%m%d-%H%M%S"))
        aside.mkdir(mode=0o700)
        for path in kept:
            path.rename(aside / path.name)
    api.mkdir(mode=0o700, exist_ok=True)
    for path in _each(draft):
        path.rename(api / path.name)
    return aside


def _each(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.exists() else iter(())


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


BACKUP_COMMANDS = (backup, restore)
