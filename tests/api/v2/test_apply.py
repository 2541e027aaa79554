"""`/v2/apply` and `/v2/export`: all of a file or nothing, and each error at its line."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request

from streamfleet.client import Client
from streamfleet.connection import Connection
from streamfleet_api.broker_client import BrokerUnreachable
from streamfleet_api.local.demo import demo_model
from streamfleet_api.v2 import apply
from streamfleet_api.v2.apply import ApplyRoutes
from streamfleet_api.web.problem_details import Problem
from streamfleet_core.models.digest import digest_of
from streamfleet_core.protocol.messages import Error, Message, Reply
from streamfleet_core.protocol.requests import (
    Applied,
    ApplyPipelines,
    CordonDevice,
    DeviceSettings,
    LabelDevice,
    OperatorRequest,
)
from streamfleet_core.protocol.values import Keep, ModelRef, to_plain
from tests.api.conftest import Api
from tests.fakes.broker import Peer, device, pipeline
from tests.fakes.models import with_description
from tests.fakes.patience import PATIENCE

FILE = """\
manager: hall-1
templates:
  cam:
    model: parts/1
    sources: ["rtsp://10.0.0.${host}/door"]
    max_fps: ${fps}
    parameters: {fps: 5}
pipelines:
  - {id: cam-1, template: cam, parameters: {host: 1}}
  - {id: cam-2, template: cam, parameters: {host: 2, fps: 2}}
