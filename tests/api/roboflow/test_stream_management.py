"""The original's six endpoints: its statuses, its keys in their order, both of its shapes of an error."""

from __future__ import annotations

import importlib.util
import json
import uuid
from typing import Any

import httpx
import pytest

from streamfleet_core.protocol.messages import Error, ErrorCode
from streamfleet_core.protocol.requests import ChangePipeline, CreatePipeline
from streamfleet_core.protocol.status import PipelineStat, SourceStat, StatusReport
from streamfleet_core.protocol.values import ModelRef, ObservedState, PipelineSpec, SourceSpec, UdpSink
from tests.api.conftest import Api, until
from tests.fakes.broker import Peer, device, pipeline, spec
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import SHARED

CLIENT = SHARED / "data/original_client.py"
MODEL = ModelRef("parts/1", "ab" * 32)


def body(**changes: Any) -> dict[str, Any]:
    """A legal request, with changes."""
    sink = {"type": "udp_sink", "host": "127.0.0.1", "port": 12000}
    return {"model_id": "parts/1", "video_reference": "rtsp://cam/1", "sink_configuration": sink, **changes}


@pytest.fixture(autouse=True)
def _registered(peer: Peer) -> None:
    peer.models["parts/1"] = MODEL


# success --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_listed")
def test_pipelines_are_listed_oldest_first_in_the_originals_shape(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines.update({name: pipeline(name) for name in ("b", "a")})

    answer = http.get("/list_pipelines")

    request_id = uuid.UUID(answer.json()["context"]["request_id"])
    assert answer.status_code == 200
    assert answer.text == (
        f'{{"status":"success","context":{{"request_id":"{request_id}","pipeline_id":null}},'
        '"pipelines":["b","a"]}'
    )


def test_initialise_answers_with_an_id_of_our_making(http: httpx.Client, peer: Peer) -> None:
    answer = http.post("/initialise", json=body(type="init", pipeline_id="mine", surprise=[1]))

    context = answer.json()["context"]
    assert answer.status_code == 200
    assert list(answer.json()) == ["status", "context"]
    assert list(context) == ["request_id", "pipeline_id", "device"]
    assert uuid.UUID(context["pipeline_id"]).version == 4
    assert list(peer.pipelines) == [context["pipeline_id"]]


def test_every_field_of_a_request_reaches_the_broker(http: httpx.Client, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1")

    answer = http.post(
        "/initialise",
        json=body(
            api_key="k",
            max_fps="7.5",
            source_buffer_filling_strategy="drop_oldest",
            source_buffer_consumption_strategy="EAGER",
            model_configuration={
                "type": "object-detection",
                "class_agnostic_nms": True,
                "confidence": 0.5,
                "iou_threshold": 0.6,
                "max_candidates": 100,
                "max_detections": 10,
            },
            active_learning_enabled=False,
            video_source_properties=[{"frame_width": 1920, "fps": 30.0}],
            active_learning_target_dataset="d",
            batch_collection_timeout=0.5,
            device="edge-1",
            tracker="bytetrack",
        ),
    )

    assert answer.status_code == 200, answer.text
    created = peer.asked[-1]
    assert isinstance(created, CreatePipeline)
    assert created.device == "edge-1"
    assert created.spec == PipelineSpec(
        model=MODEL,
        sources=(
            SourceSpec(
                "rtsp://cam/1",
                properties={"frame_width": 1920.0, "fps": 30.0},
                filling="DROP_OLDEST",
                consumption="EAGER",
            ),
        ),
        sinks=(UdpSink("127.0.0.1", 12000),),
        max_fps=7.5,
        confidence=0.5,
        iou_threshold=0.6,
        class_agnostic_nms=True,
        max_candidates=100,
        max_detections=10,
        tracker="bytetrack",
    )


def test_several_sources_have_their_own_properties_and_one_strategy(http: httpx.Client, peer: Peer) -> None:
    sources: list[str | int] = ["rtsp://cam/1", 0, "/videos/a.mp4"]

    each = http.post(
        "/initialise", json=body(video_reference=sources, video_source_properties=[{"fps": 5}, None, {}])
    )
    listed = peer.asked[-1]
    same = http.post(
        "/initialise",
        json=body(
            video_reference=sources,
            video_source_properties={"fps": 5},
            source_buffer_filling_strategy="Drop_Latest",
            source_buffer_consumption_strategy="lazy",
        ),
    )
    shared = peer.asked[-1]

    assert (each.status_code, same.status_code) == (200, 200), (each.text, same.text)
    assert isinstance(listed, CreatePipeline)
    assert listed.spec.sources == (
        SourceSpec("rtsp://cam/1", properties={"fps": 5.0}),
        SourceSpec(0),
        SourceSpec(sources[2]),
    )
    assert isinstance(shared, CreatePipeline)
    assert shared.spec.sources == tuple(
        SourceSpec(source, properties={"fps": 5.0}, filling="DROP_LATEST", consumption="LAZY")
        for source in sources
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"api_key": None, "max_fps": None, "video_source_properties": None, "batch_collection_timeout": None},
        {"sink_configuration": {"host": "127.0.0.1", "port": "99"}},
        {"video_reference": 0},
        {"video_reference": ["rtsp://cam/1"]},
        {"video_reference": "foo://x"},
        {"video_source_properties": {"frame_width": 1}},
        {"model_configuration": {}},
        {"max_fps": 30},
    ],
)
def test_what_the_original_accepted_is_accepted(http: httpx.Client, changes: dict[str, Any]) -> None:
    assert http.post("/initialise", json=body(**changes)).status_code == 200


