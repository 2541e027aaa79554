"""Models that only the model cache knows: a request that names one registers it, or is told what is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.local.demo import demo_model
from streamfleet_api.storage import model_registry
from streamfleet_api.storage.blob_store import Blobs
from streamfleet_api.storage.model_registry import Models
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.requests import ListModels, PipelineView
from tests.api.conftest import Api
from tests.core.models.test_model_validation import save
from tests.fakes.broker import Peer


def body(model_id: str) -> dict[str, Any]:
    """A request that names this model."""
    sink = {"host": "127.0.0.1", "port": 9}
    return {"model_id": model_id, "video_reference": 0, "sink_configuration": sink}


def test_a_pipeline_may_name_a_model_that_only_the_cache_knows(api: Api, peer: Peer) -> None:
    folder = api.cache / "cached/1"
    folder.mkdir(parents=True)
    save(folder / "weights.onnx", metadata={})
    (folder / "labels.txt").write_text("a\nb\n")

    first = api.http.post("/initialise", json=body("cached/1"))
    registered = peer.models["cached/1"]
    second = api.http.post("/initialise", json=body("cached/1"))

    assert (first.status_code, second.status_code) == (200, 200)
    manifest = json.loads(api.http.get(f"/v2/blobs/{registered.digest}").content)
    assert manifest["labels"] == ["a", "b"]
    weights = api.http.get(f"/v2/blobs/{manifest['weights']['sha256']}").content
    assert weights == (folder / "weights.onnx").read_bytes()
    assert peer.models["cached/1"] == registered


def test_a_broken_model_in_the_cache_is_400_with_the_reason(api: Api, peer: Peer) -> None:
    folder = api.cache / "broken/1"
    folder.mkdir(parents=True)
    (folder / "weights.onnx").write_bytes(b"no model")

    answer = api.http.post("/initialise", json=body("broken/1"))

    assert answer.status_code == 400
    assert "Error type: invalid_payload" in answer.json()["message"]
    assert "expected an ONNX file" in answer.json()["message"]
    assert not peer.pipelines
    assert not peer.models


def test_a_file_that_is_removed_while_the_model_is_tried_is_not_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    class Broker:
        """A registry without models."""

        async def ask(self, request: object, _of: object) -> object:
            asked.append(request)
            return ()

        async def pipelines(self) -> tuple[PipelineView, ...]:
            return ()

    blobs = Blobs(tmp_path / "blobs", limit=2**20)
    blobs.open()
    digest = blobs.put_bytes(demo_model())
    models = Models(cast(BrokerClient, Broker()), blobs, None)

    async def remove_meanwhile(_weights: Path, _manifest: object) -> None:
        assert await models.remove_blob(digest)

    monkeypatch.setattr(model_registry, "try_model", remove_meanwhile)
    weights = blobs.find(hashlib.sha256(demo_model()).hexdigest())
    assert weights is not None

    with pytest.raises(BadModel, match="upload it again"):
        asyncio.run(models.put("shapes/1", weights, family=None, labels=None, replace=False))

    assert all(not hasattr(request, "model") for request in asked)
    assert ListModels() in asked
