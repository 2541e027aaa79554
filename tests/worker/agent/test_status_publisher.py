"""When a status is published: all of them in each interval, and a changed one at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.data_plane import DataHeader
from streamfleet_core.protocol.messages import HeartbeatAck, Hello, Message, Welcome
from streamfleet_core.protocol.values import Assignment, ObservedState
from streamfleet_worker.agent.status_publisher import StatusPublisher
from streamfleet_worker.decisions.broker_session import Session
from streamfleet_worker.decisions.reconcile_events import (
    Adopted,
    CameraId,
    Exited,
    ModelFetched,
    Reported,
    Unfenced,
)
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.host.sensors import Sensors, SensorThread
from streamfleet_worker.ipc.child_messages import CameraReport
from streamfleet_worker.ipc.handover.receiver import Receiver
from tests.fakes.peers import MANIFEST, spec


class Device:
    """A reconciler with two cameras, and what the publisher process gets of their status."""

    def __init__(self, receiver: Receiver, path: str) -> None:
        self.receiver = receiver
        self.reconcile = Reconcile([], lambda: 0.5)
        self.session = Session(Hello(device="cam-1", boot=b"b" * 16, agent="0.1.0", capacity=4), lambda: 0.5)
        assignments = tuple(
            Assignment(
                pipeline_id=name,
                generation=1,
                run_generation=1,
                desired_status="run",
                on_disconnect="continue",
                spec=spec("rtsp://h/a"),
            )
            for name in ("door", "gate")
        )
        for event in (Unfenced(), Adopted(assignments), ModelFetched(MANIFEST.digest, MANIFEST)):
            self.reconcile.receive(event, 0.0)
        self.publisher = StatusPublisher(
            path,
            device="cam-1",
            capacity=4,
            starts=3,
            session=self.session,
            reconcile=self.reconcile,
            sensors=SensorThread(Sensors(Path(path).parent)),
        )

    def says(self, name: str, state: ObservedState, now: float) -> None:
        report = CameraReport(
            generation=1,
            state=state,
            reason="",
            waiting_for_engine=False,
            emitted=1,
            sources=(),
            dropped={},
            fps=20.0,
            report={},
        )
        self.reconcile.receive(Reported(CameraId(name, 1), report), now)

    def is_told(self, acknowledgement: HeartbeatAck, now: float) -> None:
        """Join a broker, which acknowledges a heartbeat."""
        self.session.tick(now)
        self.session.tick(now)
        welcome = Welcome(
            session=b"s" * 16, self_stop_ms=8_000, heartbeat_ms=1_000, short_id=7, api="", ticket="ticket"
        )
        messages: tuple[Message, ...] = (welcome, acknowledgement)
        for seq, message in enumerate(messages, 1):
            self.session.receive(Envelope(message, epoch=1, session=b"s" * 16, seq=seq), now)

    def publish(self, now: float, *, only: str | None = None) -> list[str]:
        """The topics that the publisher process gets, shortened."""
        self.publisher.publish(now, short_id=7, only=only)
        self.messages = self.receiver.take(10)
        return [message.topic.decode().strip("/").rpartition("/")[2] for message in self.messages]


@pytest.fixture
def device(folder: Path) -> Iterator[Device]:
    path = str(folder / "intake")
    with contextlib.closing(Receiver(path)) as receiver:
        device = Device(receiver, path)
        with contextlib.closing(device.publisher):
            yield device


def test_everything_is_published_once_a_second(device: Device) -> None:
    published = [device.publish(now) for now in (0.0, 0.5, 1.0)]

    assert published == [["door", "gate", "@cam-1"], [], ["door", "gate", "@cam-1"]]


def test_nothing_is_due_within_a_second_after_everything_was_published(device: Device) -> None:
    before = device.publisher.is_due(0.0)
    device.publish(0.0)

    assert before
    assert [device.publisher.is_due(now) for now in (0.0, 0.9, 1.0)] == [False, False, True]


def test_everything_is_published_in_the_interval_that_the_broker_told(device: Device) -> None:
    device.publish(0.0)
    device.is_told(HeartbeatAck(1, status_ms=2_000), 0.5)

    published = [device.publish(now) for now in (1.0, 1.9, 2.0)]

    assert published == [[], [], ["door", "gate", "@cam-1"]]


def test_a_changed_state_is_published_at_once_and_only_once(device: Device) -> None:
    device.publish(0.0)

    device.says("gate", ObservedState.RUNNING, 0.1)
    changed = device.publish(0.1, only="gate")
    again = device.publish(0.2, only="gate") + device.publish(0.2)

    assert changed == ["gate"]
    assert again == []


def test_a_look_at_one_pipeline_does_not_delay_the_others(device: Device) -> None:
    device.publish(0.0)
    device.reconcile.receive(Exited(CameraId("door", 1), -11), 0.1)

    other = device.publish(0.1, only="gate")
    all_of_them = device.publish(0.2)

    assert other == []
    assert all_of_them == ["door"]


def test_sequence_numbers_rise_across_restarts(device: Device) -> None:
    device.publish(0.0)

    headers = [DataHeader.unpack(message.header) for message in device.messages]

    assert [header.seq for header in headers] == [3 << 32 | number for number in (1, 2, 3)]
    assert {header.device for header in headers} == {7}
