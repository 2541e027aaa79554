"""Stores how the results of each pipeline are consumed, so that a restart of the api does not lose it.

One file per pipeline. The results themselves are not stored: after a restart a ring is empty.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec

from streamfleet_api.roboflow.inference_pipelines.results import Plan
from streamfleet_core.protocol.json_text import decode_json
from streamfleet_core.protocol.values import Id, from_plain
from streamfleet_core.runtime.private_file import write_private
from streamfleet_core.runtime.small_file import read_small

logger = logging.getLogger(__name__)

_SUFFIX = ".json"


class Records:
    """A folder of plans, by pipeline. All methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> dict[str, Plan]:
        """Load all readable plans."""
        found = {path: _read(path) for path in self._folder.glob(f"*{_SUFFIX}")}
        return {path.name.removesuffix(_SUFFIX): plan for path, plan in found.items() if plan is not None}

    def save(self, pipeline_id: str, plan: Plan) -> None:
        """Store a plan, replacing an earlier one. A full disk does not stop the pipeline."""
        try:
            write_private(self._path(pipeline_id), msgspec.json.encode(plan))
        except OSError as exc:
            logger.warning("%s: its consumer will not survive a restart of the api: %s", pipeline_id, exc)

    def forget(self, pipeline_id: str) -> None:
        """Remove a plan, if it exists."""
        with contextlib.suppress(OSError):
            self._path(pipeline_id).unlink(missing_ok=True)

    def _path(self, pipeline_id: str) -> Path:
        return self._folder / f"{pipeline_id}{_SUFFIX}"


def _read(path: Path) -> Plan | None:
    try:
        from_plain(path.name.removesuffix(_SUFFIX), Id)
        return decode_json(read_small(path), Plan)
    except (OSError, ValueError) as exc:
        logger.warning("%s: skipped, it cannot be read: %s", path, exc)
        return None
