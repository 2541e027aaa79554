"""A frame waits for the results of its objects, and not longer than it may."""

from __future__ import annotations

import numpy as np
import supervision as sv

from streamfleet_worker.camera.stages.nested_findings import NestedFindings

FOUND = sv.Classifications(np.array([1]), np.array([0.9]))


def test_a_frame_without_objects_goes_on_at_once() -> None:
    assert NestedFindings(until=None).is_complete(0)


def test_a_frame_goes_on_when_all_results_are_there() -> None:
    frame = NestedFindings(until=None)
    frame.expect(2)

    frame.add(3, "colour", FOUND)
    assert not frame.is_complete(1e9)
    frame.add(5, "colour", FOUND)

    assert frame.is_complete(0)
    assert frame.close() == {3: {"colour": FOUND}, 5: {"colour": FOUND}}


def test_a_result_that_will_not_come_is_not_waited_for() -> None:
    frame = NestedFindings(until=None)
    frame.expect(1)

    frame.fail()

    assert frame.is_complete(0)
    assert frame.close() == {}


def test_a_live_frame_goes_on_without_what_is_late() -> None:
    frame = NestedFindings(until=10)
    frame.expect(2)
    frame.add(0, "colour", FOUND)

    assert not frame.is_complete(9.9)
    assert frame.wait(9.5) == 0.5
    assert frame.is_complete(10)
    assert frame.close() == {0: {"colour": FOUND}}
    assert frame.closed
