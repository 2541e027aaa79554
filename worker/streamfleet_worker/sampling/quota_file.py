"""What a pipeline has taken, in a small file that outlives its camera's process."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from streamfleet_worker.sampling.selection import Tally

logger = logging.getLogger(__name__)

_FOLDER = ".tallies"  # no dataset is called so
FORGOTTEN = 62 * 86_400.0  # seconds without a sample, after which the tally of a pipeline is removed


def path_of(folder: Path, pipeline_id: str) -> Path:
    """Where the tally of a pipeline lies, in the folder of the samples."""
    return folder / _FOLDER / f"{pipeline_id}.json"


def load(path: Path) -> Tally:
    """The tally in this file; nothing taken where there is none. Raises: OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tally)
    except FileNotFoundError:
        return Tally()
    except msgspec.DecodeError as exc:
        logger.warning("%s cannot be read, its limits begin anew: %s", path, exc)
        return Tally()


def save(path: Path, content: bytes) -> None:
    """Write a tally that was encoded by `encode`, whole or not at all. Raises: OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def encode(tally: Tally) -> bytes:
    """The bytes of a tally."""
    return msgspec.json.encode(tally)


def forget_old(folder: Path, now: float) -> None:
    """Remove the tallies of pipelines that have not taken a sample for long; `now` in Unix seconds."""
    for path in (folder / _FOLDER).glob("*.json"):
        if now - path.stat().st_mtime > FORGOTTEN:
            path.unlink(missing_ok=True)
