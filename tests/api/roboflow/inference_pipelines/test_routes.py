"""The original's newer endpoints: its statuses, its keys in their order, its shape of an error."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from streamfleet_core.protocol.messages import Error, ErrorCode
from streamfleet_core.protocol.requests import ChangePipeline, CreatePipeline
from streamfleet_core.protocol.values import ModelRef, ObservedState, PipelineSpec, SourceSpec, UdpSink
from tests.api.conftest import Api, until
from tests.core.protocol.test_workflow import BOXES, COUNT, FOUND, MODEL, TRACKER, specification
from tests.fakes.broker import Peer, device, pipeline
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.said import files_below

DIGEST = "ab" * 32
VIDEO = {"type": "VideoConfiguration", "video_reference": "rtsp://cam/1"}
WORKFLOW = {"type": "WorkflowConfiguration", "workflow_specification": specification()}
BARE = {"type": "ModelConfiguration", "model_id": "parts/1"}
MEMORY = {"type": "MemorySinkConfiguration", "results_buffer_size": 3}
UDP = {"type": "udp_sink", "host": "127.0.0.1", "port": 12000}
MANAGER = "Error with command handling raised by InferencePipeline Manager. "


def payload(**changes: Any) -> dict[str, Any]:
    """A legal request, with changes."""
    return {"video_configuration": VIDEO, "processing_configuration": WORKFLOW, **changes}


def video(**changes: Any) -> dict[str, Any]:
    """A legal request whose video is so."""
    return payload(video_configuration={**VIDEO, **changes})


@pytest.fixture(autouse=True)
def _registered(peer: Peer, http: httpx.Client) -> Iterator[None]:
    """A model before, and no results that wait after."""
    peer.models["parts/1"] = ModelRef("parts/1", DIGEST)
    yield
    peer.answer, peer.confirms = peer.honest, True
    for pipeline_id in list(peer.pipelines):
        assert http.post(f"/inference_pipelines/{pipeline_id}/terminate").status_code == 200


@pytest.fixture
def own_api(peer: Peer) -> Iterator[Api]:
    """An api that can be restarted."""
    with short_folder() as folder:
        api = Api(folder, peer)
        yield api
        api.stop()


def initialise(http: httpx.Client, **changes: Any) -> str:
    """Make a pipeline: its id."""
    answer = http.post("/inference_pipelines/initialise", json=payload(**changes))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["context"]["pipeline_id"])


def consume(http: httpx.Client, pipeline_id: str, **body: Any) -> dict[str, Any]:
    """As the SDK does it: a GET with a body."""
    answer = http.request("GET", f"/inference_pipelines/{pipeline_id}/consume", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def frames(answer: dict[str, Any]) -> list[int | None]:
    """Which frame is in each place."""
    return [each and each["frame_id"] for each in answer["frames_metadata"]]


def consumed(http: httpx.Client, pipeline_id: str, count: int, **body: Any) -> list[dict[str, Any]]:
    """That many results, as soon as they are there."""
    got: list[dict[str, Any]] = []

    def take() -> None:
        answer = consume(http, pipeline_id, **body)
        if answer["outputs"]:
            got.append(answer)

    until(lambda: len(got) >= count, take)
    return got


def created(peer: Peer) -> CreatePipeline:
    """The last request for a pipeline."""
    return next(asked for asked in reversed(peer.asked) if isinstance(asked, CreatePipeline))


# commands -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_listed")
@pytest.mark.parametrize("content", [b"", b'{"api_key": "rf_secret"}'])
def test_pipelines_are_listed_whatever_body_comes_with_the_question(
    http: httpx.Client, peer: Peer, content: bytes
) -> None:
    peer.pipelines.update({name: pipeline(name) for name in ("b", "a")})

    answer = http.request("GET", "/inference_pipelines/list", content=content)

    request_id = uuid.UUID(answer.json()["context"]["request_id"])
    assert answer.status_code == 200
    assert answer.text == (
        f'{{"status":"success","context":{{"request_id":"{request_id}","pipeline_id":null}},'
        '"pipelines":["b","a"]}'
    )


def test_status_has_the_report_of_the_original(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    answer = http.request("GET", "/inference_pipelines/door/status", json={"api_key": None})

    assert answer.status_code == 200
    assert list(answer.json()) == ["status", "context", "report"]
    assert answer.json()["context"]["pipeline_id"] == "door"
    assert list(answer.json()["report"])[:4] == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]


def test_a_pipeline_is_paused_resumed_and_terminated(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    for verb in ("pause", "resume", "terminate"):
        answer = http.post(f"/inference_pipelines/door/{verb}", json={"api_key": "k"})
        assert (answer.status_code, list(answer.json())) == (200, ["status", "context"])

    statuses = [asked.desired_status for asked in peer.asked if isinstance(asked, ChangePipeline)]
    assert statuses == ["pause", "run", "stop"]
    assert peer.pipelines == {}


def test_every_field_of_a_workflow_and_its_video_reaches_the_broker(http: httpx.Client, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1")
    steps = [{**MODEL, "confidence": "$inputs.sure", "max_detections": 7}, TRACKER]
    inputs = [*specification()["inputs"], {"type": "WorkflowParameter", "name": "sure"}]

    answer = http.post(
        "/inference_pipelines/initialise",
        json=payload(
            video_configuration={
                **VIDEO,
                "video_reference": ["rtsp://cam/1", 0, "/videos/a.mp4"],
                "max_fps": "7.5",
                "source_buffer_filling_strategy": "DROP_OLDEST",
                "source_buffer_consumption_strategy": "EAGER",
                "video_source_properties": {"fps": 30},
                "batch_collection_timeout": 0.5,
            },
            processing_configuration={
                **WORKFLOW,
                "workflow_specification": specification(steps=steps, inputs=inputs),
                "workflows_parameters": {"sure": 0.7},
                "workflows_thread_pool_workers": 4,
                "surprise": 1,
            },
            sink_configuration=[MEMORY, UDP],
            api_key="rf_secret",
            predictions_queue_size=512,
            decoding_buffer_size=64,
            device="edge-1",
        ),
    )

    context = answer.json()["context"]
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["status", "context"]
    assert list(context) == ["request_id", "pipeline_id", "device"]
    assert uuid.UUID(context["pipeline_id"]).version == 4
    asked = created(peer)
    assert (asked.pipeline_id, asked.device) == (context["pipeline_id"], "edge-1")
    assert asked.spec == PipelineSpec(
        model=ModelRef("parts/1", DIGEST),
        sources=tuple(
            SourceSpec(each, properties={"fps": 30.0}, filling="DROP_OLDEST", consumption="EAGER")
            for each in ("rtsp://cam/1", 0, "/videos/a.mp4")
        ),
        sinks=(UdpSink("127.0.0.1", 12000),),
        max_fps=7.5,
        confidence=0.7,
        max_detections=7,
        tracker="bytetrack",
    )


@pytest.mark.parametrize("strategy", [{}, {"source_buffer_filling_strategy": None}])
def test_without_a_strategy_the_one_that_suits_the_source_is_taken(
    http: httpx.Client, peer: Peer, strategy: dict[str, Any]
) -> None:
    initialise(http, video_configuration={**VIDEO, "video_reference": "/videos/a.mp4", **strategy})

    assert created(peer).spec.sources == (SourceSpec("/videos/a.mp4"),)


def test_a_model_may_stand_in_the_place_of_a_workflow(http: httpx.Client, peer: Peer) -> None:
    initialise(
        http,
        processing_configuration={
            **BARE,
            "model_configuration": {"confidence": 0.6, "class_agnostic_nms": True},
            "tracker": "bytetrack",
        },
        sink_configuration=UDP,
    )

    assert created(peer).spec == PipelineSpec(
        model=ModelRef("parts/1", DIGEST),
        sources=(SourceSpec("rtsp://cam/1"),),
        sinks=(UdpSink("127.0.0.1", 12000),),
        confidence=0.6,
        class_agnostic_nms=True,
        tracker="bytetrack",
    )


@pytest.mark.parametrize(
    ("processing", "dataset"),
    [
        ({**BARE, "active_learning_enabled": True, "active_learning_target_dataset": "more"}, "more"),
        (
            {
                **WORKFLOW,
                "workflow_specification": specification(steps=[{**MODEL, "disable_active_learning": False}]),
            },
            "parts",
        ),
        (BARE, None),
        (WORKFLOW, None),
    ],
)
def test_frames_are_kept_for_labelling_when_it_is_asked_for(
    http: httpx.Client, peer: Peer, processing: dict[str, Any], dataset: str | None
) -> None:
    initialise(http, processing_configuration=processing)

    sampling = created(peer).spec.sampling
    assert (sampling and sampling.dataset) == dataset


def test_a_request_of_the_sdk_is_accepted_with_its_nulls(http: httpx.Client, peer: Peer) -> None:
    sent = {  # as inference-sdk 1.8 sends it
        "api_key": "rf_secret",
        "video_configuration": {
            "type": "VideoConfiguration",
            "video_reference": "rtsp://cam/1",
            "max_fps": None,
            "source_buffer_filling_strategy": "DROP_OLDEST",
            "source_buffer_consumption_strategy": "EAGER",
            "video_source_properties": None,
            "batch_collection_timeout": None,
        },
        "processing_configuration": {
            "type": "WorkflowConfiguration",
            "workflow_specification": specification(),
            "workspace_name": None,
            "workflow_id": None,
            "image_input_name": "image",
            "workflows_parameters": None,
            "workflows_thread_pool_workers": 4,
            "cancel_thread_pool_tasks_on_exit": True,
            "video_metadata_input_name": "video_metadata",
        },
        "sink_configuration": {"type": "MemorySinkConfiguration", "results_buffer_size": 64},
    }

    answer = http.post("/inference_pipelines/initialise", json=sent)

    assert answer.status_code == 200, answer.text
    assert created(peer).spec.sources == (
        SourceSpec("rtsp://cam/1", filling="DROP_OLDEST", consumption="EAGER"),
    )


# results --------------------------------------------------------------------------------------------------


def test_results_are_taken_one_by_one_in_their_order(http: httpx.Client, peer: Peer) -> None:
    pipeline_id = initialise(http)
    peer.wait_for_followers(pipeline_id)
    empty = consume(http, pipeline_id)
    for seq in range(3):
        peer.predict(pipeline_id, seq)

    got = consumed(http, pipeline_id, 3)

    assert list(empty) == ["status", "context", "outputs", "frames_metadata"]
    assert (empty["status"], empty["outputs"], empty["frames_metadata"]) == ("success", [], [])
    assert [frames(each) for each in got] == [[1], [2], [3]]
    output, frame = got[0]["outputs"][0], got[0]["frames_metadata"][0]
    assert list(output) == ["found"]
    assert output["found"]["image"] == {"width": 640, "height": 480}
    assert output["found"]["predictions"][0]["class"] == "car"
    assert list(output["found"]) == ["image", "predictions"]
    assert list(frame) == ["frame_timestamp", "frame_id", "source_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", frame["frame_timestamp"])


def test_a_head_takes_no_result_away(http: httpx.Client, peer: Peer) -> None:
    pipeline_id = initialise(http)
    peer.wait_for_followers(pipeline_id)
    peer.predict(pipeline_id, 0)
    time_of_last = f"/v2/pipelines/{pipeline_id}/predictions/last"
    until(lambda: '"frame_id":1' in http.get(time_of_last).text)

    head = http.head(f"/inference_pipelines/{pipeline_id}/consume")

    assert (head.status_code, head.headers["allow"]) == (405, "GET")
    assert frames(consumed(http, pipeline_id, 1)[0]) == [1]


def test_a_source_that_gave_nothing_has_an_empty_place(http: httpx.Client, peer: Peer) -> None:
    patient = {**VIDEO, "video_reference": [0, 1], "batch_collection_timeout": 10 * PATIENCE}
    pipeline_id = initialise(http, video_configuration=patient)
    peer.wait_for_followers(pipeline_id)
    for seq, source in enumerate([0, 1, 0, 0]):
        peer.predict(pipeline_id, seq, source=source)

    got = consumed(http, pipeline_id, 2)

    assert [frames(each) for each in got] == [[1, 2], [3, None]]
    assert got[1]["outputs"][1] is None
    assert got[0]["frames_metadata"][1]["source_id"] == 1


def test_the_oldest_go_when_more_wait_than_there_is_room_for(http: httpx.Client, peer: Peer) -> None:
    pipeline_id = initialise(http, sink_configuration=MEMORY)
    peer.wait_for_followers(pipeline_id)
    for seq in range(10):
        peer.predict(pipeline_id, seq)
    time_of_last = f"/v2/pipelines/{pipeline_id}/predictions/last"
    until(lambda: '"frame_id":10' in http.get(time_of_last).text)

    got = consumed(http, pipeline_id, 3)

    assert [frames(each) for each in got] == [[8], [9], [10]]
    assert [each["context"]["dropped"] for each in got] == [7, 0, 0]
    assert consume(http, pipeline_id)["outputs"] == []


@pytest.mark.parametrize(("filtered", "count"), [(None, 1), (["nobody"], 0)])
def test_what_was_found_may_be_counted(
    http: httpx.Client, peer: Peer, filtered: list[str] | None, count: int
) -> None:
    output = {"type": "JsonField", "name": "cars", "selector": "$steps.count.output"}
    steps = [{**MODEL, "class_filter": filtered}, COUNT]
    flow = {**WORKFLOW, "workflow_specification": specification(steps=steps, outputs=[output])}
    pipeline_id = initialise(http, processing_configuration=flow)
    peer.wait_for_followers(pipeline_id)
    peer.predict(pipeline_id, 0)

    (got,) = consumed(http, pipeline_id, 1)

    assert got["outputs"] == [{"cars": count}]


@pytest.mark.parametrize("excluded", [["found"], ["found", "nothing"], None, []])
def test_outputs_can_be_left_out(http: httpx.Client, peer: Peer, excluded: list[str] | None) -> None:
    pipeline_id = initialise(http)
    peer.wait_for_followers(pipeline_id)
    peer.predict(pipeline_id, 0)

    (got,) = consumed(http, pipeline_id, 1, excluded_fields=excluded)

    assert list(got["outputs"][0]) == ([] if excluded else ["found"])
    assert frames(got) == [1]


@pytest.mark.parametrize("content", [b"", b"null", b"{}"])
def test_a_body_need_not_come_with_consume(http: httpx.Client, peer: Peer, content: bytes) -> None:
    name = f"door-{len(content)}"
    peer.pipelines[name] = pipeline(name)

    answer = http.request("GET", f"/inference_pipelines/{name}/consume", content=content)

    assert (answer.status_code, answer.json()["outputs"]) == (200, [])


def test_the_output_of_a_visualization_is_the_newest_picture_made_only_for_who_wants_it(
    http: httpx.Client, peer: Peer
) -> None:
    drawn = {"type": "JsonField", "name": "drawn", "selector": "$steps.boxes.image"}
    flow = specification(steps=[MODEL, BOXES], outputs=[FOUND, drawn])
    pipeline_id = initialise(http, processing_configuration={**WORKFLOW, "workflow_specification": flow})
    peer.wait_for_followers(pipeline_id)
    for seq in range(2):
        peer.predict(pipeline_id, seq)
    (without,) = consumed(http, pipeline_id, 1, excluded_fields=["drawn"])

    with ThreadPoolExecutor() as aside:
        asked = aside.submit(consumed, http, pipeline_id, 1)
        peer.wait_for_looker(pipeline_id)
        peer.picture(pipeline_id, 1, b"jpeg")
        (got,) = asked.result(PATIENCE)

    assert list(without["outputs"][0]) == ["found"]
    assert got["outputs"][0]["drawn"] == {"type": "base64", "value": "anBlZw=="}
    assert frames(got) == [2]


def test_of_a_pipeline_made_elsewhere_results_wait_from_the_first_question_on(
    http: httpx.Client, peer: Peer
) -> None:
    peer.pipelines["gate"] = pipeline("gate")
    assert consume(http, "gate")["outputs"] == []
    peer.wait_for_followers("gate")
    peer.predict("gate", 0)

    (got,) = consumed(http, "gate", 1)

    assert list(got["outputs"][0]) == ["predictions"]


def test_a_pipeline_that_somebody_ended_elsewhere_is_not_known_any_more(
    http: httpx.Client, peer: Peer
) -> None:
    pipeline_id = initialise(http)
    peer.wait_for_followers(pipeline_id)

    del peer.pipelines[pipeline_id]
    peer.happen(1, pipeline_id, "gone")

    peer.wait_for_no_followers()
    assert http.get(f"/inference_pipelines/{pipeline_id}/consume").status_code == 404


def test_a_pipeline_that_nobody_consumes_is_terminated(http: httpx.Client, peer: Peer) -> None:
    for _ in range(10):  # until nothing stands still for so long as it may be unconsumed
        pipeline_id = initialise(http, consumption_timeout=2.0)
        asked = outlived_by(http, pipeline_id, 2.5)
        if asked is not None:
            break
    assert asked is not None

    until(lambda: pipeline_id not in peer.pipelines)

    assert time.monotonic() - asked >= 2.0
    peer.wait_for_no_followers()
    assert http.get(f"/inference_pipelines/{pipeline_id}/consume").status_code == 404


def outlived_by(http: httpx.Client, pipeline_id: str, seconds: float) -> float | None:
    """When it was asked last, after it was asked for so long; None: it was terminated meanwhile."""
    began = last = time.monotonic()
    while (asked := time.monotonic()) < began + seconds:
        answer = http.get(f"/inference_pipelines/{pipeline_id}/consume")
        if answer.status_code == 404:
            return None
        assert answer.json()["outputs"] == []  # to find nothing is a sign of life too
        last = asked
        time.sleep(0.1)
    return last


def test_a_pipeline_whose_creation_failed_leaves_nothing_behind(http: httpx.Client, peer: Peer) -> None:
    peer.answer = lambda asked: (
        Error("conflict", "full") if isinstance(asked, CreatePipeline) else peer.honest(asked)
    )

    answer = http.post("/inference_pipelines/initialise", json=payload())

    assert answer.status_code == 500
    peer.wait_for_no_followers()


# errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/inference_pipelines/nobody/status"),
        ("GET", "/inference_pipelines/nobody/consume"),
        ("POST", "/inference_pipelines/nobody/pause"),
        ("POST", "/inference_pipelines/nobody/resume"),
        ("POST", "/inference_pipelines/nobody/terminate"),  # the original says 400, as of no other command
    ],
)
def test_a_pipeline_that_nobody_knows_is_not_found(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)

    assert answer.status_code == 404
    assert answer.text == (
        f'{{"message":"{MANAGER}Error type: not_found. Details: N/A",'
        '"error_type":"ProcessesManagerNotFoundError","inner_error_type":null}'
    )


@pytest.mark.parametrize(
    ("changes", "status", "kind", "inner", "said"),
    [
        (
            {"processing_configuration": {**BARE, "model_id": "other/1"}},
            404,
            "ProcessesManagerNotFoundError",
            "RoboflowAPINotNotFoundError",
            "other/1",
        ),
        (
            {"processing_configuration": {**BARE, "model_id": "a b"}},
            400,
            "ProcessesManagerInvalidPayload",
            None,
            "expected model_id as <project>/<version>",
        ),
        (
            {"processing_configuration": {**BARE, "model_configuration": {"type": "ocr"}}},
            400,
            "ProcessesManagerInvalidPayload",
            "NotImplementedError",
            "'object-detection', got 'ocr'",
        ),
        (
            {"processing_configuration": {**BARE, "model_configuration": {"confidence": 7}}},
            400,
            "ProcessesManagerInvalidPayload",
            "WorkflowSyntaxError",
            "model_configuration.confidence",
        ),
        (
            {"processing_configuration": {**WORKFLOW, "workflow_specification": specification(steps=[])}},
            400,
            "ProcessesManagerInvalidPayload",
            "WorkflowSyntaxError",
            "expected one step that is an object-detection model",
        ),
        (
            {
                "processing_configuration": {
                    "type": "WorkflowConfiguration",
                    "workspace_name": "mine",
                    "workflow_id": "flow",
                }
            },
            400,
            "ProcessesManagerInvalidPayload",
            None,
            "there is no Roboflow server here",
        ),
        ({"device": "nowhere"}, 400, "ProcessesManagerInvalidPayload", None, "expected device"),
    ],
)
def test_what_cannot_run_is_refused_with_its_class(
    http: httpx.Client, changes: dict[str, Any], status: int, kind: str, inner: str | None, said: str
) -> None:
    answer = http.post("/inference_pipelines/initialise", json=payload(**changes))

    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["message", "error_type", "inner_error_type"]
    assert (answer.json()["error_type"], answer.json()["inner_error_type"]) == (kind, inner)
    assert answer.json()["message"].startswith(f"{MANAGER}Error type: ")
    assert said in answer.json()["message"]


@pytest.mark.parametrize(
    ("verb", "state"), [("pause", ObservedState.PAUSED), ("resume", ObservedState.RUNNING)]
)
def test_a_transition_that_makes_no_sense_is_an_operation_error(
    http: httpx.Client, peer: Peer, verb: str, state: ObservedState
) -> None:
    peer.pipelines["door"] = pipeline("door", observed=state, status=state.value)

    answer = http.post(f"/inference_pipelines/door/{verb}")

    assert (answer.status_code, answer.json()["error_type"]) == (500, "ProcessesManagerOperationError")
    assert "stream in state: StreamState." in answer.json()["message"]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("not_found", 404, "ProcessesManagerNotFoundError"),
        ("invalid", 400, "ProcessesManagerInvalidPayload"),
        ("conflict", 500, "ProcessesManagerOperationError"),
        ("bad_message", 500, "ProcessesManagerInternalError"),
        ("unavailable", 500, "ConnectivityError"),
        ("store_down", 500, "ConnectivityError"),
    ],
)
def test_what_the_broker_refuses_has_the_originals_class(
    http: httpx.Client, peer: Peer, code: ErrorCode, status: int, kind: str
) -> None:
    peer.answer = lambda _asked: Error(code, "the reason")

    answer = http.get("/inference_pipelines/list")

    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert "the reason" in answer.json()["message"]


def test_without_a_broker_everything_is_a_connectivity_error(http: httpx.Client, peer: Peer) -> None:
    peer.stop()
    try:
        answer = http.get("/inference_pipelines/list")
    finally:
        peer.start()

    assert (answer.status_code, answer.json()["error_type"]) == (500, "ConnectivityError")
    text = "Could not establish communication with InferencePipeline Manager"
    assert answer.json()["message"].startswith(text)
    until(lambda: http.get("/inference_pipelines/list").status_code == 200)


def test_a_pause_that_no_device_confirms_is_a_connectivity_error(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    peer.confirms = False

    answer = http.post("/inference_pipelines/door/pause")

    assert (answer.status_code, answer.json()["error_type"]) == (500, "ConnectivityError")
    assert "edge-1 has not confirmed it" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (None, ["body"]),
        ({}, ["body", "video_configuration"]),
        (payload(video_configuration=None), ["body", "video_configuration"]),
        (payload(video_configuration={"video_reference": 0}), ["body", "video_configuration", "type"]),
        (
            video(source_buffer_filling_strategy="drop_oldest"),
            ["body", "video_configuration", "source_buffer_filling_strategy"],
        ),
        (video(max_fps=0), ["body", "video_configuration", "max_fps"]),
        (video(batch_collection_timeout=-1), ["body", "video_configuration", "batch_collection_timeout"]),
        (payload(consumption_timeout=0), ["body", "consumption_timeout"]),
        (payload(processing_configuration={"type": "Other"}), ["body", "processing_configuration"]),
    ],
)
def test_a_body_of_another_shape_answers_as_fastapi(http: httpx.Client, body: Any, where: list[str]) -> None:
    content = b"" if body is None else json.dumps(body).encode()

    answer = http.post("/inference_pipelines/initialise", content=content)

    assert answer.status_code == 422, answer.text
    assert list(answer.json()) == ["detail"]
    assert answer.json()["detail"][0]["loc"][: len(where)] == where


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"excluded_fields": "found"}', b'{"excluded_fields": [1]}']
)
def test_a_wrong_body_of_consume_answers_as_fastapi(http: httpx.Client, peer: Peer, content: bytes) -> None:
    peer.pipelines["door"] = pipeline("door")

    answer = http.request("GET", "/inference_pipelines/door/consume", content=content)

    assert (answer.status_code, list(answer.json())) == (422, ["detail"])


def test_webrtc_is_refused_with_the_reason(http: httpx.Client) -> None:
    answer = http.post("/inference_pipelines/initialise_webrtc", json=payload())

    assert answer.status_code == 501
    assert answer.json()["inner_error_type"] == "NotImplementedError"
    assert "WebRTC is not supported" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/inference_pipelines/nothing", 404), ("GET", "/inference_pipelines/initialise", 405)],
)
def test_an_unknown_path_or_method_answers_as_fastapi(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = http.request(method, path)

    assert (answer.status_code, list(answer.json())) == (status, ["detail"])


def test_a_large_or_encoded_body_is_refused_in_this_familys_shape(http: httpx.Client) -> None:
    large = http.post("/inference_pipelines/initialise", content=b"x" * 1_048_577)
    encoded = http.post("/inference_pipelines/initialise", json={}, headers={"content-encoding": "gzip"})

    assert (large.status_code, large.json()["error_type"]) == (413, "MessageToBigError")
    assert (encoded.status_code, encoded.json()["error_type"]) == (415, "MalformedPayloadError")


# keys -----------------------------------------------------------------------------------------------------


def test_a_key_of_the_originals_cloud_opens_nothing_and_breaks_nothing(http: httpx.Client, api: Api) -> None:
    key = f"rf_{uuid.uuid4().hex}"

    trusted = http.request(
        "GET",
        "/inference_pipelines/list",
        json={"api_key": key},
        headers={"authorization": f"Bearer {key}"},
    )
    foreign = http.get(
        "/inference_pipelines/list",
        headers={"authorization": f"Bearer {key}", "x-forwarded-for": "10.0.0.1"},
    )
    ours = http.get(
        "/inference_pipelines/list",
        headers={"authorization": f"Bearer {api.token}", "x-forwarded-for": "10.0.0.1"},
    )
    initialise(http, api_key=key)

    assert (trusted.status_code, foreign.status_code, ours.status_code) == (200, 401, 200)
    assert list(foreign.json()) == ["message"]
    assert foreign.headers["www-authenticate"] == "Bearer"
    assert key not in api.log.read_text()
    assert not any(key in said for said in files_below(api.folder).values())


# restarts of the api --------------------------------------------------------------------------------------


def test_a_restart_of_the_api_keeps_how_a_pipeline_is_consumed(peer: Peer, own_api: Api) -> None:
    api = own_api
    pipeline_id = initialise(api.http, consumption_timeout=60)
    peer.wait_for_followers(pipeline_id)
    peer.predict(pipeline_id, 0)
    assert api.stop() == 0

    peer.wait_for_no_followers()
    api.start()

    peer.wait_for_followers(pipeline_id)
    assert consume(api.http, pipeline_id)["outputs"] == []  # what waited is lost
    peer.predict(pipeline_id, 1)
    (got,) = consumed(api.http, pipeline_id, 1)
    assert (frames(got), list(got["outputs"][0])) == ([2], ["found"])
    api.http.post(f"/inference_pipelines/{pipeline_id}/terminate")
    assert list((api.folder / "api/consumers").iterdir()) == []
