"""`/v2/pipelines`: created whole, in part, in a word; once under a key, and only at a version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from streamfleet_core.protocol.limits import MAX_CHANGES
from streamfleet_core.protocol.messages import Error, Message
from streamfleet_core.protocol.requests import (
    ChangePipeline,
    ChangePipelines,
    CreatePipeline,
    OperatorRequest,
    PutPipeline,
    RestartPipeline,
)
from streamfleet_core.protocol.status import PipelineStat, SourceStat
from streamfleet_core.protocol.values import (
    Keep,
    Manifest,
    ModelRef,
    Motion,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    Stage,
    UdpSink,
    Weights,
)
from tests.api.conftest import until
from tests.fakes.broker import Peer, device, pipeline, spec

MODEL = ModelRef("parts/1", "ab" * 32)
SECRET = "rtsp://user:hunter2@10.0.0.9/door?token=hunter2"


@pytest.fixture(autouse=True)
def _known(peer: Peer) -> None:
    peer.models["parts/1"] = MODEL
    peer.devices.update({name: device(name) for name in ("edge-1", "edge-2")})


def body(**changes: Any) -> dict[str, Any]:
    """A legal request, with changes."""
    return {"model": "parts/1", "sources": ["rtsp://cam/1"], **changes}


# listing --------------------------------------------------------------------------------------------------


def test_pages_together_are_the_whole_list(http: httpx.Client, peer: Peer) -> None:
    for number in range(7):
        labels = {"hall": str(number % 2)}
        peer.pipelines[f"door-{number}"] = pipeline(f"door-{number}", labels=labels)
    whole = http.get("/v2/pipelines").json()

    pages, query = list[Any](), "limit=3"
    while not pages or pages[-1]["next"] is not None:
        pages.append(http.get(f"/v2/pipelines?{query}").json())
        query = f"limit=3&after={pages[-1]['next']}"

    assert list(whole) == ["pipelines"], "a list that is no page says nothing of a next one"
    assert [len(page["pipelines"]) for page in pages] == [3, 3, 1]
    assert [each for page in pages for each in page["pipelines"]] == whole["pipelines"]
    odd = http.get("/v2/pipelines?selector=hall=1&limit=2").json()
    assert [each["pipeline_id"] for each in odd["pipelines"]] == ["door-1", "door-3"]
    rest = http.get(f"/v2/pipelines?selector=hall=1&limit=2&after={odd['next']}").json()
    assert ([each["pipeline_id"] for each in rest["pipelines"]], rest["next"]) == (["door-5"], None)


def test_pages_of_devices_are_by_name(http: httpx.Client) -> None:
    first = http.get("/v2/devices?limit=1&fields=device").json()

    assert first == {"devices": [{"device": "edge-1"}], "next": "edge-1"}
    second = http.get("/v2/devices?limit=2&after=edge-1&fields=device,state").json()
    assert second == {"devices": [{"device": "edge-2", "state": "ready"}], "next": None}


def test_only_the_fields_that_are_named_are_returned(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    some = http.get("/v2/pipelines?fields=pipeline_id,status").json()

    assert some == {"pipelines": [{"pipeline_id": "door", "status": "running"}]}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "after=x", "fields=nothing", "fields=", "fields=status,"]
)
def test_a_wrong_page_or_field_is_refused(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/v2/pipelines?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][:2] == ["query", query.partition("=")[0]]


# creating -------------------------------------------------------------------------------------------------


def test_every_key_of_a_request_reaches_the_broker(http: httpx.Client, peer: Peer) -> None:
    source = {
        "reference": "https://cam/2.mp4",
        "mode": "file",
        "max_fps": 5,
        "properties": {"frame_width": 640},
        "filling": "DROP_LATEST",
        "consumption": "LAZY",
        "decoder": "nv",
        "classes": ["bolt"],
        "region": [[0, 0], [1, 0], [0.5, 1]],
        "motion": {"sensitivity": 0.25},
    }

    answer = http.post(
        "/v2/pipelines",
        json={
            "id": "door",
            "model": "parts/1",
            "sources": ["rtsp://cam/1", 0, source],
            "sinks": [{"type": "udp", "host": "127.0.0.1", "port": 9}, {"host": "wall", "port": 10}],
            "max_fps": 12.5,
            "confidence": 0.5,
            "iou_threshold": 1,
            "class_agnostic_nms": True,
            "max_candidates": 100,
            "max_detections": 10,
            "tracker": "bytetrack",
            "priority": "high",
            "mask_format": "rle",
            "keep": {"age": 86400, "size": 0},
            "stages": [
                {
                    "name": "text",
                    "model": "parts/1",
                    "classes": ["plate"],
                    "max_objects": 3,
                    "margin": 0.1,
                    "max_delay": 2,
                    "confidence": 0.7,
                    "max_detections": 5,
                }
            ],
            "device": "edge-2",
            "selector": {"site": "hall-1"},
            "labels": {"line": "3", "empty": ""},
            "paused": True,
        },
    )

    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == "/v2/pipelines/door"
    assert answer.headers["etag"] == '"1"'
    desired = PipelineSpec(
        model=MODEL,
        sources=(
            SourceSpec("rtsp://cam/1"),
            SourceSpec(0),
            SourceSpec(
                "https://cam/2.mp4",
                properties={"frame_width": 640.0},
                mode="file",
                max_fps=5.0,
                filling="DROP_LATEST",
                consumption="LAZY",
                decoder="nv",
                classes=("bolt",),
                region=((0.0, 0.0), (1.0, 0.0), (0.5, 1.0)),
                motion=Motion(sensitivity=0.25, max_still=10.0),
            ),
        ),
        sinks=(UdpSink("127.0.0.1", 9), UdpSink("wall", 10)),
        max_fps=12.5,
        confidence=0.5,
        iou_threshold=1.0,
        class_agnostic_nms=True,
        max_candidates=100,
        max_detections=10,
        tracker="bytetrack",
        priority="high",
        mask_format="rle",
        keep=Keep(age=86400.0, size=0),
        stages=(
            Stage(
                name="text",
                model=MODEL,
                classes=("plate",),
                max_objects=3,
                margin=0.1,
                max_delay=2.0,
                confidence=0.7,
                max_detections=5,
            ),
        ),
    )
    assert peer.asked[-1] == CreatePipeline(
        pipeline_id="door",
        spec=desired,
        device="edge-2",
        selector={"site": "hall-1"},
        labels={"line": "3", "empty": ""},
        desired_status="pause",
    )
    shown = answer.json()
    assert (shown["requested"], shown["labels"]) == ("edge-2", {"line": "3", "empty": ""})
    assert shown["spec"]["sinks"][1] == {"type": "udp", "host": "wall", "port": 10}
    assert http.get("/v2/pipelines/door").json() == shown


def test_a_request_is_made_once_under_its_key(http: httpx.Client, peer: Peer) -> None:
    headers = {"idempotency-key": "order-7"}

    first = http.post("/v2/pipelines", json=body(), headers=headers)
    again = http.post("/v2/pipelines", json=dict(reversed(body(sinks=[]).items())), headers=headers)
    other = http.post("/v2/pipelines", json=body(confidence=0.5), headers=headers)

    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert len(peer.pipelines) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", "a\tb"])
def test_a_key_is_visible_ascii(http: httpx.Client, peer: Peer, key: str) -> None:
    answer = http.post("/v2/pipelines", json=body(), headers={b"idempotency-key": key.encode()})

    assert answer.status_code == 400
    assert "visible ASCII" in answer.json()["detail"]
    assert not peer.pipelines


@pytest.mark.parametrize(
    ("changes", "where", "expected"),
    [
        ({"model": "nobody/1"}, ["body", "model"], "parts/1"),
        ({"device": "nobody"}, ["body", "device"], "edge-1, edge-2"),
        ({"model": "../x"}, ["body", "model"], "pattern"),
        ({"model": None}, ["body", "model"], "string"),
        ({"sources": []}, ["body", "sources"], "at least 1"),
        ({"sources": ["x"] * 17}, ["body", "sources"], "at most 16"),
        ({"sources": [""]}, ["body", "sources", 0, "address"], "at least 1"),
        ({"sources": ["a\0b"]}, ["body", "sources", 0, "address"], "pattern"),
        ({"sources": ["foo://x"]}, ["body", "sources", 0, "address"], "a path, a URL of rtsp, rtsps, http"),
        (
            {"sources": [{"reference": "scene://conveyor/abc"}]},
            ["body", "sources", 0, "source", "reference", "address"],
            "scene://conveyor/NUMBER or TestPatternStreamProducer, got 'scene://conveyor/abc'",
        ),
        ({"sources": [-1]}, ["body", "sources", 0, "index"], "greater than or equal to 0"),
        ({"sources": [True]}, ["body", "sources", 0], "the index of a camera"),
        ({"sources": [0.0]}, ["body", "sources", 0], "the index of a camera"),
        (
            {"sources": [{"reference": "x", "mode": "slow"}]},
            ["body", "sources", 0, "source", "mode"],
            "'live' or 'file', got 'slow'",
        ),
        ({"sources": [{}]}, ["body", "sources", 0, "source", "reference"], "required"),
        ({"sinks": [{"host": "h", "port": "9"}]}, ["body", "sinks", 0, "port"], "integer, got '9'"),
        ({"sinks": [{"host": "a b", "port": 9}]}, ["body", "sinks", 0, "host"], "pattern"),
        ({"sinks": [{"type": "tcp", "host": "h", "port": 9}]}, ["body", "sinks", 0, "type"], "'udp'"),
        ({"max_fps": 0}, ["body", "max_fps"], "greater than 0"),
        ({"max_fps": "5"}, ["body", "max_fps"], "number, got '5'"),
        ({"confidence": 1.5}, ["body", "confidence"], "less than or equal to 1, got 1.5"),
        ({"confidence": True}, ["body", "confidence"], "number, got True"),
        (
            {"sources": [{"reference": 0, "region": [[0, 0], [0.1, 0.2], [0.5, 1]]}]},
            ["body", "sources", 0, "source", "region"],
            "an area, not of a line",
        ),
        (
            {"sources": [{"reference": 0, "region": [[0, 0], [0.1, 0.2], [0.5, 10]]}]},
            ["body", "sources", 0, "source", "region", 2, 1],
            "less than or equal to 1, got 10",
        ),
        ({"tracker": "magic"}, ["body", "tracker"], "'botsort' or 'cbiou', got 'magic'"),
        ({"tracker": "mcbyte"}, ["body", "tracker"], "mcbyte follows masks with a neural network"),
        ({"mask_format": "dense"}, ["body", "mask_format"], "'polygon' or 'rle', got 'dense'"),
        ({"keep": {"age": -1}}, ["body", "keep", "age"], "greater than or equal to 0, got -1"),
        ({"keep": {"age": 2592001}}, ["body", "keep", "age"], "less than or equal to 2592000, got 2592001"),
        ({"keep": {"size": 0.5}}, ["body", "keep", "size"], "a valid integer, got 0.5"),
        ({"priority": "urgent"}, ["body", "priority"], "'high', 'normal' or 'low', got 'urgent'"),
        (
            {"stages": [{"name": "text", "model": "parts/2"}]},
            ["body", "stages", 0, "model"],
            "of the fleet: parts/1",
        ),
        (
            {"stages": [{"name": "text", "model": "parts/1"}] * 2},
            ["body", "stages"],
            "each stage once, got 'text' twice",
        ),
        ({"labels": {"a b": "c"}}, ["body", "labels", "a b", "[key]"], "pattern"),
        ({"labels": {"a": "b c"}}, ["body", "labels", "a"], "pattern"),
        ({"labels": {f"k{n}": "" for n in range(33)}}, ["body", "labels"], "at most 32"),
        ({"modle": "x"}, ["body", "modle"], "not permitted"),
        ({"paused": 1}, ["body", "paused"], "boolean"),
    ],
)
def test_a_wrong_request_is_a_problem_that_says_where_what_was_expected_and_what_came(
    http: httpx.Client, peer: Peer, changes: dict[str, Any], where: list[str | int], expected: str
) -> None:
    answer = http.post("/v2/pipelines", json=body(**changes))

    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert problem["errors"][0]["loc"] == where
    assert expected in problem["detail"]
    assert len(answer.content) < 2000
    assert not peer.pipelines


def test_a_refusal_does_not_repeat_what_is_secret(http: httpx.Client) -> None:
    answer = http.post("/v2/pipelines", json=body(sources=[{"reference": 0, "mode": SECRET}], tracker=SECRET))

    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert "rtsp://10.0.0.9/door" in answer.text


def test_a_refused_create_says_why(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    answer = http.post("/v2/pipelines", json=body(id="door"))

    assert (answer.status_code, answer.json()["detail"]) == (409, "it is there with another spec")


CLASSES = Manifest(
    family="yolox", labels=("bolt", "nut"), input_width=64, input_height=64, weights=Weights("0" * 64, 1)
)


@pytest.fixture
def model_with_classes(http: httpx.Client, peer: Peer) -> str:
    """The id of a model whose classes the api knows."""
    assert http.put(f"/v2/blobs/{CLASSES.digest}", content=CLASSES.encode()).is_success
    peer.models["kit/1"] = ModelRef("kit/1", CLASSES.digest)
    return "kit/1"


@pytest.mark.parametrize(("method", "path"), [("POST", "/v2/pipelines"), ("PUT", "/v2/pipelines/door")])
def test_a_class_that_the_model_does_not_have_is_refused_with_the_closest_names(
    http: httpx.Client, peer: Peer, model_with_classes: str, method: str, path: str
) -> None:
    sources = ["rtsp://cam/1", {"reference": 0, "classes": ["nut", "bold"]}]

    answer = http.request(method, path, json={"model": model_with_classes, "sources": sources})

    problem = answer.json()
    assert answer.status_code == 422
    assert problem["errors"][0]["loc"] == ["body", "sources", 1, "source", "classes", 1]
    assert "a class of the model, as 'bolt', got 'bold'" in problem["detail"]
    assert not peer.pipelines


def test_a_class_of_a_stage_that_the_first_model_does_not_have_is_refused(
    http: httpx.Client, peer: Peer, model_with_classes: str
) -> None:
    peer.models["text/1"] = ModelRef("text/1", "cd" * 32)
    stages = [
        {"name": name, "model": "text/1", "classes": [of]} for name, of in (("a", "nut"), ("b", "bold"))
    ]
    wanted = {"model": model_with_classes, "sources": [0]}

    refused = http.put("/v2/pipelines/door", json={**wanted, "stages": stages})
    assert http.put("/v2/pipelines/door", json={**wanted, "stages": stages[:1]}).status_code == 201
    refused_patch = patch(http, {"stages": stages})

    for answer in (refused, refused_patch):
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["loc"] == ["body", "stages", 1, "classes", 0]
        assert error["msg"].endswith("a class of the model, as 'bolt'")


def test_an_unknown_model_of_a_stage_is_refused_where_it_is_named(http: httpx.Client) -> None:
    stages = [{"name": "text", "model": "parts/1"}, {"name": "more", "model": "nothing/1"}]

    answer = http.put("/v2/pipelines/door", json=body(stages=stages))

    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", "stages", 1, "model"]]


def test_classes_are_checked_again_when_the_model_or_the_sources_change(
    http: httpx.Client, peer: Peer, model_with_classes: str
) -> None:
    kept = [{"reference": 0, "classes": ["wheel"]}]
    assert http.put("/v2/pipelines/door", json=body(sources=kept)).status_code == 201

    answers = [
        patch(http, change)
        for change in (
            {"confidence": 0.5},
            {"model": model_with_classes},
            {"model": model_with_classes, "sources": [{"reference": 0, "classes": ["nut"]}]},
            {"sources": kept},
        )
    ]

    assert [answer.status_code for answer in answers] == [200, 422, 200, 422]
    assert peer.pipelines["door"].spec.sources[0].classes == ("nut",)


# putting --------------------------------------------------------------------------------------------------


def test_putting_twice_is_putting_once(http: httpx.Client, peer: Peer) -> None:
    created = http.put("/v2/pipelines/door", json=body())
    again = http.put("/v2/pipelines/door", json=body())
    changed = http.put("/v2/pipelines/door", json=body(confidence=0.5))

    assert (created.status_code, again.status_code, changed.status_code) == (201, 200, 200)
    assert created.headers["location"] == "/v2/pipelines/door"
    assert [answer.headers["etag"] for answer in (created, again, changed)] == ['"1"', '"1"', '"2"']
    assert created.json() == again.json()


@pytest.mark.parametrize(
    ("tag", "there", "status"),
    [
        ('"4"', True, 200),
        ("*", True, 200),
        ('"3"', True, 412),
        ('"4"', False, 412),
        ("*", False, 412),
        ("4", True, 400),
        ('W/"4"', True, 400),
        ('"x"', True, 400),
    ],
)
def test_a_put_may_depend_on_the_version(
    http: httpx.Client, peer: Peer, tag: str, there: bool, status: int
) -> None:
    if there:
        peer.pipelines["door"] = pipeline("door", version=4)

    answer = http.put("/v2/pipelines/door", json=body(), headers={"if-match": tag})

    assert answer.status_code == status
    assert peer.pipelines.keys() == ({"door"} if there else set())
    assert not there or (peer.pipelines["door"].spec.sources[0].reference == "rtsp://cam/1") == (
        status == 200
    )


# patching -------------------------------------------------------------------------------------------------


def patch(http: httpx.Client, content: object, **headers: str) -> httpx.Response:
    """Patch the pipeline `door`."""
    kind = {"content-type": "application/merge-patch+json"}
    return http.request("PATCH", "/v2/pipelines/door", json=content, headers={**kind, **headers})


def test_a_patch_changes_what_it_names_and_nothing_else(http: httpx.Client, peer: Peer) -> None:
    before = pipeline(
        "door",
        version=4,
        requested="edge-1",
        labels={"line": "3", "site": "a"},
        spec=replace(
            spec(SECRET), confidence=0.5, tracker="bytetrack", sinks=(UdpSink("h", 9),), priority="low"
        ),
    )
    peer.pipelines["door"] = before

    answer = patch(
        http, {"confidence": None, "max_fps": 5, "labels": {"line": None, "shift": "2"}, "paused": True}
    )

    assert answer.status_code == 200, answer.text
    assert peer.asked[-1] == PutPipeline(
        pipeline_id="door",
        spec=replace(before.spec, confidence=None, max_fps=5.0),
        device="edge-1",
        selector={},
        labels={"site": "a", "shift": "2"},
        desired_status="pause",
        expected=4,
    )


def test_a_patch_of_nothing_changes_nothing(http: httpx.Client, peer: Peer) -> None:
    http.put("/v2/pipelines/door", json=body())

    answer = patch(http, {})

    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')


def test_a_source_that_comes_back_as_it_was_shown_keeps_its_credentials(
    http: httpx.Client, peer: Peer
) -> None:
    peer.pipelines["door"] = pipeline("door", version=1, spec=spec(SECRET))
    shown = http.get("/v2/pipelines/door").json()["spec"]["sources"]

    answer = patch(http, {"sources": [{**shown[0], "max_fps": 5}, shown[0]["reference"]]})

    desired = peer.asked[-1]
    assert answer.status_code == 200, answer.text
    assert isinstance(desired, PutPipeline)
    assert desired.spec.sources == (SourceSpec(SECRET, max_fps=5.0), SourceSpec("rtsp://10.0.0.9/door"))
    assert "hunter2" not in answer.text


def test_a_put_takes_a_source_as_it_is_given(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", version=1, spec=spec(SECRET))

    http.put("/v2/pipelines/door", json=body(sources=["rtsp://10.0.0.9/door"]))

    desired = peer.asked[-1]
    assert isinstance(desired, PutPipeline)
    assert desired.spec.sources == (SourceSpec("rtsp://10.0.0.9/door"),)


def test_a_patch_keeps_the_content_that_the_model_was_unless_it_names_the_model(
    http: httpx.Client, peer: Peer
) -> None:
    http.put("/v2/pipelines/door", json=body())
    peer.models["parts/1"] = ModelRef("parts/1", "cd" * 32)

    kept = patch(http, {"confidence": 0.5}).json()["spec"]["model"]["digest"]
    taken = patch(http, {"model": "parts/1"}).json()["spec"]["model"]["digest"]

    assert (kept, taken) == ("ab" * 32, "cd" * 32)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"model": None}, ["body", "model"]),
        ({"sources": None}, ["body", "sources"]),
        ({"surprise": None}, ["body", "surprise"]),
        ({"confidence": 7}, ["body", "confidence"]),
        ({"device": "nobody"}, ["body", "device"]),
        ({"id": "x"}, ["body", "id"]),
        ([], ["body"]),
    ],
)
def test_a_patch_that_leaves_no_pipeline_is_refused(
    http: httpx.Client, peer: Peer, content: object, where: list[str]
) -> None:
    http.put("/v2/pipelines/door", json=body())
    before = dict(peer.pipelines)

    answer = patch(http, content)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == where
    assert peer.pipelines == before


def test_a_patch_is_tried_again_when_somebody_else_was_faster(http: httpx.Client, peer: Peer) -> None:
    http.put("/v2/pipelines/door", json=body())
    others = iter(range(2))

    def busy(asked: OperatorRequest) -> Message | bytes | None:
        if isinstance(asked, PutPipeline) and next(others, None) is not None:
            view = peer.pipelines["door"]
            peer.pipelines["door"] = replace(view, version=view.version + 1, labels={"by": "another"})
        return peer.honest(asked)

    peer.answer = busy

    answer = patch(http, {"confidence": 0.5})

    assert answer.status_code == 200
    assert answer.json()["labels"] == {"by": "another"}
    assert answer.json()["spec"]["confidence"] == 0.5


def test_a_patch_gives_up_when_others_never_rest(http: httpx.Client, peer: Peer) -> None:
    http.put("/v2/pipelines/door", json=body())
    peer.answer = lambda asked: (
        Error("conflict", "again") if isinstance(asked, PutPipeline) else peer.honest(asked)
    )

    answer = patch(http, {"confidence": 0.5})

    assert answer.status_code == 409
    assert "try again" in answer.json()["detail"]


def test_a_patch_may_depend_on_the_version(http: httpx.Client) -> None:
    http.put("/v2/pipelines/door", json=body())

    stale = patch(http, {"confidence": 0.5}, **{"if-match": '"7"'})
    fresh = patch(http, {"confidence": 0.5}, **{"if-match": '"1"'})

    assert (stale.status_code, fresh.status_code) == (412, 200)
    assert "version 7 of door, it is at 1" in stale.json()["detail"]


# looking --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a", "b", "c"]),
        ("selector=site=1", ["a", "b"]),
        ("selector=site=1,line", ["b"]),
        ("selector=line", ["b", "c"]),
        ("status=failed", ["c"]),
        ("device=edge-2&selector=line", ["b"]),
        ("device=nobody", []),
    ],
)
def test_pipelines_are_selected(http: httpx.Client, peer: Peer, query: str, expected: list[str]) -> None:
    peer.pipelines["a"] = pipeline("a", labels={"site": "1"})
    peer.pipelines["b"] = pipeline("b", labels={"site": "1", "line": "2"}, device="edge-2")
    peer.pipelines["c"] = pipeline("c", labels={"line": "3"}, status="failed")

    answer = http.get(f"/v2/pipelines?{query}")

    assert [entry["pipeline_id"] for entry in answer.json()["pipelines"]] == expected


@pytest.mark.parametrize(
    "query", ["status=well", "device=..%2f", "selector=%3D1", "stauts=running", "device=a&device=b"]
)
def test_a_wrong_query_is_refused_by_name(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/v2/pipelines?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/status"),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/restart"),
    ],
)
def test_a_pipeline_that_nobody_knows_is_404_and_no_id_is_422(
    http: httpx.Client, method: str, path: str
) -> None:
    assert http.request(method, f"/v2/pipelines/nobody{path}").status_code == 404
    assert http.request(method, f"/v2/pipelines/a%00b{path}").status_code == 422


def test_the_status_is_what_the_device_told_last_or_what_the_broker_knows(
    http: httpx.Client, peer: Peer
) -> None:
    peer.pipelines["early"] = pipeline("early", status="starting", spec=spec(SECRET))
    peer.pipelines["later"] = pipeline("later", status="running", restarts=2)
    source = SourceStat(
        source_id=0,
        reference="rtsp://10.0.0.9/door",
        state="RUNNING",
        received=10,
        decoded=10,
        inferred=9,
        emitted=8,
        dropped={"late": 1},
        latency=0.25,
    )
    other = replace(source, source_id=1, latency=0.75)
    told = PipelineStat(
        pipeline_id="later",
        device="edge-1",
        generation=3,
        incarnation=1,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=2,
        fps=8.0,
        sources=(source, other),
        dropped={"udp": 2},
        report={"latency_reports": []},
        at=1.5,
        last_crash="it was ended by SIGSEGV",
    )

    early = http.get("/v2/pipelines/early/status").json()
    until(lambda: http.get("/v2/pipelines/later/status").json()["age"] is not None, lambda: peer.tell(told))
    later = http.get("/v2/pipelines/later/status").json()

    assert (early["status"], early["age"], early["at"], early["fps"]) == ("starting", None, None, 0.0)
    assert early["sources"][0]["reference"] == "rtsp://10.0.0.9/door"
    assert len(early["report"]) == 4
    assert (later["status"], later["incarnation"], later["restarts"], later["at"]) == ("running", 1, 2, 1.5)
    assert later["sources"][0]["dropped"] == {"late": 1}
    assert (early["last_crash"], later["last_crash"]) == ("", "it was ended by SIGSEGV")
    shown = http.get("/v2/pipelines/later").json()
    assert (shown["fps"], shown["latency"], shown["emitted"], shown["dropped"]) == (8.0, 0.5, 16, 4)
    assert [each["source_id"] for each in shown["sources"]] == [0, 1]


# words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "before", "desired_status", "status"),
    [
        ("pause", {"status": "running"}, "pause", 200),
        ("pause", {"status": "paused", "desired_status": "pause"}, "pause", 200),
        ("resume", {"status": "paused", "desired_status": "pause"}, "run", 200),
        ("resume", {"status": "running"}, "run", 200),
        ("pause", {"status": "ended"}, None, 409),
        ("pause", {"status": "failed"}, None, 409),
        ("resume", {"status": "ended"}, None, 409),
    ],
)
def test_a_word_is_a_change_and_one_that_makes_no_sense_is_a_conflict(
    http: httpx.Client, peer: Peer, word: str, before: dict[str, Any], desired_status: str | None, status: int
) -> None:
    peer.pipelines["door"] = pipeline("door", **before)

    answer = http.post(f"/v2/pipelines/door/{word}")

    changes = [asked.desired_status for asked in peer.asked if isinstance(asked, ChangePipeline)]
    assert (answer.status_code, changes) == (status, [desired_status] if desired_status else [])
    assert status == 200 or "restart runs it again" in answer.json()["detail"]


def test_a_change_that_no_device_confirmed_is_accepted(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    peer.pipelines["homeless"] = pipeline("homeless", status="pending", device=None)
    peer.confirms = False

    unconfirmed = http.post("/v2/pipelines/door/pause")
    homeless = http.post("/v2/pipelines/homeless/pause")

    assert (unconfirmed.status_code, unconfirmed.json()["desired_status"]) == (202, "pause")
    assert homeless.status_code == 200
    waits = [asked.wait_ms for asked in peer.asked if isinstance(asked, ChangePipeline)]
    assert waits == [5000, 0]  # there is nobody to wait for


def test_one_request_changes_many_and_tells_of_each(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines |= {
        "door": pipeline("door"),
        "film": pipeline("film", status="ended"),
        "gate": pipeline("gate", status="paused", desired_status="pause"),
    }

    answer = http.post("/v2/commands", json={"command": "pause", "ids": ["gate", "door", "film", "no"]})

    results = answer.json()["results"]
    assert [(each["pipeline_id"], each["status"]) for each in results] == [
        ("gate", 200),
        ("door", 200),
        ("film", 409),
        ("no", 404),
    ]
    assert "restart runs it again" in results[2]["detail"]
    assert [each["pipeline"] and each["pipeline"]["desired_status"] for each in results] == [
        "pause",
        "pause",
        "run",
        None,
    ]
    (asked,) = (each for each in peer.asked if isinstance(each, ChangePipelines))
    assert (asked.change, asked.wait_ms) == ("pause", 5000)


@pytest.mark.parametrize(("confirms", "status"), [(True, 200), (False, 202)])
def test_labels_choose_what_one_request_changes(
    http: httpx.Client, peer: Peer, confirms: bool, status: int
) -> None:
    peer.pipelines["door"] = pipeline("door", labels={"site": "hall-1"})
    peer.pipelines["gate"] = pipeline("gate", labels={"site": "hall-2"})
    peer.confirms = confirms

    paused = http.post("/v2/commands", json={"command": "pause", "selector": "site=hall-1"}).json()
    ended = http.post("/v2/commands", json={"command": "terminate", "selector": "site"}).json()
    none = http.post("/v2/commands", json={"command": "restart", "selector": "site"}).json()

    assert [(each["pipeline_id"], each["status"]) for each in paused["results"]] == [("door", status)]
    assert [each["status"] for each in ended["results"]] == [200, 200]  # they are gone for clients
    assert (none, peer.pipelines) == ({"results": []}, {})


def test_more_than_one_message_holds_are_changed_as_well(http: httpx.Client, peer: Peer) -> None:
    names = [f"door-{number}" for number in range(MAX_CHANGES + 1)]
    peer.pipelines |= {name: pipeline(name) for name in names}

    results = http.post("/v2/commands", json={"command": "terminate", "ids": names}).json()["results"]

    assert [each["pipeline_id"] for each in results] == names
    assert peer.pipelines == {}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"command": "pause"}, ["body"]),
        ({"command": "pause", "ids": ["door"], "selector": "site"}, ["body"]),
        ({"command": "stop", "ids": ["door"]}, ["body", "command"]),
        ({"command": "pause", "ids": []}, ["body", "ids"]),
        ({"command": "pause", "selector": "a b"}, ["body", "selector"]),
    ],
)
def test_a_command_that_names_none_or_another_word_is_refused(
    http: httpx.Client, peer: Peer, body: dict[str, Any], where: list[str]
) -> None:
    peer.pipelines["door"] = pipeline("door")

    answer = http.post("/v2/commands", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, where)
    assert not any(isinstance(asked, ChangePipelines) for asked in peer.asked)


def test_what_has_ended_is_played_again(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", status="ended")

    answer = http.post("/v2/pipelines/door/restart")

    assert (answer.status_code, answer.json()["status"]) == (200, "starting")
    assert peer.asked[-1] == RestartPipeline("door")


def test_what_is_deleted_is_gone_whether_its_device_confirms_or_not(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    peer.confirms = False

    answer = http.delete("/v2/pipelines/door")

    assert (answer.status_code, answer.content) == (204, b"")
    assert not peer.pipelines


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
@pytest.mark.parametrize("word", ["pause", "resume", "restart"])
def test_a_page_of_somebody_else_can_say_no_word(
    http: httpx.Client, peer: Peer, word: str, origin: str
) -> None:
    peer.pipelines["door"] = pipeline("door", status="paused", desired_status="pause")

    answer = http.post(f"/v2/pipelines/door/{word}", headers={"origin": origin})

    assert answer.status_code == 403
    assert not any(isinstance(asked, ChangePipeline | RestartPipeline) for asked in peer.asked)


def test_a_page_of_ours_can(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    answer = http.post("/v2/pipelines/door/pause", headers={"origin": str(http.base_url).rstrip("/")})

    assert answer.status_code == 200


def test_a_405_names_every_method_that_there_is(http: httpx.Client) -> None:
    answer = http.request("OPTIONS", "/v2/pipelines/door")

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "PATCH", "DELETE"}
