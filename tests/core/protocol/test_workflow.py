"""Which workflows a pipeline can serve, and what it makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from streamfleet_core.protocol.workflow import BadWorkflow, Filtering, Output, Workflow, read

IMAGE = {"type": "WorkflowImage", "name": "image"}
MODEL = {
    "type": "roboflow_core/roboflow_object_detection_model@v2",
    "name": "model",
    "images": "$inputs.image",
    "model_id": "parts/1",
}
TRACKER = {
    "type": "roboflow_core/byte_tracker@v3",
    "name": "track",
    "image": "$inputs.image",
    "detections": "$steps.model.predictions",
}
BOXES = {
    "type": "roboflow_core/bounding_box_visualization@v1",
    "name": "boxes",
    "image": "$inputs.image",
    "predictions": "$steps.model.predictions",
}
COUNT = {
    "type": "roboflow_core/property_definition@v1",
    "name": "count",
    "data": "$steps.model.predictions",
    "operations": [{"type": "SequenceLength"}],
}
FOUND = {"type": "JsonField", "name": "found", "selector": "$steps.model.predictions"}


def specification(**changes: Any) -> dict[str, Any]:
    """A workflow of one model, with changes."""
    return {"version": "1.0", "inputs": [IMAGE], "steps": [MODEL], "outputs": [FOUND], **changes}


def model(**changes: Any) -> dict[str, Any]:
    """A workflow whose model has these parameters."""
    return specification(steps=[{**MODEL, **changes}])


def test_a_model_and_its_output_are_a_workflow() -> None:
    assert read(specification()) == Workflow(
        model_id="parts/1", learns=False, outputs=(Output("found", "predictions"),)
    )


@pytest.mark.parametrize(
    "name",
    [
        "roboflow_core/roboflow_object_detection_model@v1",
        "roboflow_core/roboflow_object_detection_model@v2",
        "roboflow_core/roboflow_object_detection_model@v3",
        "RoboflowObjectDetectionModel",
        "ObjectDetectionModel",
    ],
)
def test_a_model_has_several_names(name: str) -> None:
    assert read(model(type=name)).model_id == "parts/1"


def test_a_tracker_and_visualizations_may_follow_and_outputs_keep_their_names() -> None:
    outputs = [
        {"type": "JsonField", "name": "followed", "selector": "$steps.track.tracked_detections"},
        {"type": "JsonField", "name": "everything", "selector": "$steps.model.*"},
        {"type": "JsonField", "name": "id", "selector": "$steps.model.inference_id"},
        {"type": "JsonField", "name": "model", "selector": "$steps.model.model_id"},
        {"type": "JsonField", "name": "tracks", "selector": "$steps.track.*"},
        {"type": "JsonField", "name": "drawn", "selector": "$steps.boxes.image"},
    ]

    workflow = read(specification(steps=[BOXES, TRACKER, MODEL], outputs=outputs))

    assert workflow == Workflow(
        model_id="parts/1",
        tracker="bytetrack",
        learns=False,
        outputs=(
            Output("followed", "predictions"),
            Output("everything", "detection"),
            Output("id", "inference_id"),
            Output("model", "model_id"),
            Output("tracks", "tracking"),
            Output("drawn", "picture"),
        ),
    )


def test_parameters_of_the_model_are_read_as_they_stand_or_from_inputs() -> None:
    inputs = [
        IMAGE,
        {"type": "WorkflowParameter", "name": "sure", "default_value": 0.3},
        {"type": "InferenceParameter", "name": "most", "default_value": 100},
        {"type": "WorkflowParameter", "name": "model"},
    ]
    step = {
        "confidence": "$inputs.sure",
        "iou_threshold": 0.5,
        "max_detections": "$inputs.most",
        "max_candidates": 1000,
        "class_agnostic_nms": True,
        "class_filter": ["car"],
        "model_id": "$inputs.model",
        "disable_active_learning": False,
        "active_learning_target_dataset": "more-cars",
    }

    workflow = read(
        specification(inputs=inputs, steps=[{**MODEL, **step}]), {"sure": 0.7, "model": "cars/2", "else": 1}
    )

    assert workflow == Workflow(
        model_id="cars/2",
        filtering=Filtering(
            confidence=0.7,
            iou_threshold=0.5,
            class_agnostic_nms=True,
            max_candidates=1000,
            max_detections=100,
        ),
        classes=("car",),
        learns=True,
        dataset="more-cars",
        outputs=(Output("found", "predictions"),),
    )


@pytest.mark.parametrize(
    ("changes", "confidence"),
    [
        ({"confidence_mode": "custom", "custom_confidence": 0.6}, 0.6),
        ({"confidence_mode": "best", "custom_confidence": 0.6}, None),
        ({"confidence_mode": "default"}, None),
        ({"custom_confidence": 0.6}, None),
        ({}, None),
    ],
)
def test_the_third_version_says_confidence_in_two_words(
    changes: dict[str, Any], confidence: float | None
) -> None:
    workflow = read(model(type="roboflow_core/roboflow_object_detection_model@v3", **changes))

    assert workflow.filtering.confidence == confidence


def test_the_input_that_is_the_frame_may_have_another_name() -> None:
    inputs = [{"type": "InferenceImage", "name": "frame"}]
    steps = [{**MODEL, "images": "$inputs.frame"}]

    assert read(specification(inputs=inputs, steps=steps), image="frame").model_id == "parts/1"


def other(kind: str, name: str = "extra") -> dict[str, Any]:
    """A step of another kind."""
    return {"type": kind, "name": name}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"steps": [MODEL, other("roboflow_core/line_counter@v2")]},
            "step 'extra' of type 'roboflow_core/line_counter@v2' cannot be served",
        ),
        (
            {"steps": [MODEL, other("roboflow_core/roboflow_instance_segmentation_model@v2")]},
            "'roboflow_core/roboflow_instance_segmentation_model@v2' cannot be served",
        ),
        ({"steps": []}, "expected one step that is an object-detection model, got 0"),
        (
            {"steps": [MODEL, {**MODEL, "name": "b"}]},
            "expected one step that is an object-detection model, got 2",
        ),
        (
            {"steps": [MODEL, TRACKER, {**TRACKER, "name": "b"}]},
            "expected at most one step that is a tracker, got 2",
        ),
        ({"steps": [MODEL, MODEL]}, "got 'model' twice"),
        ({"steps": [{**MODEL, "next_steps": ["$steps.b"]}]}, "expected no next_steps"),
        (
            {"steps": [{**MODEL, "images": "$steps.crop.crops"}]},
            "expected steps.model.images as '$inputs.image'",
        ),
        ({"steps": [MODEL, {**TRACKER, "detections": "$steps.b.predictions"}]}, "steps.track.detections"),
        ({"steps": [{**MODEL, "model_id": None}]}, "expected steps.model.model_id as a text, got None"),
        (
            {"steps": [{**MODEL, "confidence": 1.5}]},
            "steps.model.confidence as a number from 0 to 1, got 1.5",
        ),
        ({"steps": [{**MODEL, "confidence": True}]}, "steps.model.confidence as a number"),
        ({"steps": [{**MODEL, "confidence": "$inputs.a"}]}, "'$inputs.a' in workflows_parameters"),
        ({"steps": [{**MODEL, "confidence": "$steps.a.b"}]}, "steps.model.confidence as a value"),
        ({"steps": [{**MODEL, "iou_threshold": "x"}]}, "steps.model.iou_threshold as a number"),
        ({"steps": [{**MODEL, "max_detections": 0}]}, "steps.model.max_detections as a whole number"),
        ({"steps": [{**MODEL, "class_agnostic_nms": 1}]}, "steps.model.class_agnostic_nms as true or false"),
        ({"steps": [{**MODEL, "class_filter": "car"}]}, "steps.model.class_filter as a list of texts"),
        ({"steps": "x"}, "expected steps as a list, got 'x'"),
        ({"steps": [1]}, "expected steps.0 as an object with a name and a type, got 1"),
        ({"inputs": None}, "expected inputs as a list, got None"),
        ({"inputs": []}, "expected an input 'image' that is an image"),
        ({"inputs": [{"type": "WorkflowParameter", "name": "image"}]}, "expected an input 'image'"),
        ({"outputs": []}, "expected outputs as a list of 1 to 64, got []"),
        ({"outputs": [{"name": 1}]}, "expected outputs.0 as an object with a name and a selector"),
        ({"outputs": [FOUND, FOUND]}, "got 'found' twice"),
        (
            {"outputs": [{**FOUND, "selector": "$steps.model.masks"}]},
            "outputs.0.selector as one of $steps.model.",
        ),
        ({"outputs": [{**FOUND, "selector": ["x"]}]}, "outputs.0.selector"),
        ({"outputs": [{**FOUND, "selector": "$inputs.image"}]}, "outputs.0.selector"),
    ],
)
def test_what_no_pipeline_can_do_is_refused_by_its_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadWorkflow) as refusal:
        read(specification(**changes))

    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [{**MODEL, "name": "n" * 9999}]},
        {"steps": [{**MODEL, "type": "t" * 9999}]},
        {
            "steps": [MODEL, *({**BOXES, "name": f"boxes-{number}"} for number in range(999))],
            "outputs": [BOXES],
        },
        {"inputs": [{**IMAGE, "name": "n" * 9999}]},
    ],
)
def test_a_refusal_is_short_however_long_the_workflow(changes: dict[str, Any]) -> None:
    with pytest.raises(BadWorkflow) as refusal:
        read(specification(**changes))

    assert len(str(refusal.value)) < 700


@pytest.mark.parametrize("data", ["$steps.model.predictions", "$steps.track.tracked_detections"])
def test_what_was_found_may_be_counted(data: str) -> None:
    outputs = [{"type": "JsonField", "name": "cars", "selector": "$steps.count.output"}]
    steps = [MODEL, TRACKER, {**COUNT, "data": data}]

    assert read(specification(steps=steps, outputs=outputs)).outputs == (Output("cars", "count"),)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": "$steps.boxes.image"}, "expected steps.count.data as one of $steps.model.predictions"),
        (
            {"operations": [{"type": "ToString"}]},
            "expected steps.count.operations as [{'type': 'SequenceLength'}]",
        ),
        ({"operations": None}, "expected steps.count.operations"),
    ],
)
def test_another_property_than_the_count_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadWorkflow) as refused:
        read(specification(steps=[MODEL, {**COUNT, **changes}]))

    assert expected in str(refused.value)


def test_a_specification_may_come_wrapped_as_older_programs_have_it() -> None:
    assert read({"specification": specification()}) == read(specification())
