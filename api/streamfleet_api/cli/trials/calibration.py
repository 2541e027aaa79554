"""The pictures that variants of a model are built and compared with."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streamfleet_api.cli.trials.picture_files import pictures_in
from streamfleet_api.cli.trials.uploads import uploaded
from streamfleet_api.client.errors import CommandFailed
from streamfleet_core.protocol.limits import PICTURES_PATTERN, SAMPLE_NAME_PATTERN, whole
from streamfleet_core.protocol.source_reference import SourceKind, kind_of, path_of
from streamfleet_core.protocol.tasks.optimisation import LEAST_FRAMES

if TYPE_CHECKING:
    from streamfleet_api.client.http_client import Client

_NAME = re.compile(whole(SAMPLE_NAME_PATTERN))
_REFERENCE = re.compile(whole(PICTURES_PATTERN))
_MOST = 10_000  # samples or files, of which some are taken, evenly spread


def saved_samples(client: Client, model_id: str, dataset: str | None, count: int, folder: Path) -> Path:
    """Save samples, evenly spread over their datasets, and return their folder. Raises: CommandFailed."""
    datasets = [dataset] if dataset is not None else _datasets_of(client, model_id)
    found = _save(client, datasets, count, folder)
    if found < 2 * LEAST_FRAMES:
        where = ", ".join(datasets) or f"the pipelines that use {model_id}"
        raise CommandFailed(
            f"expected at least {2 * LEAST_FRAMES} samples of {where}, got {found}",
            "pass pictures or a film with --calibrate; 'streamfleet set ID --sample DATASET' keeps samples",
        )
    return folder


@contextmanager
def pictures_for(
    client: Client,
    model_id: str,
    device: str,
    *,
    calibrate: str | None,
    dataset: str | None,
    count: int,
    folder: Path,
) -> Iterator[str]:
    """Yield how a device names the pictures, which are uploaded unless it has them. "": its own samples.

    Raises: CommandFailed, OSError.
    """
    if calibrate is not None and _REFERENCE.match(calibrate):
        yield calibrate
        return
    if calibrate is not None:
        file = _given(calibrate, count, folder)
    elif dataset is not None:
        file = _packed(pictures_in(saved_samples(client, model_id, dataset, count, folder), count), folder)
    elif _save(client, _datasets_of(client, model_id), count, folder, device=device) >= 2 * LEAST_FRAMES:
        file = _packed(pictures_in(folder, count), folder)
    else:
        yield ""
        return
    with uploaded(client, [file]) as (reference,):
        yield reference


def _given(calibrate: str, count: int, folder: Path) -> Path:
    """The film or the archive of pictures to upload. Raises: CommandFailed."""
    if kind_of(calibrate) is not SourceKind.FILE:
        raise CommandFailed(
            f"{calibrate}: expected a film, a folder of pictures, blob:SHA256 or scene://conveyor/NUMBER"
        )
    path = Path(path_of(calibrate)).expanduser()
    if not path.is_dir():
        if not path.is_file():
            raise CommandFailed(f"{calibrate}: expected a film or a folder of pictures, it does not exist")
        return path
    found = pictures_in(path, _MOST)
    folder.mkdir()
    return _packed(found[:: max(1, len(found) // count)][:count], folder)


def _save(
    client: Client, datasets: Sequence[str], count: int, folder: Path, *, device: str | None = None
) -> int:
    """Save samples in a new folder, and return how many."""
    folder.mkdir()
    for each in datasets:
        names = [name for name in client.sample_names(each, _MOST, device=device) if _NAME.match(name)]
        room = max(1, count // len(datasets))
        step = max(1, len(names) // room)
        for name in names[::step][:room]:
            with (folder / f"{name}.jpg").open("wb") as file:
                client.sample_image(each, name, file)
    return len(list(folder.iterdir()))


def _packed(pictures: Sequence[Path], folder: Path) -> Path:
    """Write an archive. Pictures are compressed already."""
    path = folder / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, picture in enumerate(pictures):
            archive.write(picture, f"{number:04}{picture.suffix.lower()}")
    return path


def _datasets_of(client: Client, model_id: str) -> list[str]:
    users = {each.pipeline_id for each in client.list_pipelines() if each.spec.model.id == model_id}
    return [each.dataset for each in client.list_datasets() if users & set(each.pipelines)]
