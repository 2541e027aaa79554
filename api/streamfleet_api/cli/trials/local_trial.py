"""Tries a model on this machine, through the library of the worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamfleet_api.cli.trials.known_models import TriableModel, Tried
from streamfleet_api.cli.trials.picture_files import found_name, is_picture, unique_stems
from streamfleet_api.cli.trials.results import Result


def try_here(
    model: TriableModel,
    files: Sequence[Path],
    *,
    frames: int,
    output: Path | None,
    rules: Mapping[str, Any],
) -> Iterator[Result]:
    """Yield what the model finds in each file; a file that cannot be read has an error.

    `frames`: of a film, at most. `output`: a folder for the pictures with what was found. Raises: OSError.
    """
    for file, stem in zip(files, unique_stems(files), strict=True):
        is_film = not is_picture(file)
        try:
            for tried in model.try_file(file, frames=frames if is_film else 1, **rules):
                picture = None
                if output is not None:
                    picture = output / found_name(stem, tried.number if is_film else None)
                    picture.write_bytes(tried.jpeg())
                yield _result(file, tried, is_film=is_film, picture=picture)
        except (ValueError, RuntimeError) as exc:
            yield Result(file=str(file), error=str(exc))


def _result(file: Path, tried: Tried, *, is_film: bool, picture: Path | None) -> Result:
    image = tried.document["image"]
    return Result(
        file=str(file),
        frame=tried.number,
        is_film=is_film,
        width=image["width"],
        height=image["height"],
        predictions=tried.document["predictions"],
        seconds={
            "decode": tried.decode,
            "scale": tried.steps.scale,
            "inference": tried.steps.inference,
            "read": tried.steps.read,
        },
        picture=picture,
    )