@pytest.mark.parametrize(
    ("verb", "before", "desired_status"),
    [("pause", "running", "pause"), ("resume", "paused", "run"), ("terminate", "running", "stop")],
)
def test_a_command_answers_success_with_the_pipelines_id(
    http: httpx.Client, peer: Peer, verb: str, before: Any, desired_status: str
) -> None:
    state = {"running": "run", "paused": "pause"}[before]
    peer.pipelines["door"] = pipeline("door", status=before, desired_status=state)

    answer = http.post(f"/{verb}/door")

    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    assert answer.json()["context"]["pipeline_id"] == "door"
    changed = peer.asked[-1]
    assert isinstance(changed, ChangePipeline)
    assert changed.desired_status == desired_status


def test_a_get_with_a_body_is_answered(http: httpx.Client) -> None:
    assert http.request("GET", "/list_pipelines", json={"api_key": "k"}).status_code == 200


@pytest.mark.skipif(not CLIENT.exists(), reason="the original's client is not here (../shared/data)")
def test_the_originals_client_runs_unchanged(api: Api, peer: Peer) -> None:
    module = importlib.util.spec_from_file_location("original_client", CLIENT)
    assert module is not None
    assert module.loader is not None
    client = importlib.util.module_from_spec(module)
    module.loader.exec_module(client)
    vars(client)["URL"] = api.url

    started = client.initialise_pipeline("rtsp://cam/1", "parts/1", "a key", "127.0.0.1", 12000, max_fps=5)
    pipeline_id = started["context"]["pipeline_id"]
    peer.pipelines[pipeline_id] = pipeline(pipeline_id)

    assert started["status"] == "success"
    assert client.list_pipelines()["pipelines"] == [pipeline_id]
    assert client.get_pipeline_status(pipeline_id)["report"]["inference_throughput"] == 0.0
    assert client.pause_pipeline(pipeline_id)["status"] == "success"
    assert client.resume_pipeline(pipeline_id)["status"] == "success"
    assert client.terminate_pipeline(pipeline_id)["status"] == "success"
    assert client.terminate_pipeline(pipeline_id)["status"] == "failure"


# status ---------------------------------------------------------------------------------------------------


def test_before_the_first_status_the_report_has_its_four_keys(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["early"] = pipeline("early", status="starting")

    answer = http.get("/status/early")

    assert answer.status_code == 200
    assert list(answer.json()) == ["status", "context", "report"]
    report = answer.json()["report"]
    assert list(report)[:4] == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]
    assert report["sources_metadata"][0]["source_reference"] == "rtsp://10.0.0.9/door"
    assert "hunter2" not in answer.text
    assert (report["state"], report["device"], report["age"]) == ("starting", "edge-1", None)


