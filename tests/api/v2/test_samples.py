"""Samples at the door of the api: whole, of whom they say, once, bounded, and taken away as COCO."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import msgspec
import numpy as np
import pytest
import supervision as sv
from PIL import Image

from streamfleet_api.storage.coco_zip import zipped
from streamfleet_core.datasets.picked_sample import MAX_PICKED, PICKED, Picked, Sample
from tests.api.conftest import Api, until
from tests.fakes.broker import Peer
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder
from tests.fakes.samples import BEGAN, HEIGHT, WIDTH, jpeg, path_of, picked

TYPE = {"content-type": PICKED}
ELSEWHERE = {"host": "evil.example"}  # not on this host, as far as the api can tell
TICKET = {**TYPE, **ELSEWHERE, "authorization": "Bearer ticket-1"}


@pytest.fixture
def http(http: httpx.Client) -> Iterator[httpx.Client]:
    """A client of an api without samples."""
    yield http
    for dataset in http.get("/v2/samples").json()["datasets"]:
        http.delete(f"/v2/samples/{dataset['dataset']}")


@pytest.fixture
def ticket(peer: Peer) -> dict[str, str]:
    """What edge-1 sends from elsewhere with a sample."""
    peer.tickets["ticket-1"] = "edge-1"
    return TICKET


def put(http: httpx.Client, item: Picked, headers: dict[str, str] = TYPE, path: str = "") -> httpx.Response:
    """As a device does."""
    return http.put(path or path_of(item), content=item.encode(), headers=headers)


# the door -------------------------------------------------------------------------------------------------


def test_a_sample_is_put_once_however_often_it_is_sent(http: httpx.Client, ticket: dict[str, str]) -> None:
    item = picked()

    first, again = put(http, item, ticket), put(http, item, ticket)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {"dataset": "parts", "name": item.sample.name}
    assert http.get("/v2/samples/parts").json()["samples"] == [
        {
            "name": item.sample.name,
            "size": len(item.image) + len(msgspec.json.encode(item.sample)),
            "pipeline_id": "door",
            "device": "edge-1",
            "source_id": 0,
            "frame_id": 1,
            "captured_at": item.sample.captured_at,
            "strategy": "some",
            "batch": "samples",
        }
    ]


def test_what_was_put_is_read_as_it_was(http: httpx.Client) -> None:
    item = picked()
    put(http, item)

    image = http.get(f"{path_of(item)}.jpg")
    described = http.get(f"{path_of(item)}.json")

    assert (image.content, image.headers["content-type"]) == (item.image, "image/jpeg")
    assert image.headers["x-content-type-options"] == "nosniff"
    assert described.headers["content-type"] == "application/json"
    assert msgspec.convert(described.json(), Sample) == item.sample


def test_a_ticket_puts_samples_of_its_own_device_only(http: httpx.Client, ticket: dict[str, str]) -> None:
    foreign = picked(device="edge-2")

    answer = put(http, foreign, ticket)
    unknown = put(http, picked(), {**ticket, "authorization": "Bearer ticket-2"})

    assert (answer.status_code, unknown.status_code) == (403, 401)
    assert "expected a sample of edge-1" in answer.json()["detail"]
    assert http.get("/v2/samples").json() == {"datasets": []}


def test_a_ticket_neither_reads_nor_removes_samples(http: httpx.Client, ticket: dict[str, str]) -> None:
    item = picked()
    put(http, item, ticket)

    # From an address of its own: one has ten wrong tokens a minute.
    transport = httpx.HTTPTransport(local_address="127.0.0.11")
    with httpx.Client(
        base_url=http.base_url, transport=transport, headers=ticket, timeout=PATIENCE
    ) as device:
        read = [device.get(f"{path_of(item)}{ending}").status_code for ending in (".jpg", ".json")]
        listed = [device.get(path).status_code for path in ("/v2/samples", "/v2/samples/parts")]
        removed = device.delete("/v2/samples/parts").status_code

    assert {*read, *listed, removed} == {401}
    assert http.get(f"{path_of(item)}.jpg").status_code == 200


def test_no_device_takes_the_place_of_anothers_sample(http: httpx.Client, ticket: dict[str, str]) -> None:
    theirs = picked(device="edge-2")
    put(http, theirs)

    answer = put(http, picked(), ticket)

    assert answer.status_code == 409
    assert http.get(f"{path_of(theirs)}.json").json()["device"] == "edge-2"


def changed(**changes: Any) -> bytes:
    """A sample of which some things are not what they should be."""
    plain = msgspec.to_builtins(picked(), builtin_types=(bytes,))
    return msgspec.msgpack.encode({**plain, "sample": {**plain["sample"], **changes}})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff",
        b"\x91" * 100_000,  # deeper than anybody looks
        changed(device="../edge-1"),
        changed(size=7),
        changed(width=0),
        changed(captured_at=float("nan")),
        changed(tags="night"),
        changed(prediction={"predictions": [{"x": "left"}]}),
        changed(prediction={"predictions": [{"class": msgspec.msgpack.Ext(1, b"?")}]}),
        msgspec.msgpack.encode(replace(picked(), image=b"GIF89a" + bytes(picked().sample.size - 6))),
    ],
)
def test_what_is_no_sample_is_refused_and_leaves_nothing(http: httpx.Client, content: bytes) -> None:
    answer = http.put(path_of(picked()), content=content, headers=TYPE)

    assert answer.status_code == 422, answer.text
    assert "expected a" in answer.json()["detail"]
    assert http.get("/v2/samples").json() == {"datasets": []}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/samples/other/{name}",
        "/v2/samples/parts/1-door-0-1",
        "/v2/samples/parts/coco",
        "/v2/samples/..%2fparts/{name}",
        "/v2/samples/parts/..%2f..%2f{name}",
        "/v2/samples/%2e%2e/{name}",
    ],
)
def test_the_path_is_the_samples_own(http: httpx.Client, path: str) -> None:
    item = picked()

    answer = put(http, item, path=path.format(name=item.sample.name))

    assert answer.status_code in (404, 405, 422)
    assert http.get("/v2/samples").json() == {"datasets": []}


def test_what_is_too_large_is_refused_before_it_is_there(http: httpx.Client) -> None:
    taken = 0

    def content() -> Iterator[bytes]:
        nonlocal taken
        while taken < 4 * MAX_PICKED:
            taken += 1 << 20
            yield bytes(1 << 20)

    answer = http.put(path_of(picked()), content=content(), headers=TYPE)

    assert answer.status_code == 413


def test_what_would_be_removed_at_once_stays_where_it_is(http: httpx.Client) -> None:
    answer = put(http, picked(captured_at=86_400.0))  # of a device without a clock

    assert answer.status_code == 422
    assert "expected a sample of the last 30 days" in answer.json()["detail"]


def test_what_no_clock_of_ours_shows_is_refused(http: httpx.Client) -> None:
    soon = time.time() + 3600

    late = put(http, picked(captured_at=99_000_000_000.0))  # the year 5107
    tomorrow = put(http, picked(captured_at=time.time() + 2 * 86_400))
    clocks_differ = put(http, picked(captured_at=soon))

    assert (late.status_code, tomorrow.status_code, clocks_differ.status_code) == (422, 422, 201)
    assert "expected a sample of no later than 1 days ahead" in late.json()["detail"]


def test_a_ticket_puts_no_sample_of_a_pipeline_that_its_device_never_had(
    http: httpx.Client, peer: Peer, ticket: dict[str, str]
) -> None:
    peer.foreign.add(("edge-1", "vault"))

    refused = put(http, picked(pipeline_id="vault"), ticket)
    taken = put(http, picked(), ticket)

    assert (refused.status_code, taken.status_code) == (403, 201)
    assert refused.json()["detail"].startswith("expected a sample of a pipeline that edge-1 has or had")


def test_a_device_that_sends_too_many_is_told_to_wait_and_others_are_not(
    http: httpx.Client, peer: Peer
) -> None:
    peer.tickets |= {"flood": "edge-flood", "ticket-1": "edge-1"}
    flood = {**TICKET, "authorization": "Bearer flood"}
    path, seen = path_of(picked()), []

    for _ in range(2_000):
        seen.append(http.put(path, content=b"", headers=flood).status_code)
        if seen[-1] == 429:
            break

    refused = http.put(path, content=b"", headers=flood)
    assert set(seen) == {422, 429}
    assert len(seen) > 200
    if refused.status_code == 429:  # else a twentieth of a second has passed
        assert refused.headers["retry-after"] == "5"
    assert put(http, picked(), TICKET).status_code == 201


def test_a_device_that_sends_too_much_is_told_to_wait_and_others_are_not(
    http: httpx.Client, peer: Peer
) -> None:
    """Each body is looked through before it is known whose sample it is, if it is one."""
    peer.tickets |= {"heavy": "edge-heavy", "ticket-1": "edge-1"}
    heavy = {**TICKET, "authorization": "Bearer heavy"}
    path, content = path_of(picked()), bytes(MAX_PICKED)
    seen: list[int] = []

    while 429 not in seen and len(seen) < 20:
        seen.append(http.put(path, content=content, headers=heavy).status_code)

    assert set(seen) == {422, 429}
    assert put(http, picked(), TICKET).status_code == 201


def pictured(image: bytes, **changes: Any) -> Picked:
    """A sample with another picture."""
    return Picked(replace(picked().sample, size=len(image), **changes), image)


@pytest.mark.parametrize(
    "item",
    [
        pictured(b"\xff\xd8\xff" + bytes(range(256)) * 8),
        pictured(jpeg()[: len(jpeg()) // 2]),
        pictured(b"\xff\xd8\xff\xd9"),
        pictured(jpeg(), width=WIDTH + 1),
        pictured(jpeg().replace(HEIGHT.to_bytes(2, "big") + WIDTH.to_bytes(2, "big"), b"\xff\xff\xff\xff")),
        pictured(
            jpeg().replace(HEIGHT.to_bytes(2, "big") + WIDTH.to_bytes(2, "big"), b"\xff\xff\xff\xff"),
            width=65_535,
            height=65_535,
        ),
        pictured(jpeg()[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 40 + b"\xff\xd9"),
        pictured(bytes(cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1])),
    ],
    ids=["noise", "half", "empty", "another width", "another size", "a bomb", "scans", "PNG"],
)
def test_what_is_no_picture_is_refused(http: httpx.Client, item: Picked) -> None:
    answer = put(http, item)

    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith("expected ")
    assert http.get("/v2/samples").json() == {"datasets": []}


def test_a_picture_that_takes_much_memory_to_decode_is_refused(http: httpx.Client) -> None:
    """A progressive one is kept as a whole meanwhile, and one of a camera is not."""
    large, shape = Image.new("RGB", (8000, 5000)), {"width": 8000, "height": 5000}
    progressive, usual = io.BytesIO(), io.BytesIO()
    large.save(progressive, "JPEG", progressive=True, subsampling=0, quality=10)
    large.save(usual, "JPEG", subsampling=0, quality=10)

    refused = put(http, pictured(progressive.getvalue(), **shape))

    assert refused.status_code == 422
    assert "a JPEG that can be decoded" in refused.json()["detail"]
    assert put(http, pictured(usual.getvalue(), **shape)).status_code == 201


def test_another_type_is_refused(http: httpx.Client) -> None:
    answer = put(http, picked(), {"content-type": "text/plain"})

    assert answer.status_code == 415


# what there is --------------------------------------------------------------------------------------------


def test_datasets_are_counted_and_chosen_by_pipeline_and_device(http: httpx.Client) -> None:
    for number in (1, 2, 3):
        put(http, picked(number))
    put(http, picked(4, pipeline_id="gate", device="edge-2"))
    put(http, picked(5, dataset="faults"))

    found = http.get("/v2/samples").json()["datasets"]
    of_gate = http.get("/v2/samples?pipeline=gate").json()["datasets"]
    of_edge_1 = http.get("/v2/samples?device=edge-1").json()["datasets"]

    assert [(each["dataset"], each["samples"]) for each in found] == [("faults", 1), ("parts", 4)]
    assert (found[1]["pipelines"], found[1]["devices"]) == (["door", "gate"], ["edge-1", "edge-2"])
    assert (found[1]["oldest"], found[1]["newest"]) == (BEGAN + 1, BEGAN + 4)
    assert found[1]["size"] > 4 * len(picked().image)
    assert [(each["dataset"], each["samples"]) for each in of_gate] == [("parts", 1)]
    assert [(each["dataset"], each["samples"]) for each in of_edge_1] == [("faults", 1), ("parts", 3)]


def test_pages_together_are_the_dataset(http: httpx.Client) -> None:
    items = [picked(number) for number in range(7)]
    for item in items:
        put(http, item)

    pages, after = [], ""
    while after is not None:
        query = {"limit": "3", **({"after": after} if after else {})}
        page = http.get("/v2/samples/parts", params=query).json()
        pages.append([each["name"] for each in page["samples"]])
        after = page["next"]

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [name for page in pages for name in page] == [item.sample.name for item in items]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=1.0", "after=x", "device=%2F", "limit=1&limit=1"]
)
def test_a_wrong_query_is_refused_by_its_name(http: httpx.Client, query: str) -> None:
    put(http, picked())

    answer = http.get(f"/v2/samples/parts?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][:2] == ["query", query.partition("=")[0]]


def test_what_is_not_there_is_said_to_be_not_there(http: httpx.Client) -> None:
    name = picked().sample.name

    for path in ("", "/coco", f"/{name}.jpg", f"/{name}.json", "/x.jpg"):
        assert http.get(f"/v2/samples/none{path}").status_code == 404
    assert http.delete("/v2/samples/none").status_code == 404


def test_a_dataset_is_removed_and_no_other(http: httpx.Client) -> None:
    put(http, picked())
    put(http, picked(dataset="faults"))

    answer = http.delete("/v2/samples/parts")

    assert answer.status_code == 204
    assert [each["dataset"] for each in http.get("/v2/samples").json()["datasets"]] == ["faults"]
    assert http.get(f"{path_of(picked())}.jpg").status_code == 404


# COCO -----------------------------------------------------------------------------------------------------


def test_a_dataset_is_taken_away_as_coco(http: httpx.Client, tmp_path: Path) -> None:
    for number in (1, 2):
        put(http, picked(number))
    put(http, picked(3, prediction=None, labels=("washer",)))

    answer = http.get("/v2/samples/parts/coco")
    head = http.head("/v2/samples/parts/coco")

    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    assert (answer.headers["content-type"], head.headers["content-type"]) == ("application/zip",) * 2
    assert 'filename="parts.zip"' in answer.headers["content-disposition"]
    assert head.content == b""
    dataset = sv.DetectionDataset.from_coco(str(tmp_path / "images"), str(tmp_path / "annotations.json"))
    assert dataset.classes == ["bolt", "nut", "washer"]
    assert [
        detections.xyxy.tolist() for _, image, detections in dataset if image.shape == (HEIGHT, WIDTH, 3)
    ] == [
        [[16, 8, 24, 12]],
        [[16, 8, 24, 12]],
        [],
    ]


def test_an_export_is_never_in_memory(tmp_path: Path) -> None:
    image, out, count = bytes(200_000), 0, 0

    def samples() -> Iterator[Any]:
        nonlocal count
        for number in range(200):
            assert count * len(image) - out < 3 * len(image)  # what was read has been sent
            count += 1
            yield picked(number).sample, image

    largest = 0
    for piece in zipped(samples(), tmp_path):
        out, largest = out + len(piece), max(largest, len(piece))

    assert out > 200 * len(image)
    assert largest < 1_000_000
    assert list(tmp_path.iterdir()) == []


# the disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def another(one_peer: Peer) -> Iterator[Callable[..., Api]]:
    """Makes an api of one's own."""
    started: list[Api] = []
    with short_folder() as folder:

        def make(*options: str) -> Api:
            started.append(Api(folder, one_peer, *options))
            return started[-1]

        yield make
        for api in started:
            api.stop()


