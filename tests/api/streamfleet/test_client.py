"""Both clients in front of the real api."""

from __future__ import annotations

import hashlib
import inspect
import io
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import streamfleet
from streamfleet import AsyncClient, Client, Connection, errors
from streamfleet.client import LIMITS
from streamfleet_api.local.demo import demo_model
from streamfleet_core.datasets.picked_sample import PICKED
from streamfleet_core.protocol.requests import CreatePipeline, DrillDevice
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api
from tests.fakes.broker import Peer, device, pipeline
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port
from tests.fakes.samples import jpeg, picked
from tests.fakes.samples import path_of as sample_path


def connection_to(api: Api) -> Connection:
    return Connection(url=api.url, data_dir=api.folder)


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(connection_to(api)) as client:
        yield client


@pytest.fixture
async def async_client(api: Api) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(connection_to(api)) as client:
        yield client


@pytest.fixture
def model(peer: Peer) -> str:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    return "parts/1"


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def public(of: type) -> dict[str, Any]:
        return {
            name: list(inspect.signature(member).parameters.values())
            for name, member in inspect.getmembers(of, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)


def test_whether_it_is_alive_and_ready(client: Client, peer: Peer) -> None:
    before = client.ready()
    peer.devices["edge-1"] = device("edge-1")
    after = client.ready()

    assert client.health().status == "ok"
    assert (before.is_ready, after.is_ready) == (False, True)
    assert before.status == "no device is ready"


def test_a_pipeline_from_its_beginning_to_its_end(client: Client, model: str) -> None:
    made = client.create_pipeline("door", model=model, sources=["rtsp://10.0.0.9/door"], labels={"line": "3"})
    put = client.put_pipeline("door", model=model, sources=[0], confidence=0.5, labels={"line": "3"})
    patched = client.patch_pipeline("door", confidence=0.6, labels={"site": "hall"}, if_match=put.version)
    paused = client.pause_pipeline("door")
    resumed = client.resume_pipeline("door")
    report = client.pipeline_report("door")
    listed = client.list_pipelines("line=3", status="running")
    client.delete_pipeline("door")

    assert (made.pipeline_id, made.spec.sources[0].reference) == ("door", "rtsp://10.0.0.9/door")
    assert (put.spec.sources[0].reference, put.spec.confidence, patched.spec.confidence) == (0, 0.5, 0.6)
    assert patched.labels == {"line": "3", "site": "hall"}
    assert (paused.status, resumed.status, report.status) == ("paused", "running", "running")
    assert [each.pipeline_id for each in listed] == ["door"]
    assert client.list_pipelines() == ()
    with pytest.raises(streamfleet.NotFound):
        client.get_pipeline("door")


def test_many_pipelines_at_once(client: Client, peer: Peer) -> None:
    peer.pipelines = {each: pipeline(each, labels={"site": "hall"}) for each in ("a", "b")}

    results = client.command_pipelines("pause", selector="site=hall")
    gone = client.command_pipelines("terminate", ids=["a", "nobody"])

    assert [(each.pipeline_id, each.status) for each in results] == [("a", 200), ("b", 200)]
    assert [each.pipeline and each.pipeline.status for each in results] == ["paused", "paused"]
    assert [(each.status, each.pipeline) for each in gone] == [(200, None), (404, None)]


def test_each_new_pipeline_has_a_key_of_its_own(client: Client, peer: Peer, model: str) -> None:
    for _ in range(2):
        client.create_pipeline(model=model, sources=[0])

    keys = [asked.key for asked in peer.asked if isinstance(asked, CreatePipeline)]
    assert len(set(keys)) == 2
    assert all(keys)


def test_devices(client: Client, peer: Peer) -> None:
    peer.devices = {"edge-1": device("edge-1"), "edge-2": device("edge-2", state="lost")}

    labelled = client.label_device("edge-1", {"site": "hall", "old": None})
    token = client.add_device("edge-3", ttl=60)
    client.remove_device("edge-2")

    assert labelled.labels == {"site": "hall"}
    assert [each.device for each in client.list_devices("site")] == ["edge-1"]
    assert client.list_devices(state="lost") == ()
    assert client.get_device("edge-1").state == "ready"
    assert (token.device, bool(token.token)) == ("edge-3", True)
    assert token.token not in repr(token)


def test_a_large_fleet_is_listed_page_by_page(client: Client, peer: Peer) -> None:
    peer.devices = {f"edge-{number}": device(f"edge-{number}") for number in range(3)}
    peer.pipelines = {f"cam-{number}": pipeline(f"cam-{number}") for number in range(3)}

    first = client.page_of_pipelines(2)
    last = client.page_of_pipelines(2, first.next)
    some, others = client.page_of_devices(2), client.page_of_devices(2, "edge-1")

    assert [each.pipeline_id for each in (*first.pipelines, *last.pipelines)] == ["cam-0", "cam-1", "cam-2"]
    assert [each.device for each in (*some.devices, *others.devices)] == ["edge-0", "edge-1", "edge-2"]
    assert (some.next, last.next, others.next) == ("edge-1", None, None)
    assert client.page_of_pipelines(selector="nothing").pipelines == ()


def test_a_drill_is_for_those_who_take_part(client: Client, peer: Peer) -> None:
    peer.devices = {"edge-1": device("edge-1", drills=True), "edge-2": device("edge-2")}

    client.drill_device("edge-1", "isolate", seconds=20)

    assert client.get_device("edge-1").drills
    assert peer.asked[-2] == DrillDevice(device="edge-1", fault="isolate", seconds=20.0)
    with pytest.raises(streamfleet.Conflict):
        client.drill_device("edge-2", "engine")


def test_a_model_is_uploaded_once(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "shapes.onnx"
    file.write_bytes(demo_model())

    added = client.add_model("shapes/1", file)
    again = client.add_model("shapes/2", str(file), labels=["a", "b", "c"])
    with pytest.raises(streamfleet.Conflict):
        client.add_model("shapes/1", file, labels=["a", "b", "c"])
    replaced = client.add_model("shapes/1", file, labels=["a", "b", "c"], replace=True)
    client.remove_model("shapes/1")

    assert added.labels == ("red", "green", "blue")
    assert (added.family, added.task, added.keypoints) == ("ultralytics", "detect", ())
    assert again.labels == ("a", "b", "c")
    assert replaced.replaces == added.digest
    assert added.weights == again.weights
    assert [each.id for each in client.list_models()] == ["shapes/2"]
    assert client.get_model("shapes/2").digest == again.digest


def test_a_model_from_elsewhere_is_uploaded_in_pieces_and_only_once(client: Client) -> None:
    content = b"known to no other test"
    digest = hashlib.sha256(content).hexdigest()
    pieces = iter([content[:9], b"", content[9:]])
    untouched = iter([content])

    with pytest.raises(streamfleet.Invalid):
        client.upload_weights("ab" * 32, [content])
    first = client.upload_weights(digest, pieces)
    second = client.upload_weights(digest, untouched)

    assert (first, second, list(pieces), list(untouched)) == (True, False, [], [content])
    with pytest.raises(streamfleet.Invalid):
        client.register_model("shapes/1", digest)


def put_sample(api: Api) -> float:
    """One picture of the dataset `parts`; when it was captured."""
    item = picked(1)
    answer = api.http.put(sample_path(item), content=item.encode(), headers={"content-type": PICKED})
    assert answer.status_code == 201
    return item.sample.captured_at


def test_a_dataset_is_listed_exported_and_removed(client: Client, api: Api) -> None:
    captured_at = put_sample(api)
    file = io.BytesIO()

    (dataset,) = client.list_datasets()
    client.export_dataset("parts", file)
    client.remove_dataset("parts")

    assert (dataset.dataset, dataset.samples, dataset.devices) == ("parts", 1, ("edge-1",))
    assert dataset.oldest == dataset.newest == captured_at
    assert "annotations.json" in zipfile.ZipFile(file).namelist()
    assert client.list_datasets() == ()
    with pytest.raises(streamfleet.NotFound):
        client.export_dataset("parts", file)


def test_the_next_picture_of_a_pipeline(client: Client, peer: Peer) -> None:
    door = f"door-{peer.generation}"  # at which nobody looked in the last seconds
    peer.pipelines[door] = pipeline(door)

    def send() -> None:
        peer.wait_for_looker(door)
        peer.picture(door, 0, jpeg())

    sender = threading.Thread(target=send, name="sender")
    sender.start()
    content = client.pipeline_picture(door, source=0)
    sender.join(PATIENCE)

    assert content == jpeg()
    with pytest.raises(streamfleet.NotFound):
        client.pipeline_picture("nobody")


def test_keys_of_a_subscriber_name_a_host(client: Client) -> None:
    keys = client.add_subscriber("wall", pipelines=["door"])
    listed = client.list_subscribers()
    client.remove_subscriber("wall")

    assert [(each.name, each.pipelines, each.selector) for each in listed] == [("wall", ("door",), {})]
    assert client.list_subscribers() == ()
    assert keys.endpoints == ("tcp://127.0.0.1:7774",)
    assert keys.secret_key not in repr(keys)


def test_an_error_has_the_fields_of_the_problem(client: Client, model: str) -> None:
    with pytest.raises(streamfleet.Invalid) as caught:
        client.put_pipeline("door", model="nothing/1", sources=[])  # two things are wrong

    problem = caught.value
    assert (problem.status, problem.title) == (422, "Unprocessable Entity")
    assert [each.loc for each in problem.errors] == [("body", "sources")]
    assert "body.sources: List should have at least 1 item" in str(problem)


def test_a_version_that_has_passed_is_refused(client: Client, model: str) -> None:
    client.put_pipeline("door", model=model, sources=[0])

    with pytest.raises(streamfleet.PreconditionFailed):
        client.put_pipeline("door", model=model, sources=[1], if_match=17)


def test_nobody_there_is_told_with_the_address(tmp_path: Path) -> None:
    url = f"http://me:hunter2@127.0.0.1:{free_port()}"
    match = r"cannot reach http://127\.0\.0\.1:\d+: "
    client = Client(Connection(url=url, data_dir=tmp_path), retries=1)
    with client, pytest.raises(streamfleet.Unreachable, match=match) as caught:
        client.patch_pipeline("door", confidence=0.5)

    assert "hunter2" not in str(caught.value)
    assert not caught.value.was_sent


def test_an_url_that_is_none_is_not_tried_again(tmp_path: Path) -> None:
    client = Client(Connection(url="ftp://fleet", data_dir=tmp_path))
    with client, pytest.raises(streamfleet.Unreachable):
        client.health()


def test_an_idle_connection_is_given_up_well_before_the_api_closes_it() -> None:
    api = uvicorn.Config("no app")

    assert LIMITS.keepalive_expiry is not None
    assert LIMITS.keepalive_expiry < api.timeout_keep_alive / 2


# streams --------------------------------------------------------------------------------------------------


def test_predictions_and_what_is_missing(client: Client, api: Api, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    predictions = client.predictions("door", min_confidence=0.5, timeout=PATIENCE)

    found = []
    with Sender(api, peer, "door", [0, 1, 4]):
        for prediction in predictions:
            found.append(prediction)
            if len(found) == 3:
                break

    assert [each.sequence for each in found] == [0, 1, 4]
    assert [each.missing for each in found] == [0, 0, 2]
    assert (found[0].pipeline_id, found[0].frame_id, found[0].device) == ("door", 1, "edge-1")
    assert found[0].objects[0]["class"] == "car"


def test_a_silent_stream_ends_in_time(client: Client, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    with pytest.raises(streamfleet.NothingReceived, match=r"no predictions within 0\.2 s"):
        next(client.predictions("door", timeout=0.2))


def test_a_stream_of_nothing_known_is_refused(client: Client) -> None:
    with pytest.raises(streamfleet.NotFound):
        next(client.predictions("nobody"))


def test_events_continue_where_they_ended(client: Client, peer: Peer) -> None:
    for number in (1, 2, 3):
        peer.happen(number)
    first = next(client.events(after=f"{peer.epoch}-0", timeout=PATIENCE))
    rest = client.events(after=first.cursor, timeout=PATIENCE)

    assert (first.n, first.id, first.state) == (1, "door", "running")
    assert [next(rest).n, next(rest).n] == [2, 3]
    assert [each.n for each in client.recent_events(2)] == [2, 3]


# asyncio --------------------------------------------------------------------------------------------------


async def test_the_asynchronous_client(
    async_client: AsyncClient, api: Api, peer: Peer, model: str, tmp_path: Path
) -> None:
    file = tmp_path / "shapes.onnx"
    file.write_bytes(demo_model())

    added = await async_client.add_model("shapes/9", file)
    is_new = await async_client.upload_weights(hashlib.sha256(b"ab").hexdigest(), iter([b"a", b"b"]))
    made = await async_client.create_pipeline("door", model=model, sources=[0])
    predictions = async_client.predictions("door", timeout=PATIENCE)
    with Sender(api, peer, "door", [0, 3]):
        found = [await anext(predictions), await anext(predictions)]
    await predictions.aclose()  # type: ignore[attr-defined]
    with pytest.raises(errors.NothingReceived):
        await anext(async_client.events(timeout=0.2))
    put_sample(api)
    file_of_samples = io.BytesIO()
    await async_client.export_dataset("parts", file_of_samples)
    await async_client.remove_dataset("parts")
    await async_client.delete_pipeline("door")

    assert (added.id, is_new) == ("shapes/9", True)
    assert made.pipeline_id == "door"
    assert [each.missing for each in found] == [0, 2]
    assert "annotations.json" in zipfile.ZipFile(file_of_samples).namelist()
    assert await async_client.list_pipelines() == ()


class Sender:
    """Predictions, sent on a thread as soon as somebody follows."""

    def __init__(self, api: Api, peer: Peer, pipeline_id: str, sequences: list[int]) -> None:
        def send() -> None:
            api.wait_for_follower(pipeline_id)
            for sequence in sequences:
                peer.predict(pipeline_id, sequence)

        self._thread = threading.Thread(target=send, name="sender")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._thread.join(PATIENCE)
