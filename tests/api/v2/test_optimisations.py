"""A device uploads the variant that it was asked to build, and nothing else."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import onnx
import pytest
from onnx import helper

from streamfleet_api.local.demo import conveyor_model, demo_model
from streamfleet_core.protocol.status import DeviceStat
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from tests.api.conftest import Api, until
from tests.fakes.broker import Peer
from tests.fakes.broker import device as device_of

DEMO = demo_model()
BOARD = "AMD EPYC, avx512_vnni"
ELSEWHERE = {"host": "evil.example"}  # not on this host, as far as the api can tell
ASKED = {"model_id": "shapes/1", "device": "edge-1", "pictures": "scene://conveyor/1"}


def content(which: str) -> bytes:
    """The same model in another file."""
    model = onnx.load_from_string(DEMO)
    helper.set_model_props(model, {"names": "{0: 'red', 1: 'green', 2: 'blue'}", "which": which})
    encoded: bytes = model.SerializeToString()
    return encoded


SMALL = content("small")


@pytest.fixture
def fleet(api: Api, peer: Peer) -> Peer:
    """A model, and two devices of one kind."""
    upload(api, DEMO)
    peer.tickets.update({"ticket-1": "edge-1", "ticket-2": "edge-2"})
    for name in ("edge-1", "edge-2"):
        peer.devices[name] = device_of(name)
        peer.tell(
            DeviceStat(device=name, session="ready", capacity=8, pipelines=1, engines=(), at=0.0, board=BOARD)
        )
    until(lambda: api.http.get("/v2/devices/edge-2").json()["board"] == BOARD)
    until(lambda: api.http.get("/v2/devices/edge-1").json()["board"] == BOARD)
    return peer


def upload(api: Api, model: bytes, **changed: Any) -> httpx.Response:
    """Register a model as an operator does."""
    weights = hashlib.sha256(model).hexdigest()
    headers = {"content-type": "application/octet-stream"}
    assert api.http.put(f"/v2/blobs/{weights}", content=model, headers=headers).status_code == 201
    return api.http.put("/v2/models/shapes/1", json={"weights": weights, **changed})


def start(api: Api, **changed: Any) -> str:
    answer = api.http.post("/v2/optimisations", json={**ASKED, **changed})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def put(
    api: Api, task_id: str, model: bytes = SMALL, *, ticket: str = "ticket-1", **changed: Any
) -> httpx.Response:
    """Upload a variant as a device does."""
    query = {
        "weights": hashlib.sha256(model).hexdigest(),
        "board": BOARD,
        "provider": "CPUExecutionProvider",
        "precision": "int8",
        "speedup": "1.9",
        "agreement": "0.99",
        **changed,
    }
    headers = {**ELSEWHERE, "content-type": "application/octet-stream", "authorization": f"Bearer {ticket}"}
    return api.http.put(f"/v2/optimisations/{task_id}/variant", params=query, content=model, headers=headers)


def variants(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.http.get("/v2/models/shapes/1").json()["variants"]
    return found


def is_here(api: Api, model: bytes) -> bool:
    return api.http.head(f"/v2/blobs/{hashlib.sha256(model).hexdigest()}").status_code == 200


def test_a_device_uploads_what_it_was_asked_for_once(api: Api, fleet: Peer) -> None:
    task_id = start(api)
    device, asked = fleet.optimisations[task_id]

    first, again = put(api, task_id), put(api, task_id, content("another"))

    assert (device, asked.board, asked.frames, asked.least_agreement) == ("edge-1", BOARD, 64, 0.98)
    assert first.status_code == 201, first.text
    assert again.status_code == 403, again.text
    assert [(each["board"], each["precision"], each["speedup"]) for each in variants(api)] == [
        (BOARD, "int8", 1.9)
    ]
    assert not is_here(api, content("another"))
    assert not fleet.optimisations


def test_a_task_of_another_device_is_not_its_own(api: Api, fleet: Peer) -> None:
    task_id = start(api)

    foreign = put(api, task_id, ticket="ticket-2")
    unknown = put(api, "0" * 16)
    stranger = put(api, task_id, ticket="ticket-3")

    assert (foreign.status_code, unknown.status_code, stranger.status_code) == (403, 403, 401)
    assert "expected a variant that edge-2 was asked to upload" in foreign.json()["detail"]
    assert variants(api) == []


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"board": "another"}, 403),
        ({"agreement": "0.97"}, 422),
        ({"agreement": "nan"}, 422),
        ({"speedup": "0"}, 422),
        ({"weights": "0" * 64}, 422),  # it is other content
        ({"more": "1"}, 422),
    ],
)
def test_what_was_not_asked_for_is_refused(
    api: Api, fleet: Peer, changed: dict[str, Any], status: int
) -> None:
    task_id = start(api)

    model = content(f"with {changed}")

    answer = put(api, task_id, model, **changed)

    assert answer.status_code == status, answer.text
    assert variants(api) == []
    assert not is_here(api, model)


@pytest.mark.parametrize(
    ("model", "status"),
    [
        (DEMO + bytes(2 * 1_048_576), 413),
        (b"no variant, and of no other test", 422),
        (conveyor_model(), 422),  # of another input
        (SMALL[:-9], 422),
    ],
)
def test_a_spoilt_variant_is_refused_and_nothing_of_it_stays(
    api: Api, fleet: Peer, model: bytes, status: int
) -> None:
    task_id = start(api)

    answer = put(api, task_id, model)

    assert answer.status_code == status, answer.text
    assert variants(api) == []
    assert not is_here(api, model)


def test_nothing_is_uploaded_of_a_dry_run_or_a_cancelled_task(api: Api, fleet: Peer) -> None:
    dry, cancelled = start(api, dry_run=True), start(api)
    removed = [api.http.delete(f"/v2/optimisations/{cancelled}").status_code for _ in range(2)]

    assert removed == [204, 404]
    assert [put(api, each).status_code for each in (dry, cancelled)] == [403, 403]


def test_a_variant_of_a_model_that_was_replaced_is_refused(api: Api, fleet: Peer) -> None:
    task_id = start(api)
    assert upload(api, content("new"), replace=True).status_code == 201

    answer = put(api, task_id)

    assert answer.status_code == 409
    assert "shapes/1 was replaced by another model" in answer.json()["detail"]
    assert variants(api) == []


def test_a_ticket_starts_and_cancels_nothing(api: Api, fleet: Peer) -> None:
    task_id = start(api)
    headers = {**ELSEWHERE, "authorization": "Bearer ticket-1"}

    # From an address of its own: one has ten wrong tokens a minute.
    with httpx.Client(
        base_url=api.http.base_url, transport=httpx.HTTPTransport(local_address="127.0.0.12")
    ) as http:
        asked = [
            http.post("/v2/optimisations", json=ASKED, headers=headers),
            http.delete(f"/v2/optimisations/{task_id}", headers=headers),
            http.post("/v2/models/shapes/1/variants", json={}, headers=headers),
        ]

    assert [each.status_code for each in asked] == [401, 401, 401]
    assert task_id in fleet.optimisations


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"model_id": "shapes/2"}, 404, "no model shapes/2 is registered"),
        ({"device": "edge-9"}, 404, ""),
        ({"device": "lost-1"}, 409, "lost-1 is lost, expected a device that is ready"),
        ({"device": "silent-1"}, 409, "silent-1 has not told its kind yet"),
        ({"pictures": "/etc/passwd"}, 422, "pictures"),
        ({"pictures": "rtsp://10.0.0.1/door"}, 422, "pictures"),
        ({"frames": 1000}, 422, "frames"),
    ],
)
def test_what_cannot_begin_is_refused(
    api: Api, fleet: Peer, changed: dict[str, Any], status: int, error: str
) -> None:
    fleet.devices["lost-1"] = device_of("lost-1", state="lost")
    fleet.devices["silent-1"] = device_of("silent-1")

    answer = api.http.post("/v2/optimisations", json={**ASKED, **changed})

    assert answer.status_code == status, answer.text
    assert error in answer.text
    assert fleet.optimisations == {}


def test_the_task_names_the_content_of_the_model(api: Api, fleet: Peer) -> None:
    task_id = start(api, frames=8, agreement=0.5)

    assert fleet.optimisations[task_id][1] == Optimisation(
        id=task_id,
        model=fleet.models["shapes/1"],
        board=BOARD,
        pictures="scene://conveyor/1",
        frames=8,
        least_agreement=0.5,
    )
