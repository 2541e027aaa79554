"""What may be asked of a sampling, what a sample must be, and how COCO numbers both."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from streamfleet_core.datasets.coco import Coco
from streamfleet_core.datasets.picked_sample import Sample, SamplePrediction
from streamfleet_core.protocol.prediction import Prediction
from streamfleet_core.protocol.sampling import (
    Batching,
    ClassesBased,
    CloseToThreshold,
    DetectionsNumberBased,
    Limit,
    Random,
    Sampling,
)
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec, from_plain, to_plain

WHOLE = Sampling(
    dataset="parts",
    strategies=(
        Random(
            name="some", traffic_percentage=0.1, limits=(Limit("daily", 3), Limit("hourly", 1)), tags=("a",)
        ),
        CloseToThreshold(
            name="unsure",
            threshold=0.5,
            epsilon=0.1,
            probability=0.5,
            selected_class_names=("nut",),
            only_top_classes=False,
            minimum_objects_close_to_threshold=2,
        ),
        ClassesBased(name="rare", selected_class_names=("washer",), probability=0.2),
        DetectionsNumberBased(name="crowded", more_than=10, less_than=20, probability=1),
    ),
    batching=Batching("line 3", "weekly", 100),
    max_image_size=(480, 640),
    jpeg_compression_level=80,
    tags=("night",),
    persist_predictions=False,
)
RANDOM = {"type": "random", "name": "some", "traffic_percentage": 0.1}
LEGAL = {"dataset": "parts", "strategies": [RANDOM]}
BOX: Prediction = {
    "x": 20.0,
    "y": 10.0,
    "width": 8.0,
    "height": 4.0,
    "confidence": 0.75,
    "class": "nut",
    "class_id": 1,
}
SAMPLE = Sample(
    pipeline_id="door",
    device="edge-1",
    source_id=0,
    frame_id=7,
    captured_at=1_700_000_000.25,
    width=64,
    height=48,
    size=1000,
    labels=("bolt", "nut"),
    prediction={"image": {"width": 64, "height": 48}, "predictions": [BOX]},
    strategy="some",
    tags=("night",),
    batch="samples",
    dataset="parts",
)


def test_a_sampling_travels_with_its_pipeline_to_the_device() -> None:
    spec = PipelineSpec(
        model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://cam/1"),), sampling=WHOLE
    )

    assert from_plain(to_plain(spec), PipelineSpec) == spec  # to the broker, and from its store
    assert pickle.loads(pickle.dumps(spec)) == spec  # to a camera's process


def test_a_pipeline_without_a_word_of_it_keeps_no_frame() -> None:
    spec = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://cam/1"),))
    older = {key: value for key, value in to_plain(spec).items() if key != "sampling"}

    assert from_plain(older, PipelineSpec).sampling is None


def test_another_sampling_does_not_begin_the_playing_anew() -> None:
    spec = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://cam/1"),))

    assert spec.can_update_to(replace(spec, sampling=WHOLE))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dataset": "../etc"}, r"dataset"),
        ({"strategies": []}, "length >= 1"),
        ({"strategies": [RANDOM, RANDOM]}, "expected each strategy once, got 'some' twice"),
        ({"strategies": [{"name": "some"}]}, "type"),
        ({"strategies": [{**RANDOM, "type": "other"}]}, "Invalid value 'other'"),
        ({"strategies": [{**RANDOM, "traffic_percentage": 1.5}]}, "<= 1.0"),
        ({"strategies": [{**RANDOM, "limits": [{"type": "daily", "value": 0}]}]}, ">= 1"),
        ({"strategies": [{**RANDOM, "limits": [{"type": "daily", "value": 1}] * 2}]}, "each limit once"),
        ({"strategies": [{"type": "classes_based", "name": "x", "selected_class_names": []}]}, "length >= 1"),
        ({"strategies": [{"type": "detections_number_based", "name": "x"}]}, "got neither"),
        (
            {
                "strategies": [
                    {"type": "detections_number_based", "name": "x", "more_than": 3, "less_than": 4}
                ]
            },
            "got 3 and 4",
        ),
        (
            {"strategies": [{"type": "detections_number_based", "name": "x", "less_than": 0}]},
            "got None and 0",
        ),
        ({"max_image_size": [640]}, "length 2"),
        ({"jpeg_compression_level": 101}, "<= 100"),
        ({"batching": {"recreation_interval": "yearly"}}, "yearly"),
        ({"tags": ["line\nbreak"]}, "tags"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused_with_the_reason(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        from_plain({**LEGAL, **changes}, Sampling)


def test_a_sample_is_named_by_when_where_and_which() -> None:
    assert SAMPLE.name == "1700000000250-door-0-7"


@pytest.mark.parametrize(
    "box",
    [
        {**BOX, "x": float("nan")},
        {**BOX, "width": -1.0},
        {**BOX, "confidence": "high"},
        {key: value for key, value in BOX.items() if key != "class"},
        7,
    ],
)
def test_a_sample_whose_boxes_cannot_be_read_does_not_come_to_be(box: Any) -> None:
    plain = {**to_plain(SAMPLE), "prediction": {"predictions": [box]}}

    with pytest.raises(msgspec.ValidationError):
        from_plain(plain, Sample)


def test_coco_numbers_classes_in_the_models_order_and_boxes_by_their_corner() -> None:
    coco = Coco()

    image, annotations = coco.add(SAMPLE)

    assert coco.categories() == [
        {"id": 1, "name": "bolt", "supercategory": ""},
        {"id": 2, "name": "nut", "supercategory": ""},
    ]
    assert (image["id"], image["file_name"], image["width"], image["height"]) == (
        1,
        "1700000000250-door-0-7.jpg",
        64,
        48,
    )
    assert image["date_captured"] == "2023-11-14T22:13:20.250000+00:00"
    assert annotations == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 2,
            "bbox": [16.0, 8.0, 8.0, 4.0],
            "area": 32.0,
            "iscrowd": 0,
            "segmentation": [],
            "score": 0.75,
        }
    ]


def test_coco_joins_models_by_the_names_of_their_classes() -> None:
    coco = Coco()
    coco.add(SAMPLE)

    _, annotations = coco.add(replace(SAMPLE, labels=("nut", "washer")))

    assert [category["name"] for category in coco.categories()] == ["bolt", "nut", "washer"]
    assert [(one["id"], one["image_id"], one["category_id"]) for one in annotations] == [(2, 2, 2)]


def test_a_box_that_reaches_out_of_the_picture_is_cut_at_its_edge() -> None:
    prediction: SamplePrediction = {"predictions": [{**BOX, "x": 62.0, "y": -1.0}]}

    _, (annotation,) = Coco().add(replace(SAMPLE, prediction=prediction))

    assert annotation["bbox"] == [58.0, 0.0, 6.0, 1.0]


def test_a_sample_without_a_prediction_is_an_image_without_annotations() -> None:
    _, annotations = Coco().add(replace(SAMPLE, prediction=None))

    assert annotations == []
