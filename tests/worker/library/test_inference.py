"""What a program's own model may answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker.library.errors import BadPrediction
from streamfleet_worker.library.inference import document_of
from streamfleet_worker.video.detection.findings import CORNERS
from tests.fakes.predicted import frame


def boxes(**more: Any) -> sv.Detections:
    """Two boxes in a picture of 320 by 240, as a program makes them."""
    return sv.Detections(xyxy=np.array([[10, 10, 50, 40], [100, 100, 200, 200]], np.float64), **more)


def test_masks_of_supervision_are_written_as_polygons() -> None:
    masks = np.zeros((2, 240, 320), np.bool_)
    masks[0, 10:40, 10:50] = masks[1, 100:200, 100:200] = True

    whole = document_of(boxes(mask=masks), frame())

    back = sv.Detections.from_inference(whole).mask
    assert back is not None
    np.testing.assert_array_equal(np.asarray(back), masks)


def test_corners_of_supervision_are_written_with_their_angle() -> None:
    corners = np.array([[[50, 40], [50, 10], [10, 10], [10, 40]]] * 2, np.float32)

    first, _ = document_of(boxes(data={CORNERS: corners}), frame())["predictions"]

    assert (len(first["points"]), first["rotation"]) == (4, 0)


@pytest.mark.parametrize("data", [{CORNERS: [1, 2]}, {"keypoints": ["any", "thing"]}, {}])
def test_other_data_of_a_program_is_left_out(data: dict[str, Any]) -> None:
    first, _ = document_of(boxes(data=data), frame())["predictions"]

    assert "points" not in first
    assert "keypoints" not in first


def test_classes_of_supervision_are_written_the_best_first() -> None:
    found = sv.Classifications(class_id=np.array([4, 2]), confidence=np.array([0.25, 0.75]))

    whole = document_of(found, frame())

    assert (whole["top"], whole["confidence"], len(whole["predictions"])) == ("2", 0.75, 2)


def test_classes_without_confidence_are_certain() -> None:
    assert document_of(sv.Classifications(class_id=np.array([3])), frame())["confidence"] == 1


def test_no_class_is_no_prediction() -> None:
    with pytest.raises(BadPrediction, match="expected at least one class"):
        document_of(sv.Classifications(class_id=np.array([], int), confidence=np.array([])), frame())
