"""How the results of pipelines are consumed, in files: after a restart of the api it is as it was.

One file a pipeline. The results themselves are not kept: a ring begins empty.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec

from streamfleet_api.core.results import Plan
from streamfleet_broker.protocol.keyfile import write_private
from streamfleet_broker.protocol.values import Id, from_plain

logger = logging.getLogger(__name__)

_SUFFIX = ".json"


class Records:
    """A folder of plans, by pipeline. All of it blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> dict[str, Plan]:
        """All that can be read."""
        found = {path: _read(path) for path in self._folder.glob(f"*{_SUFFIX}")}
        return {path.name.removesuffix(_SUFFIX): plan for path, plan in found.items() if plan is not None}

    def save(self, pipeline_id: str, plan: Plan) -> None:
        """In place of the one before. Without room for it the pipeline runs all the same."""
        try:
            write_private(self._path(pipeline_id), msgspec.json.encode(plan))
        except OSError as exc:
            logger.warning("%s: a restart of the api will forget how it is consumed: %s", pipeline_id, exc)

    def forget(self, pipeline_id: str) -> None:
        """It need not be there."""
        with contextlib.suppress(OSError):
            self._path(pipeline_id).unlink(missing_ok=True)

    def _path(self, pipeline_id: str) -> Path:
        return self._folder / f"{pipeline_id}{_SUFFIX}"


def _read(path: Path) -> Plan | None:
    try:
        from_plain(path.name.removesuffix(_SUFFIX), Id)
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError) as exc:
        logger.warning("%s: left out, it cannot be read: %s", path, exc)
        return None