def told(pipeline_id: str, throughput: float, generation: int = 3) -> PipelineStat:
    """A status of a pipeline that runs."""
    report: StatusReport = {
        "video_source_status_updates": [{"severity": 20}],
        "latency_reports": [],
        "inference_throughput": throughput,
        "sources_metadata": [],
    }
    source = SourceStat(
        source_id=0,
        reference="rtsp://10.0.0.9/door",
        state="RUNNING",
        received=10,
        decoded=10,
        inferred=9,
        emitted=8,
        dropped={"late": 1},
    )
    return PipelineStat(
        pipeline_id=pipeline_id,
        device="edge-1",
        generation=generation,
        incarnation=0,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=0,
        fps=throughput,
        sources=(source,),
        dropped={"udp": 2},
        report=report,
        at=0.0,
    )


def test_the_report_is_the_one_that_the_device_told_last(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["told"] = pipeline("told")
    http.get("/v2/pipelines/told")  # no list without it is on its way any more, which would end its report
    peer.tell(told("told", 25.0), seq=5)
    peer.tell(told("told", 26.0), seq=6)
    peer.tell(told("told", 1.0), seq=5)  # late: it has been overtaken
    peer.tell(told("told", 99.0, generation=2), seq=7)  # of a device that lost the pipeline unknowingly

    until(lambda: http.get("/status/told").json()["report"]["inference_throughput"] == 26.0)
    settled = http.get("/status/told").json()["report"]

    assert settled["inference_throughput"] == 26.0
    assert settled["video_source_status_updates"] == [{"severity": 20}]
    assert 0 <= settled["age"] < PATIENCE
    (entry,) = http.get("/v2/pipelines").json()["pipelines"]
    assert (entry["fps"], entry["emitted"], entry["dropped"]) == (26.0, 8, 3)


# section 1.4: what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "location"),
    [
        ({"model_id": 7}, "string_type", ["body", "model_id"]),
        ({"sink_configuration": None}, "model_attributes_type", ["body", "sink_configuration"]),
        ({"sink_configuration": {"port": 1}}, "missing", ["body", "sink_configuration", "host"]),
        (
            {"sink_configuration": {"host": "h", "port": 99.5}},
            "int_from_float",
            ["body", "sink_configuration", "port"],
        ),
        ({"max_fps": "fast"}, "float_parsing", ["body", "max_fps", "float"]),
        ({"video_reference": {"a": 1}}, "string_type", ["body", "video_reference", "str"]),
        (
            {"model_configuration": {"max_detections": "x"}},
            "int_parsing",
            ["body", "model_configuration", "max_detections"],
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_422_in_fastapis_shape(
    http: httpx.Client, changes: dict[str, Any], kind: str, location: list[str]
) -> None:
    answer = http.post("/initialise", json=body(**changes))

    assert answer.status_code == 422
    assert list(answer.json()) == ["detail"]
    first = answer.json()["detail"][0]
    assert list(first)[:4] == ["type", "loc", "msg", "input"]
    assert (first["type"], first["loc"]) == (kind, location)


def test_all_missing_fields_are_named_at_once(http: httpx.Client) -> None:
    answer = http.post("/initialise", json={})

    missing = [(error["type"], error["loc"][1], error["msg"]) for error in answer.json()["detail"]]
    names = ("model_id", "video_reference", "sink_configuration")
    assert missing == [("missing", name, "Field required") for name in names]


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"", "application/json", "missing"),
        (b"null", "application/json", "missing"),
        (b"{", "application/json", "json_invalid"),
        (b"\xff\xfe\xfd", "application/json", "json_invalid"),
        (b'{"max_fps": NaN}', "application/json", "json_invalid"),
        (b'{"max_fps": 1e999}', "application/json", "json_invalid"),
        (b'{"max_fps": ' + b"9" * 5000 + b"}", "application/json", "json_invalid"),
        (b"[" * 100_000, "application/json", "json_invalid"),
        (b"[" * 33 + b"]" * 33, "application/json", "json_invalid"),
        (b"[1, 2]", "application/json", "model_attributes_type"),
        (b'"\\ud800"', "application/json", "json_invalid"),  # half a character is no text
        (json.dumps(body()).encode(), "text/plain", "model_attributes_type"),
    ],
)
def test_a_body_that_is_no_request_is_422(
    http: httpx.Client, content: bytes, kind: str, expected: str
) -> None:
    answer = http.post("/initialise", content=content, headers={"content-type": kind})

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == expected


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"model_id": "../../etc/passwd"}, 400, "model_id"),
        ({"model_id": "a" * 10_000}, 400, "model_id"),
        ({"model_id": "a\0b"}, 400, "model_id"),
        ({"sink_configuration": {"type": "tcp", "host": "h", "port": 1}}, 400, "'udp_sink', got 'tcp'"),
        ({"sink_configuration": {"host": "h", "port": 0}}, 400, "sink_configuration.port from 1 to 65535"),
        ({"sink_configuration": {"host": "h", "port": 65_536}}, 400, "got 65536"),
        ({"sink_configuration": {"host": "a b", "port": 1}}, 400, "sink_configuration.host"),
        ({"model_configuration": {"type": "classification"}}, 400, "object-detection"),
        ({"model_configuration": {"confidence": 1.5}}, 400, "confidence from 0 to 1"),
        ({"model_configuration": {"max_detections": 0}}, 400, "max_detections from 1"),
        ({"source_buffer_filling_strategy": "zzz"}, 500, "'ZZZ' is not a valid BufferFillingStrategy"),
        ({"source_buffer_filling_strategy": "z" * 9999}, 500, "is not a valid BufferFillingStrategy"),
        (
            {"source_buffer_consumption_strategy": "ZZZ"},
            500,
            "'ZZZ' is not a valid BufferConsumptionStrategy",
        ),
        ({"video_reference": ["a"] * 17}, 400, "at most 16 video_reference"),
        ({"video_reference": ["a", -1]}, 400, "device index"),
        ({"video_reference": []}, 500, "empty list"),
        ({"video_reference": -1}, 400, "device index"),
        ({"video_reference": 10**400}, 400, "device index"),
        ({"video_reference": ""}, 400, "video_reference"),
        ({"video_source_properties": [{}, {}]}, 500, "each of 1 sources, got 2"),
        ({"video_source_properties": []}, 500, "each of 1 sources, got 0"),
        ({"video_source_properties": {"a b": 1}}, 400, "frame_width"),
        ({"max_fps": 0}, 400, "max_fps"),
        ({"max_fps": 10**400}, 400, "max_fps"),
        ({"batch_collection_timeout": -1}, 400, "batch_collection_timeout"),
        ({"tracker": "magic"}, 400, "bytetrack"),
        ({"device": "nobody"}, 400, "edge-1, edge-2"),
        ({"model_id": "nobody/1"}, 404, "streamfleet models add nobody/1 FILE"),
    ],
)
def test_a_field_of_the_wrong_value_is_named(
    http: httpx.Client, peer: Peer, changes: dict[str, Any], status: int, expected: str
) -> None:
    peer.devices.update({name: device(name) for name in ("edge-1", "edge-2")})

    answer = http.post("/initialise", json=body(**changes))

    assert (answer.status_code, list(answer.json())) == (status, ["status", "message"]), answer.text
    assert answer.json()["status"] == "failure"
    error_type = {400: "invalid_payload", 404: "not_found", 500: "internal_error"}[status]
    prefix = f"Error in ProcessesManagerClient. Error type: {error_type}. Details: "
    assert answer.json()["message"].startswith(prefix)
    assert expected in answer.json()["message"]
    assert not peer.pipelines
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status/x"), ("POST", "/pause/x"), ("POST", "/resume/x"), ("POST", "/terminate/x")],
)
def test_an_unknown_pipeline_is_not_found_in_the_originals_words(
    http: httpx.Client, method: str, path: str
) -> None:
    answer = http.request(method, path)

    assert answer.status_code == 404
    assert answer.text == (
        '{"status":"failure","message":"Error in ProcessesManagerClient. '
        'Error type: not_found. Details: N/A"}'
    )


