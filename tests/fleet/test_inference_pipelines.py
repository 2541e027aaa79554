"""The newer endpoints through a whole fleet: results of many cameras, and pipelines that nobody consumes."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

from tests.fleet.harness import Fleet, UdpReceiver, wait_for

PATTERN = "TestPatternStreamProducer"
UNCONSUMED = 8.0  # seconds until the end of a pipeline of which nobody takes results
SPECIFICATION = {
    "version": "1.0",
    "inputs": [
        {"type": "WorkflowImage", "name": "image"},
        {"type": "WorkflowParameter", "name": "most", "default_value": 300},
    ],
    "steps": [
        {
            "type": "roboflow_core/roboflow_object_detection_model@v2",
            "name": "model",
            "images": "$inputs.image",
            "model_id": "shapes/1",
            "max_detections": "$inputs.most",
            "class_filter": ["red", "green"],
        },
        {
            "type": "roboflow_core/byte_tracker@v3",
            "name": "track",
            "image": "$inputs.image",
            "detections": "$steps.model.predictions",
        },
        {
            "type": "roboflow_core/bounding_box_visualization@v1",
            "name": "boxes",
            "image": "$inputs.image",
            "predictions": "$steps.track.tracked_detections",
        },
    ],
    "outputs": [
        {"type": "JsonField", "name": "found", "selector": "$steps.track.tracked_detections"},
        {"type": "JsonField", "name": "id", "selector": "$steps.model.inference_id"},
        {"type": "JsonField", "name": "drawn", "selector": "$steps.boxes.image"},
    ],
}


def initialise(fleet: Fleet, video: Any, **changes: Any) -> str:
    """Start a pipeline: its id."""
    answer = fleet.http.post(
        "/inference_pipelines/initialise",
        json={
            "video_configuration": {"type": "VideoConfiguration", "video_reference": video},
            "processing_configuration": {
                "type": "WorkflowConfiguration",
                "workflow_specification": SPECIFICATION,
            },
            **changes,
        },
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["context"]["pipeline_id"])


def consume(fleet: Fleet, pipeline_id: str, *excluded: str) -> dict[str, Any]:
    """As the original's client asks: a GET with a body."""
    answer = fleet.http.request(
        "GET", f"/inference_pipelines/{pipeline_id}/consume", json={"excluded_fields": list(excluded)}
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def first(fleet: Fleet, pipeline_id: str, *excluded: str) -> dict[str, Any]:
    """The first result that comes."""

    def taken() -> dict[str, Any] | None:
        answer = consume(fleet, pipeline_id, *excluded)
        return answer if answer["outputs"] else None

    return wait_for(taken, f"a result of {pipeline_id}") or {}


def test_a_workflow_gives_results_of_every_source(clean: Fleet) -> None:
    pipeline_id = initialise(clean, [PATTERN, PATTERN])

    answer = first(clean, pipeline_id, "id", "drawn")

    wait_for(lambda: has_both(consume(clean, pipeline_id, "drawn")["outputs"]), "a result of both")
    (output,) = [each for each in answer["outputs"] if each is not None][:1]
    assert len(answer["outputs"]) == len(answer["frames_metadata"]) == 2
    assert list(output) == ["found"]
    assert output["found"]["image"] == {"width": 1920, "height": 1080}
    assert {each["class"] for each in output["found"]["predictions"]} == {"red", "green"}
    assert all("tracker_id" in each for each in output["found"]["predictions"])


def has_both(outputs: list[Any]) -> bool:
    """Whether there is a result, and of each source."""
    return bool(outputs) and None not in outputs


def test_a_visualization_gives_pictures_to_who_wants_them(clean: Fleet) -> None:
    pipeline_id = initialise(clean, PATTERN)
    first(clean, pipeline_id, "drawn")

    def drawn() -> dict[str, Any] | None:
        """The picture of the next result. A request waits for the first one, but not for as long as we do."""
        outputs = consume(clean, pipeline_id)["outputs"]
        return outputs[0]["drawn"] if outputs else None

    picture = wait_for(drawn, "a picture")

    assert picture["type"] == "base64"
    assert base64.b64decode(picture["value"]).startswith(b"\xff\xd8")


def test_a_source_that_is_not_there_leaves_its_place_empty(clean: Fleet) -> None:
    pipeline_id = initialise(clean, [PATTERN, "rtsp://127.0.0.1:9/nothing"])

    answer = first(clean, pipeline_id, "drawn")

    assert answer["outputs"][0] is not None
    assert (answer["outputs"][1], answer["frames_metadata"][1]) == (None, None)
    assert answer["frames_metadata"][0]["source_id"] == 0


def test_every_frame_of_a_file_is_a_result_in_its_order(clean: Fleet, short_video: Path) -> None:
    pipeline_id = initialise(
        clean,
        str(short_video),
        sink_configuration={"type": "MemorySinkConfiguration", "results_buffer_size": 1000},
    )
    wait_for(lambda: clean.report(pipeline_id)["state"] == "ended", "the end of the file")
    frames: list[int] = []

    def took_all() -> bool:
        """Whether the last one is there: the word that the file has ended goes another way."""
        while (answer := consume(clean, pipeline_id, "drawn"))["outputs"]:
            frames.extend(each["frame_id"] for each in answer["frames_metadata"])
        return len(frames) >= 100

    wait_for(took_all, lambda: f"100 results; {frames}")
    assert frames == list(range(1, 101))


def test_pipelines_of_two_devices_are_consumed_alike(clean: Fleet, udp: UdpReceiver) -> None:
    bare = {
        "type": "ModelConfiguration",
        "model_id": "shapes/1",
        "model_configuration": {"max_detections": 1},
    }
    sinks = [{"type": "MemorySinkConfiguration"}, {"type": "udp_sink", "host": "127.0.0.1", "port": udp.port}]
    made = {
        device: initialise(
            clean, PATTERN, processing_configuration=bare, sink_configuration=sinks, device=device
        )
        for device in ("local-1", "local-2")
    }

    answers = {device: first(clean, pipeline_id) for device, pipeline_id in made.items()}

    for device, pipeline_id in made.items():
        (output,) = answers[device]["outputs"]
        assert len(output["predictions"]["predictions"]) == 1
        assert clean.report(pipeline_id)["device"] == device

    def senders() -> set[str]:
        return {each["inference_metadata"]["pipeline_id"] for each in list(udp.messages)}

    wait_for(lambda: senders() == set(made.values()), "datagrams of both")
    listed = clean.http.request("GET", "/inference_pipelines/list", json={}).json()["pipelines"]
    assert sorted(listed) == sorted(made.values())


def test_who_asks_keeps_a_pipeline_and_who_does_not_loses_it(clean: Fleet) -> None:
    began = time.monotonic()
    asked, unasked = (initialise(clean, PATTERN, consumption_timeout=UNCONSUMED) for _ in range(2))
    last = began

    def is_alone() -> bool:
        nonlocal last
        last = time.monotonic()
        consume(clean, asked, "drawn")
        return clean.pipelines() == [asked]

    wait_for(is_alone, "the end of the other", every=0.2)
    assert time.monotonic() - began > UNCONSUMED - 0.5
    wait_for(lambda: clean.pipelines() == [], "its end")

    assert time.monotonic() - last > UNCONSUMED - 0.5
    for pipeline_id in (asked, unasked):
        assert clean.http.get(f"/inference_pipelines/{pipeline_id}/consume").status_code == 404
