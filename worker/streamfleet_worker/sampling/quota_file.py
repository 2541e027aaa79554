"""The quota file: the samples that a pipeline has taken, in a file that outlives its camera process."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from streamfleet_core.protocol.json_text import InvalidJson, decode_json
from streamfleet_core.runtime.small_file import FileTooLarge, read_small
from streamfleet_worker.sampling.selection import Tally

logger = logging.getLogger(__name__)

_FOLDER = ".tallies"  # not a valid name of a dataset
FORGOTTEN = 62 * 86_400.0  # seconds without a sample, after which the tally of a pipeline is removed


def path_of(folder: Path, pipeline_id: str) -> Path:
    """The path of a pipeline's tally, in the folder of the samples."""
    return folder / _FOLDER / f"{pipeline_id}.json"


def load(path: Path) -> Tally:
    """Read a tally; an empty one if there is no file. Raises: OSError."""
    try:
        return decode_json(read_small(path), Tally)
    except FileNotFoundError:
        return Tally()
    except (FileTooLarge, InvalidJson) as exc:
        logger.warning("%s cannot be read, its limits are reset: %s", path, exc)
        return Tally()


def save(path: Path, content: bytes) -> None:
    """Write an encoded tally atomically. Raises: OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def encode(tally: Tally) -> bytes:
    """Encode a tally."""
    return msgspec.json.encode(tally)


def forget_old(folder: Path, now: float) -> None:
    """Remove tallies of pipelines without a recent sample; `now` in Unix seconds."""
    for path in (folder / _FOLDER).glob("*.json"):
        if now - path.stat().st_mtime > FORGOTTEN:
            path.unlink(missing_ok=True)
