"""Which process a drill kills."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.messages import Drill, DrillFault
from streamfleet_worker.decisions.drills import fault_target
from streamfleet_worker.decisions.reconcile_events import CameraId, ChildId, EngineId, PublisherId

CHILDREN: set[ChildId] = {CameraId("door", 2), CameraId("gate", 1), EngineId("ab", 1), PublisherId(3)}


@pytest.mark.parametrize(
    ("fault", "pipeline_id", "target"),
    [
        ("camera", "gate", CameraId("gate", 1)),
        ("camera", None, CameraId("door", 2)),
        ("camera", "yard", None),
        ("engine", None, EngineId("ab", 1)),
        ("publisher", None, PublisherId(3)),
    ],
)
def test_the_process_that_the_drill_names_is_killed(
    fault: DrillFault, pipeline_id: str | None, target: ChildId | None
) -> None:
    assert fault_target(CHILDREN, Drill(fault, pipeline_id)) == target
