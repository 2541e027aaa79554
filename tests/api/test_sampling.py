"""`sampling` of a pipeline: what reaches the broker, what is refused, and how the original asked for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from streamfleet_api.roboflow.mapping import spec_of
from streamfleet_api.roboflow.schemas import PipelineInitialisationRequest
from streamfleet_api.sampling_presets import ActiveLearning
from streamfleet_core.protocol.requests import CreatePipeline, PutPipeline
from streamfleet_core.protocol.sampling import (
    Batching,
    ClassesBased,
    CloseToThreshold,
    DetectionsNumberBased,
    Limit,
    Random,
    Sampling,
)
from streamfleet_core.protocol.values import ModelRef, from_plain, to_plain
from tests.fakes.broker import Peer, pipeline, spec

MODEL = ModelRef("parts/1", "ab" * 32)
RANDOM = {"type": "random", "name": "some", "traffic_percentage": 0.5}
SAMPLING = {"dataset": "parts", "strategies": [RANDOM]}
WHOLE = {
    "dataset": "parts",
    "strategies": [
        {
            **RANDOM,
            "limits": [{"type": "minutely", "value": 1}, {"type": "daily", "value": 9}],
            "tags": ["a"],
        },
        {
            "type": "close_to_threshold",
            "name": "unsure",
            "threshold": 0.5,
            "epsilon": 0.1,
            "probability": 0.25,
            "selected_class_names": ["nut"],
            "only_top_classes": False,
            "minimum_objects_close_to_threshold": 2,
        },
        {"type": "classes_based", "name": "rare", "selected_class_names": ["washer"]},
        {"type": "detections_number_based", "name": "many", "more_than": 9},
    ],
    "batching": {"batches_name_prefix": "line 3", "recreation_interval": "weekly", "max_batch_images": 100},
    "max_image_size": [480, 640],
    "jpeg_compression_level": 80,
    "tags": ["night"],
    "persist_predictions": False,
}


@pytest.fixture(autouse=True)
def _known(peer: Peer) -> None:
    peer.models["parts/1"] = MODEL


def initialise(**changes: Any) -> dict[str, Any]:
    """A legal body of `/initialise`, with changes."""
    return {
        "model_id": "parts/1",
        "video_reference": "rtsp://cam/1",
        "sink_configuration": {"host": "127.0.0.1", "port": 9},
        **changes,
    }


def test_every_key_of_a_sampling_reaches_the_broker(http: httpx.Client, peer: Peer) -> None:
    body = {"model": "parts/1", "sources": ["rtsp://cam/1"], "sampling": WHOLE}

    answer = http.post("/v2/pipelines", json=body)

    assert answer.status_code == 201, answer.text
    (created,) = [request for request in peer.asked if isinstance(request, CreatePipeline)]
    assert created.spec.sampling == Sampling(
        dataset="parts",
        strategies=(
            Random(
                name="some",
                traffic_percentage=0.5,
                limits=(Limit("minutely", 1), Limit("daily", 9)),
                tags=("a",),
            ),
            CloseToThreshold(
                name="unsure",
                threshold=0.5,
                epsilon=0.1,
                probability=0.25,
                selected_class_names=("nut",),
                only_top_classes=False,
                minimum_objects_close_to_threshold=2,
            ),
            ClassesBased(name="rare", selected_class_names=("washer",)),
            DetectionsNumberBased(name="many", more_than=9),
        ),
        batching=Batching("line 3", "weekly", 100),
        max_image_size=(480, 640),
        jpeg_compression_level=80,
        tags=("night",),
        persist_predictions=False,
    )


@pytest.mark.parametrize(
    ("changes", "where", "problem"),
    [
        ({"dataset": "../x"}, ["dataset"], "String should match pattern"),
        ({"strategies": []}, ["strategies"], "at least 1 item"),
        ({"strategies": [RANDOM, RANDOM]}, ["strategies"], "expected each strategy once, got 'some' twice"),
        ({"strategies": [{"type": "other"}]}, ["strategies", 0], "does not match any of the expected tags"),
        (
            {"strategies": [{**RANDOM, "traffic_percentage": 50}]},
            ["strategies", 0, "random", "traffic_percentage"],
            "less than or equal to 1",
        ),
        (
            {
                "strategies": [
                    {"type": "detections_number_based", "name": "x", "more_than": 3, "less_than": 4}
                ]
            },
            ["strategies", 0, "detections_number_based"],
            "expected a number above more_than and below less_than, got 3 and 4",
        ),
        ({"batching": {"recreation_interval": "yearly"}}, ["batching", "recreation_interval"], "'monthly'"),
        ({"max_image_size": [480]}, ["max_image_size"], "at least 2 items"),
        ({"size": 1}, ["size"], "Extra inputs are not permitted"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused_where_it_does(
    http: httpx.Client, peer: Peer, changes: dict[str, Any], where: list[Any], problem: str
) -> None:
    body = {"model": "parts/1", "sources": ["rtsp://cam/1"], "sampling": {**SAMPLING, **changes}}

    answer = http.post("/v2/pipelines", json=body)

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["body", "sampling", *where]
    assert problem in error["msg"]


def test_a_sampling_is_shown_as_it_was_asked_for(http: httpx.Client, peer: Peer) -> None:
    desired = replace(spec("rtsp://cam/1"), sampling=from_plain(WHOLE, Sampling))
    peer.pipelines["door"] = replace(pipeline("door"), spec=desired)

    shown = http.get("/v2/pipelines/door").json()["spec"]["sampling"]

    assert from_plain(shown, Sampling) == desired.sampling
    assert http.get("/v2/pipelines/door").json()["samples"] is None


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"sampling": SAMPLING}, from_plain(SAMPLING, Sampling)),
        ({"sampling": None}, None),
        ({"confidence": 0.5}, from_plain(WHOLE, Sampling)),
    ],
)
def test_a_patch_replaces_a_sampling_whole_ends_it_or_leaves_it(
    http: httpx.Client, peer: Peer, patch: dict[str, Any], expected: Sampling | None
) -> None:
    desired = replace(spec("rtsp://cam/1"), sampling=from_plain(WHOLE, Sampling))
    peer.pipelines["door"] = replace(pipeline("door"), spec=desired)

    answer = http.patch("/v2/pipelines/door", json=patch)

    assert answer.status_code == 200, answer.text
    (put,) = [request for request in peer.asked if isinstance(request, PutPipeline)]
    assert put.spec.sampling == expected


# the original's way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "dataset"),
    [
        ({}, None),
        ({"active_learning_enabled": None}, None),
        ({"active_learning_enabled": False, "active_learning_target_dataset": "any thing"}, None),
        ({"active_learning_enabled": True}, "parts"),
        ({"active_learning_enabled": True, "active_learning_target_dataset": "line-3"}, "line-3"),
    ],
)
def test_active_learning_is_as_the_request_says_and_off_where_it_is_silent(
    http: httpx.Client, peer: Peer, changes: dict[str, Any], dataset: str | None
) -> None:
    answer = http.post("/initialise", json=initialise(**changes))

    assert answer.status_code == 200, answer.text
    (created,) = [request for request in peer.asked if isinstance(request, CreatePipeline)]
    sampling = created.spec.sampling
    assert (sampling.dataset if sampling else None) == dataset


def test_a_dataset_that_has_no_name_is_refused(http: httpx.Client) -> None:
    changes = {"active_learning_enabled": True, "active_learning_target_dataset": "../x"}

    answer = http.post("/initialise", json=initialise(**changes))

    assert answer.status_code == 400
    assert "active_learning_target_dataset" in answer.text


@pytest.mark.parametrize(("asked", "expected"), [(None, True), (True, True), (False, False)])
def test_the_environment_decides_where_a_request_is_silent(asked: bool | None, expected: bool) -> None:
    learning = ActiveLearning.of({"ACTIVE_LEARNING_ENABLED": "True", "ACTIVE_LEARNING_TAGS": "night, line 3"})
    request = PipelineInitialisationRequest.model_validate(initialise(active_learning_enabled=asked))

    sampling = spec_of(request, MODEL, learning).sampling

    assert (sampling is not None) == expected
    if sampling is not None:
        assert sampling.tags == ("night", "line 3")
        assert from_plain(to_plain(sampling), Sampling) == sampling  # the default is one that is legal


@pytest.mark.parametrize(
    "environment", [{"ACTIVE_LEARNING_ENABLED": "maybe"}, {"ACTIVE_LEARNING_TAGS": "x" * 100}]
)
def test_a_variable_that_cannot_be_used_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(environment))):
        ActiveLearning.of(environment)


ROBOFLOW = {
    "enabled": True,
    "target_workspace": "mine",
    "target_project": "parts",
    "persist_predictions": False,
    "sampling_strategies": WHOLE["strategies"],
    "batching_strategy": WHOLE["batching"],
    "max_image_size": [480, 640],
    "jpeg_compression_level": 80,
    "tags": ["night"],
}


def test_the_words_of_roboflows_active_learning_mean_the_same(http: httpx.Client, peer: Peer) -> None:
    body = {"model": "parts/1", "sources": ["rtsp://cam/1"], "sampling": ROBOFLOW}

    answer = http.post("/v2/pipelines", json=body)

    assert answer.status_code == 201, answer.text
    (created,) = (asked for asked in peer.asked if isinstance(asked, CreatePipeline))
    assert created.spec.sampling == from_plain(WHOLE, Sampling)


@pytest.mark.parametrize("method", ["put", "patch"])
def test_active_learning_that_is_not_enabled_keeps_nothing(
    http: httpx.Client, peer: Peer, method: str
) -> None:
    desired = replace(spec("rtsp://cam/1"), sampling=from_plain(WHOLE, Sampling))
    peer.pipelines["door"] = pipeline("door", version=1, spec=desired)
    body = {"sampling": {**ROBOFLOW, "enabled": False}}
    whole = body if method == "patch" else {"model": "parts/1", "sources": ["rtsp://cam/1"], **body}

    answer = http.request(method, "/v2/pipelines/door", json=whole)

    assert answer.status_code == 200, answer.text
    assert peer.pipelines["door"].spec.sampling is None


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"strategies": [RANDOM]}, "sampling_strategies"),
        ({"dataset": "parts"}, "target_project"),
        ({"enabled": "yes"}, "enabled"),
        ({"target_project": "a b"}, "dataset"),
    ],
)
def test_active_learning_in_two_words_or_wrong_ones_is_refused_by_name(
    http: httpx.Client, changes: dict[str, Any], where: str
) -> None:
    body = {"model": "parts/1", "sources": ["rtsp://cam/1"], "sampling": {**ROBOFLOW, **changes}}

    answer = http.post("/v2/pipelines", json=body)

    assert answer.status_code == 422
    assert [error["loc"][-1] for error in answer.json()["errors"]] == [where]
