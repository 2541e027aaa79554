"""The fleet's own routes: devices, pipelines, blobs, models, subscribers; problem details for what fails."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from streamfleet_api.local.demo import demo_model
from streamfleet_core.protocol.messages import Error, ErrorCode
from streamfleet_core.protocol.requests import AddDevice
from streamfleet_core.protocol.status import DeviceStat, EngineStat, MissingAccelerator
from streamfleet_core.protocol.values import Manifest
from tests.api.conftest import Api, until
from tests.core.models.test_model_validation import NAMES, save
from tests.fakes.broker import KEY, Peer, device, pipeline, sha256, spec
from tests.fakes.patience import PATIENCE

DEMO = demo_model()


def problem(answer: httpx.Response) -> str:
    """The detail of a problem, which must have the shape of RFC 9457."""
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == answer.status_code
    assert {"type", "title", "detail"} <= set(content)
    return str(content["detail"])


def upload(http: httpx.Client, content: bytes) -> str:
    """Put a blob; its digest."""
    digest = sha256(content)
    answer = http.put(f"/v2/blobs/{digest}", content=content)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"sha256": digest, "size": len(content)}
    return digest


# devices, pipelines, subscribers --------------------------------------------------------------------------


def test_readiness_is_a_broker_and_a_device(http: httpx.Client, peer: Peer) -> None:
    without = http.get("/readyz")
    peer.devices["edge-1"] = device("edge-1")
    with_device = http.get("/readyz")

    assert (without.status_code, with_device.status_code) == (503, 200)
    assert with_device.json()["devices_ready"] == 1


def test_devices_are_listed_with_their_engines(http: httpx.Client, peer: Peer) -> None:
    peer.devices["edge-9"] = device("edge-9")
    missing = MissingAccelerator("no kernels for this GPU", "another wheel")
    engine = EngineStat(
        digest="ab" * 32,
        state="ready",
        inferences=7,
        provider="CPUExecutionProvider",
        missing_accelerator=missing,
        model="shapes/1",
    )
    stat = DeviceStat(device="edge-9", session="ready", capacity=8, pipelines=1, engines=(engine,), at=0.0)
    peer.tell(replace(stat, missing_accelerator=missing))

    until(lambda: http.get("/v2/devices").json()["devices"][0]["engines"])
    entry = http.get("/v2/devices").json()["devices"][0]

    assert (entry["device"], entry["state"], entry["capacity"]) == ("edge-9", "ready", 8)
    assert entry["missing_accelerator"] == {"reason": "no kernels for this GPU", "remedy": "another wheel"}
    assert entry["engines"][0] == {
        "digest": "ab" * 32,
        "model": "shapes/1",
        "state": "ready",
        "reason": "",
        "inferences": 7,
        "restarts": 0,
        "activity": "",
        "batching": None,
        "variant": "",
        "variant_trouble": "",
        "provider": "CPUExecutionProvider",
        "missing_accelerator": {"reason": "no kernels for this GPU", "remedy": "another wheel"},
    }


def test_a_device_gets_a_token(http: httpx.Client, peer: Peer) -> None:
    answer = http.post("/v2/devices", json={"name": "cam-7", "ttl": 60})

    assert (answer.status_code, answer.json()) == (201, {"device": "cam-7", "token": "sf1.cam-7.60"})
    assert answer.headers["cache-control"] == "no-store"
    assert peer.asked == [AddDevice("cam-7", 60.0)]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"name": ""},
        {"name": "../x"},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "x" * 65},
        {"name": 7},
        {"name": "x", "ttl": 0},
        {"name": "x", "ttl": 1e9},
        [],
        "x",
    ],
)
def test_a_wrong_device_is_a_problem_that_names_the_field(
    http: httpx.Client, peer: Peer, content: object
) -> None:
    answer = http.post("/v2/devices", json=content)

    assert answer.status_code == 422
    assert "body" in problem(answer)
    assert answer.json()["errors"]
    assert not peer.asked


def test_pipelines_are_listed_without_what_is_secret_in_their_sources(http: httpx.Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    answer = http.get("/v2/pipelines")

    (entry,) = answer.json()["pipelines"]
    assert (entry["pipeline_id"], entry["status"], entry["device"]) == ("door", "running", "edge-1")
    assert entry["spec"]["sources"][0]["reference"] == "rtsp://10.0.0.9/door"
    assert "hunter2" not in answer.text


def test_a_subscriber_gets_a_key_that_no_cache_keeps(http: httpx.Client) -> None:
    answer = http.post("/v2/subscribers", json={"name": "wall"})

    assert answer.status_code == 201
    assert answer.json()["secret_key"] == KEY
    assert answer.headers["cache-control"] == "no-store"


def test_subscribers_are_listed_with_what_they_may_hear_and_removed(http: httpx.Client, peer: Peer) -> None:
    limits = {"pipelines": ["door"], "selector": {"site": "hall"}}
    http.post("/v2/subscribers", json={"name": "wall", **limits})
    http.post("/v2/subscribers", json={"name": "all"})

    listed = http.get("/v2/subscribers").json()
    removed = http.delete("/v2/subscribers/wall")
    again = http.delete("/v2/subscribers/wall")

    assert listed == {
        "subscribers": [{"name": "all", "pipelines": [], "selector": {}}, {"name": "wall", **limits}]
    }
    assert (removed.status_code, again.status_code) == (204, 404)
    assert list(peer.subscribers) == ["all"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("not_found", 404),
        ("invalid", 422),
        ("conflict", 409),
        ("unavailable", 503),
        ("too_many", 429),
        ("store_down", 503),
        ("bad_message", 400),
        ("not_leader", 503),
    ],
)
def test_what_the_broker_refuses_is_a_problem(
    http: httpx.Client, peer: Peer, code: ErrorCode, status: int
) -> None:
    peer.answer = lambda _asked: Error(code, "the reason")

    answer = http.get("/v2/devices")

    assert answer.status_code == status
    assert problem(answer) == "the reason"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/x", 404), ("PUT", "/v2/devices", 405)])
def test_an_unknown_route_of_ours_is_a_problem(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = http.request(method, path)

    assert answer.status_code == status
    assert problem(answer)


def test_one_device_is_shown_with_what_it_told_last(http: httpx.Client, peer: Peer) -> None:
    peer.devices["edge-8"] = device("edge-8", labels={"site": "a"}, dropped={"data": 7000})
    silent = http.get("/v2/devices/edge-8").json()
    peer.tell(
        DeviceStat(
            device="edge-8",
            session="ready",
            capacity=8,
            pipelines=1,
            engines=(),
            at=0.0,
            cores=4,
            load=0.5,
            memory=2**33,
            memory_available=2**32,
            temperature=61.5,
            throttled=True,
            throttle_reason="too hot",
            gpu_load=0.5,
            gpu_power_watts=9.25,
            disk=2**40,
            disk_available=2**30,
            board="AMD EPYC, avx512_vnni",
        )
    )

    until(lambda: http.get("/v2/devices/edge-8").json()["age"] is not None)
    told = http.get("/v2/devices/edge-8").json()

    figures = ("cores", "load", "memory", "memory_available")
    sensors = ("temperature", "throttled", "throttle_reason", "gpu_load", "gpu_power_watts")
    assert [silent[name] for name in (*figures, *sensors, "disk", "clock_offset")] == [None] * 11
    assert [told[name] for name in sensors] == [61.5, True, "too hot", 0.5, 9.25]
    assert (told["disk"], told["disk_available"]) == (2**40, 2**30)
    assert (silent["board"], told["board"]) == (None, "AMD EPYC, avx512_vnni")
    assert told["clock_offset"] == pytest.approx(-time.time(), abs=PATIENCE)  # its clock shows 1970
    assert [told[name] for name in figures] == [4, 0.5, 2**33, 2**32]
    assert told["labels"] == {"site": "a"}
    assert told["dropped"] == {"data": 7000}
    assert http.get("/v2/devices/nobody").status_code == 404


def test_devices_are_selected(http: httpx.Client, peer: Peer) -> None:
    peer.devices["a"] = device("a", labels={"site": "1"})
    peer.devices["b"] = device("b", labels={"site": "2"}, state="lost")

    def names(query: str) -> list[str]:
        return [entry["device"] for entry in http.get(f"/v2/devices?{query}").json()["devices"]]

    assert names("selector=site=1") == ["a"]
    assert names("state=lost") == ["b"]
    assert names("state=lost&selector=site=1") == []
    assert http.get("/v2/devices?state=well").status_code == 422


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"labels": {"site": None, "line": "3"}}, {"kept": "", "line": "3"}),
        ({"labels": {}}, {"site": "a", "kept": ""}),
        ({"labels": None}, {}),
        ({}, {"site": "a", "kept": ""}),
    ],
)
def test_labels_of_a_device_are_changed_key_by_key(
    http: httpx.Client, peer: Peer, content: object, labels: dict[str, str]
) -> None:
    peer.devices["edge-8"] = device("edge-8", labels={"site": "a", "kept": ""})

    answer = http.patch("/v2/devices/edge-8", json=content)

    assert (answer.status_code, answer.json()["labels"]) == (200, labels)
    assert peer.devices["edge-8"].labels == labels


def test_a_device_that_is_away_is_forgotten_and_one_that_is_here_is_not(
    http: httpx.Client, peer: Peer
) -> None:
    peer.devices.update({"here": device("here"), "away": device("away", state="left")})

    here, away = http.delete("/v2/devices/here"), http.delete("/v2/devices/away")

    assert (here.status_code, away.status_code) == (409, 204)
    assert list(peer.devices) == ["here"]


# blobs ----------------------------------------------------------------------------------------------------


def test_a_blob_comes_back_as_it_went_in(http: httpx.Client) -> None:
    content = os.urandom(3_000_000)

    digest = upload(http, content)

    answer = http.get(f"/v2/blobs/{digest}")
    assert answer.content == content
    assert http.head(f"/v2/blobs/{digest}").headers["content-length"] == "3000000"
    assert upload(http, content) == digest


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=0-9", slice(0, 10)), ("bytes=990-", slice(990, 1000)), ("bytes=-5", slice(995, 1000))],
)
def test_a_transfer_resumes_where_it_broke_off(http: httpx.Client, asked: str, expected: slice) -> None:
    content = os.urandom(1000)
    digest = upload(http, content)

    answer = http.get(f"/v2/blobs/{digest}", headers={"range": asked, "if-range": f'"{digest}"'})

    assert answer.status_code == 206
    assert answer.content == content[expected]
    assert answer.headers["content-range"].endswith("/1000")


def test_a_range_beyond_the_end_is_416(http: httpx.Client) -> None:
    digest = upload(http, b"short")

    assert http.get(f"/v2/blobs/{digest}", headers={"range": "bytes=5-"}).status_code == 416


def test_content_that_is_not_what_its_name_says_is_refused_and_gone(api: Api) -> None:
    digest = sha256(b"right")

    answer = api.http.put(f"/v2/blobs/{digest}", content=b"wrong")

    assert answer.status_code == 422
    assert digest in problem(answer)
    assert sha256(b"wrong") in problem(answer)
    assert api.http.get(f"/v2/blobs/{digest}").status_code == 404
    assert not list((api.folder / "api/blobs/arriving").iterdir())


@pytest.mark.parametrize("name", ["x", "0" * 63, "A" * 64, "..%2f" + "0" * 64, "arriving"])
def test_what_is_no_digest_is_no_blob(http: httpx.Client, name: str) -> None:
    assert http.get(f"/v2/blobs/{name}").status_code == 404
    assert http.put(f"/v2/blobs/{name}", content=b"x").status_code in (404, 405, 422)


def test_an_interrupted_upload_leaves_nothing(api: Api) -> None:
    content = os.urandom(200_000)
    digest = sha256(content)
    arriving = api.folder / "api/blobs/arriving"
    head = f"PUT /v2/blobs/{digest} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n\r\n"

    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(head.encode() + content[:100_000])
        until(lambda: bool(list(arriving.iterdir())))
        assert api.http.get(f"/v2/blobs/{digest}").status_code == 404

    until(lambda: not list(arriving.iterdir()))
    assert api.http.get(f"/v2/blobs/{digest}").status_code == 404
    assert upload(api.http, content) == digest


def test_a_blob_may_have_as_many_bytes_as_its_option_says(short_dir: Path, peer: Peer) -> None:
    folder = short_dir / "small"
    folder.mkdir()
    api = Api(folder, peer, "--max-upload", "1000")
    try:
        content = b"x" * 1001

        answer = api.http.put(f"/v2/blobs/{sha256(content)}", content=content)

        assert answer.status_code == 413
        assert "1000 bytes" in problem(answer)
        assert upload(api.http, content[:1000])
    finally:
        assert api.stop() == 0


def test_many_upload_the_same_content_at_once(http: httpx.Client) -> None:
    content = os.urandom(500_000)
    threads = [threading.Thread(target=upload, args=(http, content)) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert http.get(f"/v2/blobs/{sha256(content)}").content == content


# models ---------------------------------------------------------------------------------------------------


def test_a_model_is_registered_by_the_content_of_its_manifest(http: httpx.Client, peer: Peer) -> None:
    digest = upload(http, DEMO)

    answer = http.put("/v2/models/shapes/1", json={"weights": digest})

    assert answer.status_code == 201, answer.text
    assert answer.json()["labels"] == ["red", "green", "blue"]
    manifest = http.get(f"/v2/blobs/{peer.models['shapes/1'].digest}").content
    assert Manifest.decode(manifest).weights.sha256 == digest
    assert Manifest.decode(manifest).digest == peer.models["shapes/1"].digest == sha256(manifest)
    (listed,) = http.get("/v2/models").json()["models"]
    assert {**listed, "replaces": None} == answer.json()
    card = http.get("/v2/models/shapes/1").json()
    assert card == http.get("/v2/models/shapes%2F1").json() == {**card, **listed}


def test_a_card_has_what_the_file_says_and_who_uses_the_model(
    http: httpx.Client, peer: Peer, tmp_path: Path
) -> None:
    file = save(tmp_path / "cats.onnx", metadata={**NAMES, "license": "AGPL-3.0", "author": "A" * 900})
    http.put("/v2/models/cats/1", json={"weights": upload(http, file.read_bytes())})
    peer.pipelines["door"] = pipeline("door", spec=replace(spec(), model=peer.models["cats/1"]))
    peer.pipelines["gate"] = pipeline("gate")

    card = http.get("/v2/models/cats/1").json()

    assert (card["task"], card["keypoints"], card["pipelines"]) == ("detect", [], ["door"])
    assert card["card"] == {
        "input_type": "float32",
        "dynamic_size": False,
        "dynamic_batch": False,
        "opset": 17,
        "ir_version": 9,
        "license": "AGPL-3.0",
        "author": "A" * 199 + "…",
        "date": "",
        "description": "",
    }


def test_a_model_without_its_file_has_no_card(api: Api) -> None:
    weights = upload(api.http, DEMO)
    api.http.put("/v2/models/shapes/1", json={"weights": weights})
    before = api.http.get("/v2/models/shapes/1").json()
    (api.folder / "api/blobs" / weights).unlink()

    after = api.http.get("/v2/models/shapes/1").json()

    assert before["card"]["opset"] > 0
    assert after == {**before, "card": None}


def test_an_id_keeps_its_content_until_told_to_replace_it(http: httpx.Client, peer: Peer) -> None:
    body = {"weights": upload(http, DEMO)}
    other = {**body, "labels": ["a", "b", "c"]}
    first = http.put("/v2/models/shapes/1", json=body)

    again = http.put("/v2/models/shapes/1", json=body)
    refused = http.put("/v2/models/shapes/1", json=other)
    kept = peer.models["shapes/1"].digest
    replaced = http.put("/v2/models/shapes/1", json={**other, "replace": True})

    assert (again.status_code, again.json()) == (201, first.json())
    assert refused.status_code == 409
    assert "replace" in problem(refused)
    assert kept == first.json()["digest"] == replaced.json()["replaces"]
    assert peer.models["shapes/1"].digest == replaced.json()["digest"]


def test_a_model_whose_weights_are_not_here_says_what_to_do_first(http: httpx.Client) -> None:
    answer = http.put("/v2/models/shapes/1", json={"weights": "0" * 64})

    assert answer.status_code == 404
    assert f"PUT /v2/blobs/{'0' * 64}" in problem(answer)


@pytest.mark.parametrize("model_id", ["a/b/c", "..%2f1", ".a/1", "a//1", "a%00/1"])
def test_a_model_with_a_wrong_id_is_refused(http: httpx.Client, peer: Peer, model_id: str) -> None:
    assert http.put(f"/v2/models/{model_id}", json={"weights": upload(http, DEMO)}).status_code == 422
    assert not peer.models


def test_a_file_that_is_no_model_is_refused_with_the_reason(http: httpx.Client, peer: Peer) -> None:
    digest = upload(http, b"this is no model\n" * 20)

    answer = http.put("/v2/models/a/1", json={"weights": digest})

    assert answer.status_code == 422
    assert "expected an ONNX file" in problem(answer)
    assert not peer.models


def test_a_model_goes_with_its_content(api: Api, peer: Peer) -> None:
    weights = upload(api.http, DEMO)
    manifest = api.http.put("/v2/models/shapes/1", json={"weights": weights}).json()["digest"]

    answer = api.http.delete("/v2/models/shapes/1")

    assert answer.status_code == 204
    assert not peer.models
    assert [api.http.head(f"/v2/blobs/{each}").status_code for each in (weights, manifest)] == [404, 404]
    assert api.http.delete("/v2/models/shapes/1").status_code == 404
    assert api.http.get("/v2/models/shapes/1").status_code == 404


def test_content_that_a_disk_damaged_is_asked_for_again(api: Api) -> None:
    weights = upload(api.http, DEMO)
    wanted = api.http.put("/v2/models/shapes/1", json={"weights": weights}).json()
    for digest in (weights, wanted["digest"]):
        path = api.folder / "api/blobs" / digest
        content = path.read_bytes()
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])

    listed = api.http.get("/v2/models").json()["models"]
    refused = api.http.put("/v2/models/shapes/1", json={"weights": weights})
    upload(api.http, DEMO)
    healed = api.http.put("/v2/models/shapes/1", json={"weights": weights})

    assert [(each["id"], each["weights"]) for each in listed] == [("shapes/1", None)]
    assert (refused.status_code, healed.status_code) == (404, 201)
    assert f"PUT /v2/blobs/{weights}" in problem(refused)
    assert api.http.get("/v2/models/shapes/1").json()["weights"] == wanted["weights"]


def test_content_that_nothing_needs_is_removed_when_it_is_told(http: httpx.Client, peer: Peer) -> None:
    digest = upload(http, b"a film")

    removed = http.delete(f"/v2/blobs/{digest}")

    assert removed.status_code == 204
    assert http.head(f"/v2/blobs/{digest}").status_code == 404
    assert http.delete(f"/v2/blobs/{digest}").status_code == 404
    assert http.delete("/v2/blobs/..%2Ftoken").status_code == 404


@pytest.mark.parametrize("user", ["pipeline", "removed model", "model"])
def test_content_that_is_needed_is_not_removed(http: httpx.Client, peer: Peer, user: str) -> None:
    digest = upload(http, DEMO)
    if user == "pipeline":
        peer.pipelines["door"] = pipeline("door", spec=spec(f"blob:{digest}"))
    else:
        http.put("/v2/models/shapes/1", json={"weights": digest})
    if user == "removed model":
        peer.pipelines["door"] = pipeline("door", spec=replace(spec(), model=peer.models["shapes/1"]))
        peer.models.clear()

    refused = http.delete(f"/v2/blobs/{digest}")

    assert refused.status_code == 409
    assert f"in use by {'door' if user == 'pipeline' else 'a model'}" in problem(refused)
    assert http.head(f"/v2/blobs/{digest}").status_code == 200


def test_a_film_that_a_pipeline_plays_outlives_a_model(api: Api, peer: Peer) -> None:
    model, film = upload(api.http, DEMO), upload(api.http, b"a film")
    api.http.put("/v2/models/shapes/1", json={"weights": model})
    peer.pipelines["door"] = pipeline("door", spec=spec(f"blob:{film}"))
    old = time.time() - 7200
    os.utime(api.folder / "api/blobs" / film, (old, old))

    assert api.http.delete("/v2/models/shapes/1").status_code == 204

    assert api.http.head(f"/v2/blobs/{film}").status_code == 200


@pytest.mark.parametrize("user", ["pipeline", "model"])
def test_content_that_something_else_needs_stays(api: Api, peer: Peer, user: str) -> None:
    weights = upload(api.http, DEMO)
    manifest = api.http.put("/v2/models/shapes/1", json={"weights": weights}).json()["digest"]
    if user == "pipeline":
        playing = replace(spec(), model=peer.models["shapes/1"])
        peer.pipelines["door"] = pipeline("door", spec=playing)
    else:
        api.http.put("/v2/models/other/1", json={"weights": weights, "labels": ["a", "b", "c"]})

    assert api.http.delete("/v2/models/shapes/1?force=true").status_code == 204

    assert api.http.head(f"/v2/blobs/{weights}").status_code == 200
    assert api.http.head(f"/v2/blobs/{manifest}").status_code == (200 if user == "pipeline" else 404)


def test_content_that_nothing_needs_is_removed_when_it_is_old(api: Api) -> None:
    weights = upload(api.http, DEMO)
    young, old = upload(api.http, b"young"), upload(api.http, b"old")
    os.utime(api.folder / "api/blobs" / old, (0, 0))
    api.http.put("/v2/models/shapes/1", json={"weights": weights})

    api.http.delete("/v2/models/shapes/1")

    assert api.http.head(f"/v2/blobs/{young}").status_code == 200
    assert api.http.head(f"/v2/blobs/{old}").status_code == 404