def test_an_api_that_was_killed_has_every_sample_that_it_confirmed(another: Callable[..., Api]) -> None:
    api = another()
    confirmed = [number for number in range(20) if put(api.http, picked(number)).status_code == 201]

    api.process.kill()
    api.process.wait(PATIENCE)
    api.http.close()
    api.start()

    found = api.http.get("/v2/samples/parts").json()["samples"]
    assert confirmed == list(range(20))
    assert [each["frame_id"] for each in found] == confirmed
    assert put(api.http, picked(7)).status_code == 200


def test_a_sample_that_was_cut_short_is_taken_again(another: Callable[..., Api]) -> None:
    api, item = another(), picked()
    put(api.http, item)
    (api.folder / "api/samples/parts" / f"{item.sample.name}.jpg").write_bytes(b"")

    again = put(api.http, item)

    assert again.status_code == 201
    assert api.http.get(f"{path_of(item)}.jpg").content == item.image


def test_the_oldest_make_room(another: Callable[..., Api]) -> None:
    one = len(picked().image) + len(msgspec.json.encode(picked(10).sample))
    api = another("--samples-size", str(10 * one))

    for number in range(10, 60):
        assert put(api.http, picked(number)).status_code == 201

    found = [each["frame_id"] for each in api.http.get("/v2/samples/parts").json()["samples"]]
    assert found == list(range(60 - len(found), 60))
    assert 5 <= len(found) <= 10


def test_a_sample_for_which_there_is_never_room_is_refused(another: Callable[..., Api]) -> None:
    api = another("--samples-size", "500")

    assert put(api.http, picked()).status_code == 507


def test_what_is_too_old_goes(another: Callable[..., Api]) -> None:
    api = another()
    now = time.time()
    put(api.http, picked(1, captured_at=now - 7200))
    put(api.http, picked(2, captured_at=now))
    api.stop()

    aged = another("--samples-age", "3600")

    def there() -> list[int]:
        return [each["frame_id"] for each in aged.http.get("/v2/samples/parts").json()["samples"]]

    until(lambda: there() == [2])


def test_what_is_no_sample_on_the_disk_is_not_told(http: httpx.Client, api: Api) -> None:
    put(http, picked())
    folder = api.folder / "api/samples/parts"
    (folder / "notes.txt").write_text("x")
    (folder / "5-door-0-5.json").write_text(json.dumps({"device": "edge-1"}))

    found = http.get("/v2/samples/parts").json()["samples"]
    exported = http.get("/v2/samples/parts/coco").content

    assert [each["frame_id"] for each in found] == [1]
    assert len(zipfile.ZipFile(io.BytesIO(exported)).namelist()) == 2
    (folder / "notes.txt").unlink()
