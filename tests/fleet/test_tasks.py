"""A model of each task, from its file to what programs receive: over UDP, over ZeroMQ and over HTTP."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import supervision as sv

from streamfleet import Client, Connection, NotFound, Prediction, subscribe
from streamfleet_worker.video.synthetic.test_pattern import HEIGHT, WIDTH
from tests.fakes import task_models
from tests.fakes.detections_columns import class_ids
from tests.fakes.patience import PATIENCE
from tests.fakes.task_models import ANGLE, CLASSES, FIRST, KEYPOINTS, POINTS, SECOND, SIDE
from tests.fleet.harness import Fleet, UdpReceiver, wait_for

WRITERS = {
    "segment": task_models.write_segmenting_model,
    "obb": task_models.write_oriented_model,
    "pose": task_models.write_pose_model,
    "classify": task_models.write_classifying_model,
}
# The pipelines: the task of the model, and what else they are told.
PIPELINES: dict[str, tuple[str, dict[str, str]]] = {
    "segment": ("segment", {"tracker": "bytetrack"}),
    "runs": ("segment", {"tracker": "bytetrack", "mask_format": "rle"}),
    "obb": ("obb", {}),
    "pose": ("pose", {}),
    "classify": ("classify", {}),
}
# One frame of each is kept for labelling, half as large.
SAMPLING: Any = {
    "dataset": "tasks",
    "strategies": [
        {
            "type": "random",
            "name": "one",
            "traffic_percentage": 1.0,
            "limits": [{"type": "hourly", "value": 1}],
        }
    ],
    "max_image_size": [HEIGHT // 2, WIDTH // 2],
}
SCALE = WIDTH / SIDE  # pixels of the frame for one of the input, in which the frame lies in the middle
TOP = (SIDE - HEIGHT / SCALE) / 2


@dataclass(frozen=True)
class Received:
    """What one pipeline sent."""

    datagram: dict[str, Any]
    over_zmq: Prediction
    over_http: Prediction

    @property
    def predictions(self) -> list[Prediction]:
        """What the client of the package has of it."""
        return [self.over_zmq, self.over_http]


@pytest.fixture(scope="module")
def received(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Received]]:
    """What each pipeline sends, by its id. All of them run at the same time."""
    fleet.terminate_all()
    folder = tmp_path_factory.mktemp("models")
    sinks = {pipeline_id: UdpReceiver() for pipeline_id in PIPELINES}
    try:
        with Client(Connection(url=fleet.url, data_dir=fleet.data)) as client:
            for task, write in WRITERS.items():
                write(folder / f"{task}.onnx")
                assert client.add_model(f"{task}/1", folder / f"{task}.onnx").task == task
            for pipeline_id, (task, options) in PIPELINES.items():
                client.create_pipeline(
                    pipeline_id,
                    model=f"{task}/1",
                    sources=["TestPatternStreamProducer"],
                    sinks=[{"host": "127.0.0.1", "port": sinks[pipeline_id].port}],
                    sampling=SAMPLING,
                    **cast(Any, options),
                )
            yield {each: _received(client, fleet, each, sink) for each, sink in sinks.items()}
            with contextlib.suppress(NotFound):
                client.remove_dataset("tasks")
    finally:
        fleet.terminate_all()
        for sink in sinks.values():
            sink.close()


def _received(client: Client, fleet: Fleet, pipeline_id: str, udp: UdpReceiver) -> Received:
    udp.wait_for(2)  # the first one may be without ids of the tracker
    over_http = next(client.predictions(pipeline_id, timeout=PATIENCE))
    with subscribe(pipeline_id, data_dir=fleet.data, timeout=PATIENCE) as predictions:
        return Received(udp.messages[-1], next(predictions), over_http)


def in_frame(x: float, y: float) -> tuple[float, float]:
    """The place in the frame of one in the input."""
    return x * SCALE, (y - TOP) * SCALE


def box_in_frame(x: float, y: float, width: float, height: float) -> list[float]:
    """The corners in the frame of a box in the input."""
    return [*in_frame(x - width / 2, y - height / 2), *in_frame(x + width / 2, y + height / 2)]


def names(found: sv.Detections) -> list[str]:
    """The classes of what was found."""
    return [str(name) for name in found.data["class_name"]]


@pytest.mark.parametrize("pipeline_id", PIPELINES)
def test_every_way_out_has_the_same(received: dict[str, Received], pipeline_id: str) -> None:
    got = received[pipeline_id]

    for each in (got.over_zmq.document, got.over_http.document):
        assert each.keys() == got.datagram.keys()
        assert each["image"] == got.datagram["image"] == {"width": WIDTH, "height": HEIGHT}
        assert without_ids(each) == without_ids(got.datagram)


def without_ids(document: Any) -> list[dict[str, Any]]:
    """The predictions without what is another one in each frame."""
    return [{**each, "detection_id": None} for each in document["predictions"]]


@pytest.mark.parametrize(
    ("pipeline_id", "key", "mask_format"), [("segment", "points", "polygon"), ("runs", "rle", "rle")]
)
def test_masks_are_where_the_model_has_them(
    received: dict[str, Received], pipeline_id: str, key: str, mask_format: str
) -> None:
    left, top, right, bottom = (round(each) for each in box_in_frame(*FIRST))
    half = np.zeros((HEIGHT, WIDTH), np.bool_)
    half[top:bottom, left : (left + right) // 2] = True
    left, top, right, bottom = (round(each) for each in box_in_frame(*SECOND))
    whole = np.zeros((HEIGHT, WIDTH), np.bool_)
    whole[top:bottom, left:right] = True

    for prediction in received[pipeline_id].predictions:
        found = prediction.detections

        assert all(key in each and each["mask_format"] == mask_format for each in prediction.objects)
        assert names(found) == ["bolt", "nut"]
        np.testing.assert_allclose(found.xyxy, [box_in_frame(*FIRST), box_in_frame(*SECOND)], atol=0.01)
        assert found.tracker_id is not None
        assert len(set(found.tracker_id.tolist())) == 2
        assert found.mask is not None
        overlap = sv.mask_iou_batch(np.asarray(found.mask), np.array([half, whole]))
        assert np.diag(overlap).min() > 0.98


@pytest.mark.parametrize("pipeline_id", ["segment", "runs"])
def test_supervision_reads_the_masks_of_datagrams(received: dict[str, Received], pipeline_id: str) -> None:
    got = received[pipeline_id]

    read = sv.Detections.from_inference(got.datagram)

    ours = got.over_zmq.detections
    np.testing.assert_array_equal(read.tracker_id, ours.tracker_id)
    np.testing.assert_array_equal(np.asarray(read.mask), np.asarray(ours.mask))


def test_an_oriented_box_has_its_corners_and_its_rotation(received: dict[str, Received]) -> None:
    x, y, width, height = FIRST
    across = np.array([np.cos(ANGLE), np.sin(ANGLE)]) * width / 2
    down = np.array([-np.sin(ANGLE), np.cos(ANGLE)]) * height / 2
    expected = [
        in_frame(*(np.array([x, y]) + place).tolist())
        for place in (across + down, across - down, -across - down, -across + down)
    ]

    for prediction in received["obb"].predictions:
        found = prediction.detections

        assert names(found) == ["bolt", "nut"]
        corners = np.asarray(found.data["xyxyxyxy"])[0]
        np.testing.assert_allclose(sorted(corners.tolist()), sorted(expected), atol=0.1)
        np.testing.assert_allclose(found.xyxy[0], [*corners.min(axis=0), *corners.max(axis=0)], atol=0.1)
        bolt, nut = prediction.objects
        assert bolt["rotation"] == pytest.approx(np.degrees(ANGLE), abs=0.01)
        assert nut["rotation"] % 90 == pytest.approx(0, abs=0.01)


def test_key_points_are_where_the_model_has_them(received: dict[str, Received]) -> None:
    expected = [in_frame(x, y) for x, y, _ in POINTS]

    for prediction in received["pose"].predictions:
        found = prediction.key_points

        assert class_ids(prediction.detections).tolist() == [0, 0]
        np.testing.assert_allclose(found.xy, [expected, expected], atol=0.1)
        for each in prediction.objects:
            assert [point["class"] for point in each["keypoints"]] == [*KEYPOINTS]
            confidences = [point["confidence"] for point in each["keypoints"]]
            assert confidences == pytest.approx([confidence for _, _, confidence in POINTS])


def test_a_picture_has_its_class_and_no_boxes(received: dict[str, Received]) -> None:
    got = received["classify"]

    assert (got.datagram["top"], got.datagram["confidence"]) == ("nut", pytest.approx(max(CLASSES)))
    for prediction in got.predictions:
        assert prediction.classifications.class_id.tolist() == [1]
        assert [each["class"] for each in prediction.objects] == ["nut"]
        assert len(prediction.detections) == 0


def test_filters_choose_among_what_each_task_finds(fleet: Fleet, received: dict[str, Received]) -> None:
    assert received
    with Client(Connection(url=fleet.url)) as client:
        nut = next(client.predictions("segment", classes=["nut"], timeout=PATIENCE))
        bolt = next(client.predictions("obb", min_confidence=0.8, timeout=PATIENCE))
        picture = next(client.predictions("classify", classes=["nut"], min_confidence=0.7, timeout=PATIENCE))

    assert names(nut.detections) == ["nut"]
    assert nut.detections.mask is not None
    assert names(bolt.detections) == ["bolt"]
    assert cast(Any, picture.document)["top"] == "nut"


def test_a_sample_of_each_task_is_exported_as_coco(fleet: Fleet, received: dict[str, Received]) -> None:
    assert received
    with Client(Connection(url=fleet.url)) as client:
        wait_for(
            lambda: sum(each.samples for each in client.list_datasets()) == len(PIPELINES),
            lambda: f"a sample of each, there are {client.list_datasets()}",
        )
        file = io.BytesIO()
        client.export_dataset("tasks", file)
    with zipfile.ZipFile(file) as archive:
        document = json.loads(archive.read("annotations.json"))
    names = {each["id"]: each["name"] for each in document["categories"]}
    images = {each["pipeline_id"]: each for each in document["images"]}
    bolts = {
        each["image_id"]: each for each in document["annotations"] if names[each["category_id"]] == "bolt"
    }
    found = {pipeline_id: bolts.get(image["id"], {}) for pipeline_id, image in images.items()}

    assert found["classify"] == {}
    assert [each["name"] for each in images["classify"]["labels"]] == ["nut"]
    # A mask is the left half of its box. An outline goes through the middle of its pixels.
    left, top, right, bottom = (each / 2 for each in box_in_frame(*FIRST))
    area = (right - left) * (bottom - top) / 2
    assert found["runs"]["area"] == pytest.approx(area, rel=0.01)
    assert found["segment"]["area"] == pytest.approx(area, rel=0.02)
    assert found["obb"]["area"] == pytest.approx(FIRST[2] * FIRST[3] * (SCALE / 2) ** 2, rel=0.01)
    places = [(x / 2, y / 2) for x, y in (in_frame(x, y) for x, y, _ in POINTS)]
    flat = [number for place in places for number in (*place, 2)]
    assert found["pose"]["keypoints"] == pytest.approx(flat, abs=0.1)
