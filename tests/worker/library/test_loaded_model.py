"""A model without a pipeline, as programs use what `get_model` gives."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.library import get_model
from streamfleet_worker.video.synthetic.test_pattern import draw
from tests.fakes.library_parts import squares_model
from tests.fakes.task_models import (
    write_classifying_model,
    write_oriented_model,
    write_pose_model,
    write_segmenting_model,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares_model(tmp_path / "cache/shapes/1")
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path / "cache"))


def test_a_model_finds_what_is_in_a_picture_by_the_originals_names() -> None:
    model = get_model("shapes/1", api_key="not needed")

    (found,) = model.infer(draw(1))

    assert len(sv.Detections.from_inference(found)) == len(found.predictions) == 3
    assert (model.task_type, found.image.width) == ("object-detection", draw(1).shape[1])
    assert found.predictions[0].class_name == found.predictions[0]["class"]
    assert json.loads(found.json()) == found.dict() == found.model_dump(by_alias=True, exclude_none=True)
    assert not hasattr(found, "nothing")


def test_pictures_come_as_arrays_paths_or_lists_and_thresholds_with_them(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), draw(1))
    model = get_model("shapes/1", confidence=0.2)

    found = model.infer([draw(1), tmp_path / "picture.png", str(tmp_path / "picture.png")], max_detections=2)

    assert [len(each.predictions) for each in found] == [2, 2, 2]


@pytest.mark.parametrize("picture", [3, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused(picture: object) -> None:
    with pytest.raises(TypeError, match="expected a picture of height, width and 3 colours"):
        get_model("shapes/1").infer(picture)


def test_a_picture_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"got gone\.png"):
        get_model("shapes/1").infer("gone.png")


TASKS = {
    "instance-segmentation": write_segmenting_model,
    "object-detection": write_oriented_model,
    "keypoint-detection": write_pose_model,
    "classification": write_classifying_model,
}


@pytest.mark.parametrize("task_type", TASKS)
def test_a_model_of_each_task_answers_as_roboflows_do(tmp_path: Path, task_type: str) -> None:
    TASKS[task_type](tmp_path / "model.onnx")
    model = get_model(tmp_path / "model.onnx")

    (found,) = model.infer(np.zeros((480, 640, 3), np.uint8))

    first = found.predictions[0]
    assert model.task_type == task_type
    assert json.loads(found.json()) == found.dict()
    match task_type:
        case "instance-segmentation":
            mask = sv.Detections.from_inference(found).mask
            assert mask is not None
            assert mask[0].sum() == pytest.approx(160 * 160, rel=0.1)  # half of its box
            assert first.points[0].x == pytest.approx(160, abs=5)
        case "object-detection":
            assert first.rotation == pytest.approx(30, abs=1)
            assert len(first.points) == 4
        case "keypoint-detection":
            assert [point.class_name for point in first.keypoints] == ["head", "tip"]
            assert sv.KeyPoints.from_inference(found).xy.shape == (2, 2, 2)
        case "classification":
            assert (found.top, found.confidence) == ("nut", pytest.approx(0.8))
            assert first.class_name == "nut"


def test_masks_are_exact_if_the_program_wants_run_lengths(tmp_path: Path) -> None:
    write_segmenting_model(tmp_path / "model.onnx")
    model = get_model(tmp_path / "model.onnx")

    (found,) = model.infer(np.zeros((64, 64, 3), np.uint8), response_mask_format="rle")

    mask = sv.rle_to_mask(found.predictions[0].rle.counts, (64, 64))
    assert mask.any()
    assert "points" not in found.predictions[0]
    with pytest.raises(ValueError, match="expected polygon or rle, got 'dense'"):
        model.infer(np.zeros((64, 64, 3), np.uint8), response_mask_format="dense")  # type: ignore[arg-type]
