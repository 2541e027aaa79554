"""When a child that crashed is started again."""

from __future__ import annotations

from streamfleet_core.protocol.values import ObservedState
from streamfleet_worker.decisions.reconcile_actions import StartCamera
from streamfleet_worker.decisions.reconcile_events import CameraId, Exited
from tests.fakes.peers import MANIFEST
from tests.fakes.reconciling import assignment, running, says


def test_six_crashes_in_a_row_are_each_followed_by_a_start_within_four_seconds() -> None:
    device = running()
    device.chance = 1.0

    for incarnation in range(1, 7):
        device.feed(Exited(CameraId("door", incarnation), -9))
        crashed_at = device.now
        while not any(isinstance(action, StartCamera) for action in device.wait(0.1)):
            assert device.now - crashed_at < 4.0
    assert device.observed[0].restarts == 6


def test_a_minute_of_health_forgives_the_crashes_before() -> None:
    device = running()
    device.chance = 1.0
    for incarnation in range(1, 5):
        device.feed(Exited(CameraId("door", incarnation), -9))
        device.wait(5)
        device.feed(says(camera=CameraId("door", incarnation + 1)))
    device.well.append(says(ObservedState.PAUSED, camera=CameraId("door", 5)))
    device.wait(60)
    device.well.pop()

    device.feed(Exited(CameraId("door", 5), -9))

    assert StartCamera(CameraId("door", 6), assignment(), (MANIFEST,)) in device.wait(0.6)