"""
YAML = {"content-type": "application/yaml"}


@pytest.fixture(autouse=True)
def _known(peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    peer.devices.update({name: device(name) for name in ("edge-1", "edge-2")})


def post(http: httpx.Client, text: str, query: str = "") -> httpx.Response:
    return http.post(f"/v2/apply{query}", content=text, headers=YAML)


def actions(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {each["id"]: each["action"] for each in answer.json()["objects"]}


def asked(peer: Peer) -> list[ApplyPipelines]:
    return [each for each in peer.asked if isinstance(each, ApplyPipelines)]


def test_a_file_is_applied_in_one_request_to_the_broker_and_then_changes_nothing(
    http: httpx.Client, peer: Peer
) -> None:
    first = actions(post(http, FILE))
    again = actions(post(http, FILE))
    edited = actions(post(http, FILE.replace("fps: 2", "fps: 3")))

    assert first == {"cam-1": "create", "cam-2": "create"}
    assert again == {"cam-1": "none", "cam-2": "none"}
    assert edited == {"cam-1": "none", "cam-2": "update"}
    one, two = asked(peer)
    assert (one.seen, one.owned) == ({"cam-1": 0, "cam-2": 0}, {"manager": "hall-1"})
    assert [put.pipeline_id for put in two.puts] == ["cam-2"]
    assert two.seen == {"cam-1": 1, "cam-2": 1}
    assert peer.pipelines["cam-2"].labels == {"manager": "hall-1"}
    assert peer.pipelines["cam-2"].spec.max_fps == 3


def test_a_dry_run_says_what_would_change_and_where(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["old"] = pipeline("old", labels={"manager": "hall-1"})

    answer = post(http, FILE, "?dry_run=true")

    objects = answer.json()["objects"]
    assert [(each["id"], each["action"], each["device"]) for each in objects] == [
        ("cam-1", "create", "edge-1"),
        ("cam-2", "create", "edge-1"),
        ("old", "delete", None),
    ]
    assert list(peer.pipelines) == ["old"]
    assert asked(peer)[-1].dry_run


def test_a_dry_run_tells_the_broker_what_devices_would_be(http: httpx.Client, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1", labels={"old": "x"})
    text = f"{FILE}devices:\n  - {{name: edge-1, labels: {{site: a}}, cordoned: true}}\n  - name: edge-2\n"

    post(http, text, "?dry_run=true")
    post(http, text)

    dry, real = asked(peer)
    assert dry.devices == {"edge-1": DeviceSettings({"old": "x", "site": "a"}, cordoned=True)}
    assert real.devices == {}


def test_what_vanished_is_removed_unless_it_is_kept(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["old"] = pipeline("old", labels={"manager": "hall-1"})

    kept = actions(post(http, FILE, "?prune=false"))
    assert list(peer.pipelines) == ["old", "cam-1", "cam-2"]
    removed = actions(post(http, FILE))

    assert "old" not in kept
    assert removed["old"] == "delete"
    assert list(peer.pipelines) == ["cam-1", "cam-2"]
    assert actions(post(http, FILE, "?delete=true")) == {"cam-1": "delete", "cam-2": "delete"}
    assert peer.pipelines == {}


def test_pipelines_of_others_are_a_conflict(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["cam-2"] = pipeline("cam-2", labels={"manager": "hall-2"})

    for query in ("", "?dry_run=true", "?delete=true"):
        answer = post(http, FILE, query)
        assert answer.status_code == 409
        assert "cam-2 (line 10) of the manager hall-2" in answer.json()["detail"]
    assert asked(peer) == []
    assert actions(post(http, FILE, "?take_over=true"))["cam-2"] == "update"


def test_the_pipelines_of_an_invalid_file_can_be_removed(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["7"] = pipeline("7")
    peer.pipelines["cam-2"] = pipeline("cam-2", labels={"manager": "hall-2"})
    text = f"{FILE}  - {{id: 7}}\n  - {{id: [cam-1]}}\n  - {{id: {{}}}}\n  - {{}}\n"

    refused = post(http, text, "?delete=true")
    peer.pipelines["cam-2"] = pipeline("cam-2", labels={"manager": "hall-1"})
    done = post(http, text, "?delete=true")

    assert refused.status_code == 409
    assert actions(done) == {"cam-2": "delete"}
    assert list(peer.pipelines) == ["7"]


def test_another_change_meanwhile_is_planned_again(http: httpx.Client, peer: Peer) -> None:
    def meanwhile(request: OperatorRequest) -> Message:
        if isinstance(request, ApplyPipelines) and "cam-1" not in peer.pipelines:
            peer.pipelines["cam-1"] = pipeline("cam-1", labels={"manager": "hall-1"}, version=7)
        return peer.honest(request)

    peer.answer = meanwhile

    assert actions(post(http, FILE)) == {"cam-1": "update", "cam-2": "create"}
    assert [each.seen["cam-1"] for each in asked(peer)] == [0, 7]


def test_a_fleet_that_never_stands_still_is_a_conflict(http: httpx.Client, peer: Peer) -> None:
    def never(request: OperatorRequest) -> Message:
        is_it = isinstance(request, ApplyPipelines)
        return Error("conflict", "pipeline cam-1 has version 9") if is_it else peer.honest(request)

    peer.answer = never

    answer = post(http, FILE)

    assert answer.status_code == 409
    assert "changed by others 5 times meanwhile: pipeline cam-1 has version 9" in answer.json()["detail"]


def test_a_file_does_not_wait_for_another_one_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "TURN", 0.05)

    class SlowFleet:
        """A broker, and the models, that answer when they are let."""

        def __init__(self) -> None:
            self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

        async def wait(self) -> Any:
            self.asked.set()
            await self.may_answer.wait()
            raise BrokerUnreachable("ipc://broker", "reply", 1.0)

        pipelines = devices = list = wait

    async def send_two() -> Problem:
        fleet = SlowFleet()
        routes = ApplyRoutes(cast("Any", fleet), cast("Any", fleet), cast("Any", None))
        first = asyncio.create_task(routes.apply(sent(FILE)))
        await asyncio.wait_for(fleet.asked.wait(), PATIENCE)
        try:
            with pytest.raises(Problem) as second:
                await asyncio.wait_for(routes.apply(sent(FILE)), PATIENCE)
        finally:
            first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        fleet.may_answer.set()
        with pytest.raises(BrokerUnreachable):  # it has its turn
            await asyncio.wait_for(routes.apply(sent(FILE)), PATIENCE)
        return second.value

    problem = asyncio.run(send_two())

    assert (problem.status, problem.headers) == (503, {"retry-after": "5"})
    assert "another file is being applied" in problem.detail


def sent(text: str) -> Request:
    """A request as Starlette hands it to a route."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": text.encode()}

    headers = [(name.encode(), value.encode()) for name, value in YAML.items()]
    scope = {"type": "http", "method": "POST", "path": "/v2/apply", "query_string": b"", "headers": headers}
    return Request(scope, receive)


