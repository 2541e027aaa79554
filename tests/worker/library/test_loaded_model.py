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
from tests.fakes.task_models import CLASSES, write_classifying_model, write_segmenting_model


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


def test_the_class_of_a_picture_has_the_names_that_roboflow_has(tmp_path: Path) -> None:
    write_classifying_model(tmp_path / "parts.onnx")
    model = get_model(tmp_path / "parts.onnx")

    (found,) = model.infer(draw(1))

    assert (model.task_type, found.top) == ("classification", "nut")
    assert found.confidence == found.predictions[0].confidence == pytest.approx(max(CLASSES))
    assert json.loads(found.json()) == found.dict()


def test_masks_come_in_the_size_of_the_picture(tmp_path: Path) -> None:
    write_segmenting_model(tmp_path / "parts.onnx")
    model = get_model(tmp_path / "parts.onnx")

    (found,) = model.infer(draw(1))

    read = sv.Detections.from_inference(found)
    assert (model.task_type, found.predictions[0].mask_format) == ("instance-segmentation", "polygon")
    assert read.mask is not None
    assert read.mask.shape == (2, *draw(1).shape[:2])
