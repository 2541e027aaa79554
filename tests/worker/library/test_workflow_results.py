"""Workflows in the library: those that the fleet runs, with the objects that Roboflow's sinks expect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv

from streamfleet_core.protocol.workflow import BadWorkflow, Output, Workflow
from streamfleet_worker.library import InferencePipeline
from streamfleet_worker.library.workflow_results import WorkflowImage, WorkflowResults
from streamfleet_worker.video.detection.findings import CORNERS
from tests.fakes.findings import classified, document, oriented
from tests.fakes.library_parts import Taker, nothing_left_behind, squares_model
from tests.fakes.predicted import frame as grey_frame
from tests.fakes.videos import write_pattern


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four frames, with a model cache that knows how to find what is in them."""
    squares_model(tmp_path / "cache/shapes/1")
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path / "cache"))
    return write_pattern(tmp_path / "film.avi", 4)


SPECIFICATION: dict[str, Any] = {
    "version": "1.0",
    "inputs": [{"type": "WorkflowImage", "name": "image"}, {"type": "WorkflowParameter", "name": "sure"}],
    "steps": [
        {
            "type": "roboflow_core/roboflow_object_detection_model@v2",
            "name": "model",
            "images": "$inputs.image",
            "model_id": "shapes/1",
            "confidence": "$inputs.sure",
        },
        {
            "type": "roboflow_core/byte_tracker@v3",
            "name": "track",
            "image": "$inputs.image",
            "detections": "$steps.model.predictions",
        },
        {
            "type": "roboflow_core/property_definition@v1",
            "name": "count",
            "data": "$steps.track.tracked_detections",
            "operations": [{"type": "SequenceLength"}],
        },
        {
            "type": "roboflow_core/bounding_box_visualization@v1",
            "name": "boxes",
            "image": "$inputs.image",
            "predictions": "$steps.model.predictions",
        },
    ],
    "outputs": [
        {"type": "JsonField", "name": "found", "selector": "$steps.track.tracked_detections"},
        {"type": "JsonField", "name": "many", "selector": "$steps.count.output"},
        {"type": "JsonField", "name": "drawn", "selector": "$steps.boxes.image"},
        {"type": "JsonField", "name": "model", "selector": "$steps.model.model_id"},
    ],
}


def play(film: Path, **options: Any) -> Taker:
    taker = Taker()
    InferencePipeline.init_with_workflow(
        video_reference=str(film),
        workflow_specification=SPECIFICATION,
        workflows_parameters={"sure": 0.3},
        on_prediction=taker,
        **options,
    ).start()
    return taker


def test_sinks_get_detections_counts_and_pictures_under_the_names_of_the_outputs(film: Path) -> None:
    taker = play(film)

    assert taker.frame_ids == [1, 2, 3, 4]
    for outputs, frame in taker.calls:
        assert list(outputs) == ["found", "many", "drawn", "model"]
        assert isinstance(outputs["found"], sv.Detections)
        assert (outputs["many"], outputs["model"]) == (len(outputs["found"]), "shapes/1")
        assert isinstance(outputs["drawn"], WorkflowImage)
        assert outputs["drawn"].numpy_image.shape == frame.image.shape
        assert (outputs["drawn"].numpy_image != frame.image).any()
    last = taker.calls[-1][0]
    assert last["many"] == 3
    assert last["found"].tracker_id is not None


def test_results_may_be_plain(film: Path) -> None:
    (outputs, _) = play(film, serialize_results=True).calls[-1]

    assert len(outputs["found"]["predictions"]) == 3
    assert (outputs["drawn"]["type"], outputs["many"]) == ("base64", 3)


def test_a_workflow_that_the_fleet_does_not_run_is_refused_by_the_name_of_its_step(film: Path) -> None:
    steps = [*SPECIFICATION["steps"], {"type": "roboflow_core/clip@v1", "name": "clip"}]

    with pytest.raises(BadWorkflow, match="step 'clip' of type 'roboflow_core/clip@v1' cannot be served"):
        InferencePipeline.init_with_workflow(
            str(film), {**SPECIFICATION, "steps": steps}, workflows_parameters={"sure": 0.3}
        )


def test_a_workflow_by_its_ids_alone_is_refused(film: Path) -> None:
    with pytest.raises(ValueError, match="expected a workflow_specification"):
        InferencePipeline.init_with_workflow(str(film), workspace_name="mine", workflow_id="count")


def test_the_classes_of_a_picture_stay_a_dict() -> None:
    outputs = (Output("all", "predictions"), Output("how_many", "count"), Output("shown", "picture"))
    results = WorkflowResults(Workflow(model_id="kinds/1", outputs=outputs), serialised=False)
    whole = document(classified(3))

    found = results(whole, grey_frame())

    assert (found["all"], found["how_many"]) == (whole, 3)
    assert (found["shown"].numpy_image != grey_frame().image).any()


def test_oriented_boxes_have_their_corners() -> None:
    results = WorkflowResults(Workflow(model_id="ships/1"), serialised=False)

    found = results(document(oriented(3)), grey_frame())

    assert np.asarray(found["predictions"].data[CORNERS]).shape == (3, 4, 2)
