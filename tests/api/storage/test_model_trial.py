"""What the api's door accepts, an engine runs: a model is run once before pipelines may name it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest

from streamfleet_api.local.demo import demo_model
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.onnx_session import Session
from tests.api.conftest import Api
from tests.core.models.test_onnx_file import message
from tests.fakes.broker import Peer, pipeline, sha256, spec
from tests.fakes.models import write_constant_model, write_endless_model, write_hungry_model
from tests.fakes.patience import PATIENCE

NAMES = {"task": "detect", "names": "{0: 'a', 1: 'b', 2: 'c'}", "stride": "32", "imgsz": "[64, 64]"}


def add(http: httpx.Client, content: bytes, **said: Any) -> httpx.Response:
    """Put a model as `odd/1`."""
    digest = sha256(content)
    assert http.put(f"/v2/blobs/{digest}", content=content).status_code == 201
    return http.put("/v2/models/odd/1", json={"weights": digest, **said}, timeout=2 * PATIENCE)


def with_metadata(path: Path, **metadata: str) -> bytes:
    """The content of a file that says this of itself."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {**NAMES, **metadata})
    content: bytes = model.SerializeToString()
    return content


def constant(path: Path, output: np.ndarray, **metadata: str) -> bytes:
    write_constant_model(path, output)
    return with_metadata(path, **metadata)


def logits(path: Path) -> bytes:
    return constant(path, np.full((1, 7, 5), -4.0))


def hungry(path: Path) -> bytes:
    write_hungry_model(path)
    return with_metadata(path)


def of_another_size(path: Path) -> bytes:
    """It says that it gives three classes, and gives four."""
    write_constant_model(path, np.zeros((1, 8, 5)))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    path.write_bytes(model.SerializeToString())
    return with_metadata(path)


def of_an_unknown_operator(path: Path) -> bytes:
    write_constant_model(path, np.zeros((1, 7, 5)))
    model = onnx.load(path)
    model.graph.node[0].op_type = "EfficientNMS_TRT"
    path.write_bytes(model.SerializeToString())
    return with_metadata(path)


def of_odd_text(path: Path) -> bytes:
    return constant(path, np.zeros((1, 7, 5))) + message(14, message(1, b"author") + message(2, b"\xff\xfe"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (logits, "expected scores from 0 to 1, got -4 to 0"),
        (hungry, "more memory than a model of its size may take"),
        (of_another_size, "expected an output of (1, 7, N) for the family ultralytics and 3 labels"),
        (of_an_unknown_operator, "ONNX Runtime refuses the model: This is an invalid model. In Node"),
        (of_odd_text, "its metadata 'author' in UTF-8, got b'\\xff'"),
    ],
)
def test_what_no_engine_would_run_is_refused_at_the_door(
    api: Api, peer: Peer, tmp_path: Path, make: Callable[[Path], bytes], expected: str
) -> None:
    answer = add(api.http, make(tmp_path / "model.onnx"))

    assert answer.status_code == 422, answer.text
    assert expected in answer.json()["detail"]
    assert "onnxruntime_src" not in answer.json()["detail"]
    assert not peer.models


@pytest.mark.parametrize(
    ("output", "metadata", "family"),
    [
        (np.zeros((1, 300, 6)), {"end2end": "True"}, "end2end"),
        (np.full((1, 5, 6), 0.5), {"args": "{'nms': True}"}, None),  # its class is no number of one
        (np.zeros((1, 5, 6)), {"args": "{'nms': True}"}, "end2end"),
        (np.zeros((1, 7, 84)), {}, "ultralytics"),
        (np.zeros((1, 252, 8)), {}, "yolov5"),
    ],
)
def test_what_the_door_accepts_an_engine_runs(
    api: Api,
    peer: Peer,
    tmp_path: Path,
    output: np.ndarray,
    metadata: dict[str, str],
    family: str | None,
) -> None:
    content = constant(tmp_path / "model.onnx", output, **metadata)

    answer = add(api.http, content)

    if family is None:
        assert answer.status_code == 422
        return
    assert (answer.status_code, answer.json()["family"]) == (201, family), answer.text
    blob = api.http.get(f"/v2/blobs/{answer.json()['digest']}").content
    (tmp_path / "model.onnx").write_bytes(content)
    assert Session(str(tmp_path / "model.onnx"), Manifest.decode(blob)).provider


@pytest.fixture
def impatient(short_dir: Path, peer: Peer) -> Iterator[Api]:
    """An api whose trials have three seconds of processor time."""
    folder = short_dir / f"trial-{peer.generation}"
    folder.mkdir()
    api = Api(folder, peer, module="tests.fakes.impatient_api")
    yield api
    assert api.stop() == 0


def test_a_trial_without_end_is_ended_and_holds_nobody_up(impatient: Api, peer: Peer, tmp_path: Path) -> None:
    write_endless_model(tmp_path / "endless.onnx")
    content = with_metadata(tmp_path / "endless.onnx")
    refused: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: refused.append(add(impatient.http, content)))
    thread.start()

    answered = 0
    with httpx.Client(base_url=impatient.url, timeout=PATIENCE, trust_env=False) as other:
        while thread.is_alive():
            assert other.get("/v2/models").status_code == 200
            assert other.delete("/v2/models/nobody/1").status_code == 404
            answered += thread.is_alive()
            thread.join(0.1)

    assert answered > 3
    assert refused[0].status_code == 422
    assert "it took too long: loading may take 20 s" in refused[0].json()["detail"]
    assert not peer.models


def test_a_model_in_use_is_removed_only_by_force(api: Api, peer: Peer) -> None:
    add(api.http, demo_model())
    peer.pipelines["door"] = pipeline("door", spec=replace(spec(), model=peer.models["odd/1"]))

    refused = api.http.delete("/v2/models/odd/1")
    kept = dict(peer.models)
    removed = api.http.delete("/v2/models/odd/1?force=true")

    assert refused.status_code == 409
    assert "odd/1 is in use by door" in refused.json()["detail"]
    assert "odd/1" in kept
    assert removed.status_code == 204
    assert not peer.models