def test_a_refused_pipeline_affects_no_other(http: httpx.Client, peer: Peer) -> None:
    def full(request: OperatorRequest) -> Message:
        if isinstance(request, ApplyPipelines):
            done = Applied(pipeline_id="cam-1", refusal="too_many", message="device edge-1 is full")
            return Reply(to_plain((done, Applied(pipeline_id="cam-2", device="edge-2"))))
        return peer.honest(request)

    peer.answer = full

    answer = post(http, FILE)

    assert [each["problem"] for each in answer.json()["objects"]] == ["device edge-1 is full", ""]


def test_an_id_that_is_being_stopped_is_waited_for(http: httpx.Client, peer: Peer) -> None:
    refused: list[Any] = []

    def stopping(request: OperatorRequest) -> Message:
        if isinstance(request, ApplyPipelines) and not refused:
            refused.append(request)
            late = Applied(pipeline_id="cam-1", refusal="conflict", message="pipeline cam-1 is being stopped")
            return Reply(to_plain((late, Applied(pipeline_id="cam-2", device="edge-2"))))
        return peer.honest(request)

    peer.answer = stopping

    answer = post(http, FILE)

    assert [each["problem"] for each in answer.json()["objects"]] == ["", ""]
    assert [[put.pipeline_id for put in each.puts] for each in asked(peer)] == [["cam-1", "cam-2"], ["cam-1"]]


def test_what_is_written_is_told_although_the_rest_of_a_file_meets_a_conflict(
    http: httpx.Client, peer: Peer
) -> None:
    def taken(request: OperatorRequest) -> Message:
        if not isinstance(request, ApplyPipelines):
            return peer.honest(request)
        if len(request.puts) == 1:  # the second attempt: another client has created it meanwhile
            return Error("conflict", "pipeline cam-1 has version 1")
        late = Applied(pipeline_id="cam-1", refusal="conflict", message="pipeline cam-1 is being stopped")
        return Reply(to_plain((late, Applied(pipeline_id="cam-2", device="edge-2"))))

    peer.answer = taken

    objects = post(http, FILE).json()["objects"]

    assert [(each["action"], each["device"], each["problem"]) for each in objects] == [
        ("create", None, "pipeline cam-1 is being stopped"),
        ("create", "edge-2", ""),
    ]


def test_devices_are_labelled_before_pipelines_come(http: httpx.Client, peer: Peer) -> None:
    peer.devices["edge-1"] = device("edge-1", labels={"old": "x", "kept": "y"})
    text = f"{FILE}devices:\n  - {{name: edge-1, labels: {{site: hall-1, old: null}}}}\n"

    answer = post(http, text)

    assert answer.json()["objects"][0]["changes"] == [
        {"field": "labels.old", "before": "x", "after": None},
        {"field": "labels.site", "before": None, "after": "hall-1"},
    ]
    changes = [each for each in peer.asked if isinstance(each, LabelDevice | ApplyPipelines)]
    assert [type(each) for each in changes] == [LabelDevice, ApplyPipelines]
    assert peer.devices["edge-1"].labels == {"kept": "y", "site": "hall-1"}
    assert set(actions(post(http, text)).values()) == {"none"}


def test_devices_are_cordoned_before_pipelines_come_and_exported_so(http: httpx.Client, peer: Peer) -> None:
    text = f"{FILE}devices:\n  - {{name: edge-1, cordoned: true}}\n"

    answer = post(http, text)
    again = post(http, text)
    exported = http.get("/v2/export").json()["devices"]
    back = post(http, text.replace("cordoned: true", "cordoned: false"))

    assert answer.json()["objects"][0]["changes"] == [{"field": "cordoned", "before": False, "after": True}]
    changes = [each for each in peer.asked if isinstance(each, CordonDevice | ApplyPipelines)]
    assert changes[0] == CordonDevice("edge-1")
    assert isinstance(changes[1], ApplyPipelines)
    assert set(actions(again).values()) == {"none"}
    assert exported == [{"name": "edge-1", "cordoned": True}]
    assert (actions(back)["edge-1"], peer.devices["edge-1"].cordoned) == ("update", False)