@pytest.mark.parametrize("text", ["%2e%2e", "a%00b", "a" * 10_000, "%F0%9F%98%80", ".hidden", "a b"])
def test_what_is_no_id_is_422(http: httpx.Client, text: str) -> None:
    answer = http.get(f"/status/{text}")

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["path", "pipeline_id"]


@pytest.mark.parametrize(
    ("verb", "before", "expected"),
    [
        (
            "pause",
            {"status": "paused", "desired_status": "pause"},
            "Could not MUTE stream in state: StreamState.MUTED",
        ),
        (
            "pause",
            {"status": "paused", "desired_status": "pause", "spec": spec("/videos/a.mp4")},
            "Could not MUTE stream in state: StreamState.PAUSED",
        ),
        ("pause", {"status": "ended"}, "Could not MUTE stream in state: StreamState.ENDED"),
        ("pause", {"status": "failed"}, "Could not MUTE stream in state: StreamState.ERROR"),
        ("resume", {"status": "running"}, "Could not RESUME stream in state: StreamState.RUNNING"),
        ("resume", {"status": "ended"}, "Could not RESUME stream in state: StreamState.ENDED"),
    ],
)
def test_a_transition_that_makes_no_sense_is_an_operation_error(
    http: httpx.Client, peer: Peer, verb: str, before: dict[str, Any], expected: str
) -> None:
    peer.pipelines["door"] = pipeline("door", **before)

    answer = http.post(f"/{verb}/door")

    assert answer.status_code == 500
    assert answer.json()["message"].endswith(f"Error type: operation_error. Details: {expected}")
    assert not any(isinstance(asked, ChangePipeline) for asked in peer.asked)


