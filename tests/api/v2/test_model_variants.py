"""Variants of a model: registered under its id, checked against it, kept and removed with it."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import onnx
import pytest
from onnx import helper

from streamfleet_api.local.demo import demo_model
from streamfleet_core.protocol.values import Manifest
from tests.api.conftest import Api
from tests.fakes.broker import Peer

DEMO = demo_model()
BOARD = "AMD EPYC, avx512_vnni"
WHOLE = {"board": BOARD, "provider": "CPUExecutionProvider", "precision": "int8"}
FIGURES = {"speedup": 1.9, "agreement": 0.99}


def upload(http: httpx.Client, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    answer = http.put(
        f"/v2/blobs/{digest}", content=content, headers={"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 201, answer.text
    return digest


def another(name: str) -> bytes:
    """The same model in another file."""
    model = onnx.load_from_string(DEMO)
    helper.set_model_props(model, {"names": "{0: 'red', 1: 'green', 2: 'blue'}", "which": name})
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def shapes(api: Api, peer: Peer) -> str:
    """The digest of a registered model."""
    answer = api.http.put("/v2/models/shapes/1", json={"weights": upload(api.http, DEMO)})
    digest: str = answer.json()["digest"]
    return digest


def add(api: Api, content: bytes, **changed: Any) -> httpx.Response:
    body = {"weights": upload(api.http, content), **WHOLE, **FIGURES, **changed}
    return api.http.post("/v2/models/shapes/1/variants", json=body)


def test_a_variant_is_a_new_content_of_the_same_id(api: Api, peer: Peer, shapes: str) -> None:
    small = another("small")

    answer = add(api, small)

    assert answer.status_code == 201, answer.text
    assert answer.json()["replaces"] == shapes
    assert peer.models["shapes/1"].digest == answer.json()["digest"] != shapes
    weights = {"sha256": hashlib.sha256(small).hexdigest(), "size": len(small)}
    assert answer.json()["variants"] == [{**WHOLE, **FIGURES, "weights": weights}]
    assert api.http.get("/v2/models/shapes/1").json()["variants"] == answer.json()["variants"]
    manifest = Manifest.decode(api.http.get(f"/v2/blobs/{answer.json()['digest']}").content)
    assert manifest.weights.sha256 == hashlib.sha256(DEMO).hexdigest()


def test_there_is_one_variant_for_each_board(api: Api, shapes: str) -> None:
    add(api, another("small"))
    add(api, another("small"), board="ARM 0x41 0xd0b, asimddp")

    again = add(api, another("smaller"), precision="int4").json()

    assert [(each["board"], each["precision"]) for each in again["variants"]] == [
        (BOARD, "int4"),
        ("ARM 0x41 0xd0b, asimddp", "int8"),
    ]


def test_who_adds_the_same_model_again_keeps_its_variants_unless_it_is_to_be_replaced(
    api: Api, shapes: str
) -> None:
    added = add(api, another("small")).json()
    body = {"weights": upload(api.http, DEMO)}

    again = api.http.put("/v2/models/shapes/1", json=body).json()
    replaced = api.http.put("/v2/models/shapes/1", json={**body, "replace": True}).json()

    assert (again["digest"], again["replaces"]) == (added["digest"], None)
    assert (replaced["digest"], replaced["replaces"], replaced["variants"]) == (shapes, added["digest"], [])


def test_the_files_of_variants_go_with_the_model(api: Api, shapes: str) -> None:
    small = another("small")
    add(api, small)

    api.http.delete("/v2/models/shapes/1")

    assert api.http.get(f"/v2/blobs/{hashlib.sha256(small).hexdigest()}").status_code == 404


def test_a_file_with_other_outputs_is_no_variant(api: Api, peer: Peer, shapes: str) -> None:
    model = onnx.load_from_string(DEMO)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 7

    answer = add(api, model.SerializeToString())

    assert answer.status_code == 422
    assert "expected the inputs and outputs of the model, 'output0' FLOAT (1, 7, 5329)" in answer.text
    assert peer.models["shapes/1"].digest == shapes


def test_a_file_that_no_device_could_run_is_no_variant(api: Api, peer: Peer, shapes: str) -> None:
    model = onnx.load_from_string(DEMO)
    model.graph.node[0].op_type = "Nothing"

    answer = add(api, model.SerializeToString())

    assert answer.status_code == 422
    assert peer.models["shapes/1"].digest == shapes


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"weights": "0" * 64}, 404),
        ({"board": ""}, 422),
        ({"board": "a\nb"}, 422),
        ({"provider": "../x"}, 422),
        ({"precision": "INT 8"}, 422),
        ({"speedup": 0}, 422),
        ({"speedup": 1e9}, 422),
        ({"agreement": 1.5}, 422),
        ({"agreement": None}, 422),
        ({"more": 1}, 422),
    ],
)
def test_what_is_wrong_is_refused(
    api: Api, peer: Peer, shapes: str, changed: dict[str, Any], status: int
) -> None:
    answer = add(api, another("small"), **changed)

    assert answer.status_code == status, answer.text
    assert peer.models["shapes/1"].digest == shapes


def test_a_model_that_is_not_registered_has_no_variants(api: Api, peer: Peer) -> None:
    answer = add(api, another("small"))

    assert answer.status_code == 404
    assert "no model shapes/1 is registered" in answer.json()["detail"]
