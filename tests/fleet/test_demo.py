"""The demo's detector and scenes through a whole fleet: what its datagrams say is what is on the belt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import supervision as sv
from supervision.metrics import MeanAveragePrecision

from streamfleet_api.local.demo import conveyor_model
from streamfleet_worker.video.synthetic.conveyor import truth
from tests.fleet.harness import Fleet, UdpReceiver

HELD_OUT = (901, 904)  # one belt runs across the picture, one down


@pytest.fixture
def fleet(home: Path) -> Iterator[Fleet]:
    """One worker with the conveyor's detector."""
    fleet = Fleet(home)
    try:
        fleet.start()
        file = home / "conveyor.onnx"
        file.write_bytes(conveyor_model())
        fleet.add_model("conveyor/1", file)
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture
def receivers() -> Iterator[dict[int, UdpReceiver]]:
    """One for each scene, by number."""
    receivers = {number: UdpReceiver() for number in HELD_OUT}
    yield receivers
    for receiver in receivers.values():
        receiver.close()


def test_datagrams_tell_the_parts_on_belts_that_the_detector_never_saw(
    fleet: Fleet, receivers: dict[int, UdpReceiver]
) -> None:
    for number, receiver in receivers.items():
        fleet.initialise(f"scene://conveyor/{number}", "conveyor/1", receiver.port)

    for receiver in receivers.values():
        receiver.wait_for(75)

    metric = MeanAveragePrecision()
    for number, receiver in receivers.items():
        for message in list(receiver.messages):
            boxes, class_ids = truth(number, message["inference_metadata"]["frame_id"])
            metric.update(
                sv.Detections.from_inference(message), sv.Detections(xyxy=boxes, class_id=class_ids)
            )
    assert metric.compute().map50 >= 0.95