def test_an_unconfirmed_pause_is_503_and_may_be_asked_again(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    peer.confirms = False

    unconfirmed = http.post("/pause/door")
    peer.confirms = True
    again = http.post("/pause/door")

    assert unconfirmed.status_code == 503
    assert "the change to pause is stored" in unconfirmed.json()["message"]
    assert "edge-1 has not confirmed it" in unconfirmed.json()["message"]
    assert again.status_code == 200


def test_a_pipeline_that_no_device_has_pauses_at_once(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", status="pending", device=None)
    peer.confirms = False

    assert http.post("/pause/door").status_code == 200


def test_a_pipeline_is_terminated_whether_its_device_confirms_or_not(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    peer.confirms = False

    assert http.post("/terminate/door").status_code == 200


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("invalid", 400, "Error type: invalid_payload. Details: the reason"),
        ("not_found", 404, "Error type: not_found. Details: the reason"),
        ("conflict", 500, "Error type: operation_error. Details: the reason"),
        ("bad_message", 500, "Error type: internal_error. Details: the reason"),
        ("unavailable", 503, "Could not communicate with Process Manager: the reason"),
        ("too_many", 503, "Could not communicate with Process Manager: the reason"),
        ("store_down", 503, "Could not communicate with Process Manager: the reason"),
    ],
)
def test_what_the_broker_refuses_has_the_originals_status(
    http: httpx.Client, peer: Peer, code: ErrorCode, status: int, expected: str
) -> None:
    peer.answer = lambda _asked: Error(code, "the reason")

    answer = http.get("/list_pipelines")

    assert answer.status_code == status
    assert answer.json()["message"].endswith(expected)


def test_without_a_broker_everything_is_503_in_the_originals_words(http: httpx.Client, peer: Peer) -> None:
    peer.stop()
    try:
        answer = http.get("/list_pipelines")
    finally:
        peer.start()

    assert answer.status_code == 503
    assert answer.text == '{"status":"failure","message":"Could not communicate with Process Manager"}'
    until(lambda: http.get("/list_pipelines").status_code == 200)


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "/nothing", 404, {"detail": "Not Found"}),
        ("POST", "/list_pipelines", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/initialise", 405, {"detail": "Method Not Allowed"}),
        ("DELETE", "/status/x", 405, {"detail": "Method Not Allowed"}),
    ],
)
def test_an_unknown_path_or_method_answers_as_fastapi(
    http: httpx.Client, method: str, path: str, status: int, expected: dict[str, str]
) -> None:
    answer = http.request(method, path)

    assert (answer.status_code, answer.json()) == (status, expected)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("size", [1_048_577, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_before_it_is_read(http: httpx.Client, size: int, chunked: bool) -> None:
    content = b'{"model_id": "' + b"x" * size + b'"}'

    answer = http.post("/initialise", content=iter([content]) if chunked else content)

    assert answer.status_code == 413
    assert "1048576" in answer.json()["message"]


def test_an_encoded_body_is_refused(http: httpx.Client) -> None:
    answer = http.post("/initialise", json=body(), headers={"content-encoding": "gzip"})

    assert answer.status_code == 415
    assert answer.json()["status"] == "failure"
