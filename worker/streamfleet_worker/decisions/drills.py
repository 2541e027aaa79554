"""Which process a drill kills. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from streamfleet_core.protocol.messages import Drill
from streamfleet_worker.decisions.reconcile_events import CameraId, ChildId, EngineId, PublisherId

_KINDS: dict[str, type[ChildId]] = {"camera": CameraId, "engine": EngineId, "publisher": PublisherId}


def fault_target(children: Iterable[ChildId], drill: Drill) -> ChildId | None:
    """The process to kill: the camera of the named pipeline, or the first of a kind. None: there is none."""
    found = [
        child
        for child in children
        if isinstance(child, _KINDS[drill.fault])
        and (drill.pipeline_id is None or getattr(child, "pipeline_id", None) == drill.pipeline_id)
    ]
    return min(found, key=str, default=None)
