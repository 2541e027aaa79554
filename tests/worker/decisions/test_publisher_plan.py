"""The publisher always runs."""

from __future__ import annotations

from streamfleet_worker.decisions.reconcile_actions import StartPublisher
from streamfleet_worker.decisions.reconcile_events import Exited, PublisherId
from streamfleet_worker.decisions.reconciler import Reconcile
from tests.fakes.reconciling import Device


def test_the_publisher_is_started_first() -> None:
    assert Reconcile([], lambda: 0.5).tick(0.0) == [StartPublisher(PublisherId(1))]


def test_the_publisher_is_restarted() -> None:
    device = Device()

    device.feed(Exited(PublisherId(1), -9))

    assert device.wait(0.5) == [StartPublisher(PublisherId(2))]