BAD = {
    "a: [": "line 2, column 1: expected YAML (while parsing a flow node",
    FILE.replace("manager: hall-1", "manager: hall-1\nmanager: x"): "line 2, column 1: manager: expected the",
    FILE.replace("pipelines:", "pipeline:"): "line 8, column 1: pipeline: expected one of the known keys, "
    "perhaps 'pipelines', got 'pipeline'",
    FILE.replace("max_fps", "maxfps"): "line 6, column 5: templates.cam.maxfps: expected one of the known",
    FILE.replace("fps: 2}", "fps: fast}"): "line 10, column 59: pipelines.1.parameters.fps: expected a valid "
    "number, got 'fast'",
    FILE.replace("template: cam, parameters: {host: 1}", "template: door"): "line 9, column 27: "
    "pipelines.0.template: expected a template of this document: cam, got 'door'",
    FILE.replace("{host: 1}", "{}"): "line 9, column 44: pipelines.0.parameters: expected the parameter host",
    FILE.replace(
        "cam-2", "cam-1"
    ): "line 10, column 10: pipelines.1.id: expected each id once, first in line",
    FILE.replace(
        "parts/1", "parts/2"
    ): "line 4, column 12: templates.cam.model: expected a model of the fleet",
    FILE.replace("fps: 2}", "fps: 2}, device: edge-9"): "line 10, column 71: pipelines.1.device: expected a "
    "device that has joined: edge-1, edge-2, got 'edge-9'",
    FILE.replace('["rtsp://10.0.0.${host}/door"]', '["ftp://${host}/x"]'): "line 5, column 15: "
    "templates.cam.sources.0: expected a path, a URL of",
    f"{FILE}  - {{id: x, model: parts/1}}\n": "line 11, column 5: pipelines.2: expected an object with the "
    "key 'sources', got 'none'",
    f"{FILE}devices: [{{name: edge-9, labels: {{}}}}]\n": "line 11, column 18: devices.0.name: expected a",
    f"{FILE}models: [{{id: new/1}}]\n": "line 11, column 15: models.0.id: expected a model of the fleet",
    f"{FILE}models: [{{id: new/1, file: a.onnx}}]\n": "line 11, column 28: models.0.file: expected 'weights'",
    FILE.replace("{fps: 5}", "{fps: 5}\n    labels: {manager: x}"): "line 8, column 14: "
    "templates.cam.labels.manager: expected no label 'manager'",
    FILE.replace(
        "{fps: 5}", "{fps: 5}\n    labels: {a b: x}"
    ): "line 8, column 14: templates.cam.labels.a b: expected a text that matches",
}


