"""From an HTTP call to predictions: every frame of a file, in order, on every way out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnxruntime
import pytest
import supervision as sv

from streamfleet_worker.video.synthetic.test_pattern import truth
from tests.fakes.detections_columns import class_ids, scores
from tests.fleet.harness import LOADING, Fleet, Subscriber, UdpReceiver, rises, wait_for


def test_every_frame_of_a_file_comes_once_and_in_order_on_every_way_out(
    clean: Fleet, short_video: Path, udp: UdpReceiver, subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    direct = subscribe(endpoint=f"ipc://{clean.data}/workers/local-1/run/predictions.ipc")

    pipeline_id = clean.initialise(str(short_video), "shapes/1", udp.port, device="local-1")
    udp.wait_for(100)
    subscriber.wait_for(pipeline_id, 100)
    direct.wait_for(pipeline_id, 100)

    assert udp.frame_ids() == list(range(1, 101))
    relayed = [body for _, body in subscriber.of(pipeline_id)]
    assert [body["predictions"] for body in relayed] == [message["predictions"] for message in udp.messages]
    assert [header.seq for header, _ in subscriber.of(pipeline_id)] == list(range(100))
    assert direct.of(pipeline_id) == subscriber.of(pipeline_id)
    wait_for(
        lambda: clean.report(pipeline_id)["sources_metadata"][0]["state"] == "ENDED",
        "the end of the file in status",
    )


def test_predictions_are_where_the_squares_are(clean: Fleet, udp: UdpReceiver) -> None:
    clean.initialise("TestPatternStreamProducer", "shapes/1", udp.port)

    udp.wait_for(5)

    for message in udp.messages[:5]:
        found = sv.Detections.from_inference(message)
        expected = truth(message["inference_metadata"]["frame_id"])
        assert sorted(map(str, found.data["class_name"])) == ["blue", "green", "red"]
        for box, class_id in zip(found.xyxy, class_ids(found), strict=True):
            assert sv.box_iou_batch(expected[class_id][None], box[None])[0, 0] > 0.7


def test_status_tells_the_four_keys_of_the_original(clean: Fleet, udp: UdpReceiver) -> None:
    pipeline_id = clean.initialise("TestPatternStreamProducer", "shapes/1", udp.port)
    udp.wait_for(3)

    report = wait_for(
        lambda: (report := clean.report(pipeline_id))["inference_throughput"] > 0 and report,
        "frames in the status",
    )

    assert {
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    } <= set(report)
    assert report["sources_metadata"][0]["state"] == "RUNNING"
    assert report["sources_metadata"][0]["source_properties"]["width"] == 1920
    assert {"SOURCE_STATE_UPDATE", "INFERENCE_THREAD_STARTED"} <= {
        update["event_type"] for update in report["video_source_status_updates"]
    }


def test_two_pipelines_go_to_two_devices(clean: Fleet) -> None:
    first = clean.initialise("TestPatternStreamProducer", "shapes/1")
    second = clean.initialise("TestPatternStreamProducer", "shapes/1")

    devices = {
        pipeline["pipeline_id"]: pipeline["device"]
        for pipeline in clean.http.get("/v2/pipelines").json()["pipelines"]
    }

    assert {devices[first], devices[second]} == {"local-1", "local-2"}


# on real input --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(shared_data: Path, fleet: Fleet) -> ModuleType:
    """The original's Python client, as its users have it."""
    spec = importlib.util.spec_from_file_location("original_client", shared_data / "original_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["URL"] = fleet.url
    fleet.add_model(
        "yolox-nano/1",
        shared_data / "yolox_nano.onnx",
        *("--labels", str(shared_data / "coco-labels.txt"), "--family", "yolox"),
    )
    return module


def test_the_originals_client_gets_every_frame_of_a_real_video(
    clean: Fleet,
    client: ModuleType,
    shared_data: Path,
    udp: UdpReceiver,
    subscribe: Callable[..., Subscriber],
) -> None:
    subscriber = subscribe()
    answer = client.initialise_pipeline(
        str(shared_data / "vtest.avi"), "yolox-nano/1", "no key is needed", "127.0.0.1", udp.port
    )
    pipeline_id = answer["context"]["pipeline_id"]
    assert client.list_pipelines()["pipelines"] == [pipeline_id]

    udp.wait_for(795, timeout=2 * LOADING)
    subscriber.wait_for(pipeline_id, 795)

    assert udp.frame_ids() == list(range(1, 796))
    assert [
        body["inference_metadata"]["frame_id"] for _, body in subscriber.of(pipeline_id)
    ] == udp.frame_ids()
    assert rises(subscriber.keys(pipeline_id))
    expected = reference(shared_data, every=100)
    for message in udp.messages[::100]:
        found = sv.Detections.from_inference(message)
        agree(found, expected[message["inference_metadata"]["frame_id"]])
    assert client.get_pipeline_status(pipeline_id)["report"]["sources_metadata"][0]["source_properties"][
        "is_file"
    ]
    assert client.terminate_pipeline(pipeline_id)["status"] == "success"
    assert client.list_pipelines()["pipelines"] == []


CONFIDENCE, MARGIN = 0.4, 0.06  # the default of a device; largest shift between the two ways to scale


def reference(data: Path, *, every: int) -> dict[int, np.ndarray]:
    """The ten-line loop: rows of x1, y1, x2, y2, confidence, class for some frames of the video."""
    session = onnxruntime.InferenceSession(str(data / "yolox_nano.onnx"))
    grid = np.concatenate(
        [np.stack(np.meshgrid(*[np.arange(416 // s)] * 2), 2).reshape(-1, 2) for s in (8, 16, 32)]
    )
    stride = np.repeat([8, 16, 32], [52**2, 26**2, 13**2])[:, None]
    capture, found = cv2.VideoCapture(str(data / "vtest.avi")), {}
    for frame_id in range(1, 796):
        frame = capture.read()[1]
        if frame_id % every != 1:
            continue
        scale = min(416 / frame.shape[0], 416 / frame.shape[1])
        small = cv2.resize(frame, (round(frame.shape[1] * scale), round(frame.shape[0] * scale)))
        blob = np.full((416, 416, 3), 114, np.float32)
        blob[: small.shape[0], : small.shape[1]] = small
        raw = session.run(None, {"images": blob.transpose(2, 0, 1)[None]})[0][0]
        centre, size = (raw[:, :2] + grid) * stride / scale, np.exp(raw[:, 2:4]) * stride / scale
        scores = raw[:, 4:5] * raw[:, 5:]
        rows = np.concatenate(
            [centre - size / 2, centre + size / 2, scores.max(1, keepdims=True), scores.argmax(1)[:, None]], 1
        )
        rows = rows[rows[:, 4] >= 0.4]
        boxes = np.concatenate([rows[:, :2], rows[:, 2:4] - rows[:, :2]], 1)
        kept = cv2.dnn.NMSBoxesBatched(
            boxes.tolist(), rows[:, 4].tolist(), rows[:, 5].astype(int).tolist(), 0.4, 0.3
        )
        found[frame_id] = rows[np.asarray(kept, int).ravel()]
    return found


def agree(found: sv.Detections, expected: np.ndarray) -> None:
    """Each sure box of one is a box of the other, with almost its confidence; both clipped to the frame.

    The worker scales a picture before it converts its colours, the loop afterwards.
    """
    clipped = np.clip(expected[:, :4], 0, [768, 576, 768, 576])
    same = sv.box_iou_batch(found.xyxy, clipped) > 0.85
    same &= class_ids(found)[:, None] == expected[:, 5][None]
    assert same[scores(found) >= CONFIDENCE + MARGIN].any(axis=1).all()
    assert same[:, expected[:, 4] >= CONFIDENCE + MARGIN].any(axis=0).all()
    shifts = np.abs(scores(found)[:, None] - expected[:, 4][None])
    assert np.where(same, shifts, 1.0).min(axis=1)[same.any(axis=1)].max() <= MARGIN


def test_tracked_ids_stay_on_their_boxes(
    clean: Fleet, client: ModuleType, shared_data: Path, udp: UdpReceiver
) -> None:
    clean.initialise(str(shared_data / "vtest.avi"), "yolox-nano/1", udp.port, tracker="bytetrack")

    udp.wait_for(120)

    last: dict[int, np.ndarray] = {}
    jumps = steps = 0
    for message in udp.messages[:120]:
        found = sv.Detections.from_inference(message)
        if found.tracker_id is None:
            continue
        assert len(set(found.tracker_id.tolist())) == len(found)
        for box, track in zip(found.xyxy, found.tracker_id.tolist(), strict=True):
            if track in last:
                steps += 1
                jumps += sv.box_iou_batch(last[track][None], box[None])[0, 0] < 0.3
            last[track] = box
    assert steps > 300
    # An id that hops to another person shows as two boxes apart; a crossing may do that, rarely.
    assert jumps / steps < 0.02