@pytest.mark.parametrize(("text", "error"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_file_changes_nothing_and_its_error_has_a_place(
    http: httpx.Client, peer: Peer, text: str, error: str
) -> None:
    answer = post(http, text)

    assert answer.status_code == 422
    first = answer.json()["errors"][0]
    place = ".".join(map(str, first["loc"][1:]))
    got = f", got {first['input']!r}" if "input" in first else ""
    said = first["msg"].replace("Input should be", "expected")
    shown = f"line {first['line']}, column {first['column']}: {place}{': ' if place else ''}{said}{got}"
    assert error in shown
    assert not [each for each in peer.asked if isinstance(each, ApplyPipelines | LabelDevice)]


def test_of_many_wrong_keys_and_names_some_are_told(http: httpx.Client) -> None:
    keys = "".join(f"    wrong{number}: 1\n" for number in range(9_000))
    doubled = FILE + "  - {id: cam-1, template: cam, parameters: {host: 1}}\n" * 900

    for text in (FILE.replace("pipelines:\n", f"{keys}pipelines:\n"), doubled):
        answer = post(http, text)

        assert (answer.status_code, len(answer.json()["errors"])) == (422, 20)


@pytest.mark.parametrize(("sent", "got"), [([["x"], {}], "a list"), ("x", "x"), (7, 7)])
def test_json_that_is_no_object_is_an_error(http: httpx.Client, sent: object, got: object) -> None:
    answer = http.post("/v2/apply", json=sent)

    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert (error["msg"], error["input"]) == ("Input should be an object with 'pipelines'", got)


def test_json_is_taken_too_and_its_errors_have_paths(http: httpx.Client) -> None:
    good = {"pipelines": [{"id": "door", "model": "parts/1", "sources": [0]}]}

    assert actions(http.post("/v2/apply", json=good)) == {"door": "create"}
    answer = http.post("/v2/apply", json={"pipelines": [{**good["pipelines"][0], "paused": "yes"}]})
    assert answer.json()["errors"] == [
        {
            "loc": ["body", "pipelines", 0, "paused"],
            "msg": "Input should be a valid boolean",
            "type": "bool_type",
            "input": "yes",
        }
    ]
    assert http.post("/v2/apply", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_an_export_is_applied_without_a_change_and_keeps_passwords(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", labels={"manager": "hall-1", "line": "3"})
    secret = peer.pipelines["door"].spec.sources[0].reference

    file = http.get("/v2/export").json()
    answer = http.post("/v2/apply", json=file)
    file["pipelines"][0]["confidence"] = 0.5
    edited = http.post("/v2/apply", json=file)

    assert file["manager"] == "hall-1"
    assert file["pipelines"][0]["labels"] == {"line": "3"}
    assert "hunter2" not in str(file)
    assert actions(answer) == {"door": "none"}
    assert actions(edited) == {"door": "update"}
    assert peer.pipelines["door"].spec.sources[0].reference == secret


def test_a_file_says_what_is_kept_of_predictions(http: httpx.Client, peer: Peer) -> None:
    text = FILE.replace("    max_fps:", "    keep: {age: 86400}\n    max_fps:")

    post(http, FILE)
    changed = post(http, text)
    exported = http.get("/v2/export").json()

    assert changed.json()["objects"][0]["changes"][0]["field"].startswith("keep")
    assert peer.pipelines["cam-1"].spec.keep == Keep(age=86400)
    assert [each["keep"] for each in exported["pipelines"]] == [{"age": 86400}] * 2
    again = http.post("/v2/apply", json=exported)
    assert set(actions(again).values()) == {"none"}


def test_an_export_is_of_one_manager(http: httpx.Client, peer: Peer) -> None:
    for name, labels in (("a", {"manager": "hall-1"}), ("b", {"manager": "hall-2"}), ("c", {})):
        peer.pipelines[name] = pipeline(name, labels=labels)

    several = http.get("/v2/export")

    assert several.status_code == 409
    assert "hall-1, hall-2" in several.json()["detail"]
    assert [each["id"] for each in http.get("/v2/export?manager=hall-2").json()["pipelines"]] == ["b"]
    without = http.get("/v2/export?manager=").json()
    assert (without.get("manager"), [each["id"] for each in without["pipelines"]]) == (None, ["c"])


def test_models_are_registered_first_and_only_once(api: Api, http: httpx.Client, peer: Peer) -> None:
    weights = api.folder / "demo.onnx"
    weights.write_bytes(with_description(demo_model(), __name__))
    digest = digest_of(weights)
    text = FILE.replace("parts/1", "conveyor/9") + f"models: [{{id: conveyor/9, weights: {digest}}}]\n"
    peer.models.clear()

    missing = post(http, text)
    planned = post(http, text, "?dry_run=true")
    with Client(Connection(url=api.url)) as client:
        client.upload_weights(digest, weights)
        done = client.apply(text)
        again = client.apply(text)

    assert missing.status_code == 422
    assert missing.json()["errors"][0]["type"] == "blob"
    assert peer.models.keys() == {"conveyor/9"}
    assert planned.json()["objects"][0]["upload"] == digest
    assert [(each.kind, each.action) for each in done.objects] == [
        ("model", "create"),
        ("pipeline", "create"),
        ("pipeline", "create"),
    ]
    assert again.changed == ()
    assert peer.pipelines["cam-1"].spec.model == peer.models["conveyor/9"]
