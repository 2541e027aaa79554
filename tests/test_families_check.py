"""`make families-check` sees when Streamfleet finds something else than a model's own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.check_families import line, tell
from tests.references.case import Case, load, save
from tests.references.comparison import compare

NAMES = {"task": "detect", "names": "{0: 'bolt', 1: 'nut'}", "stride": "32"}
# Center, size and two scores of each box, in an input of 64 x 64.
OUTPUT = np.zeros((1, 6, 84), np.float32)
OUTPUT[0, :, :2] = np.array([[20, 20, 10, 10, 0.9, 0], [40, 40, 20, 10, 0.1, 0.6]]).T


def model(path: Path) -> Path:
    """A model that finds the same in each picture."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["found", "nothing"], ["output0"]),
    ]
    weights = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        numpy_helper.from_array(OUTPUT, "found"),
    ]
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 64, 64))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, OUTPUT.shape)],
        weights,
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(file, NAMES)
    onnx.save(file, path)
    return path


def case() -> Case:
    """What its own code would have found, in a frame of twice the size."""
    return Case(
        picture=np.zeros((128, 128, 3), np.uint8),
        input=np.zeros((1, 3, 64, 64), np.float32),
        outputs=[OUTPUT],
        boxes=np.array([[30, 30, 50, 50], [60, 70, 100, 90], [140, 0, 150, 9]], np.float32),  # one is outside
        scores=np.array([0.9, 0.6, 0.5], np.float32),
        classes=np.array([0, 1, 0]),
    )


def test_the_same_boxes_agree(tmp_path: Path) -> None:
    found = compare(model(tmp_path / "fixed.onnx"), case())

    assert found.agree
    assert (found.family, found.task, found.ours, found.theirs, found.matched) == (
        "ultralytics",
        "detect",
        2,
        2,
        2,
    )
    assert found.whole == "2, 2"
    assert (found.pixels, found.score, found.input) == (0, 0, 0)
    assert line(found).split()[:5] == ["ultralytics", "detect", "2", "2", "2"]


@pytest.mark.parametrize(
    "changed",
    [
        {"boxes": case().boxes + np.array([3, 0, 3, 0], np.float32)},
        {"classes": np.array([1, 1, 0])},
        {"scores": case().scores + np.float32(0.1)},
        {"boxes": case().boxes[:1], "scores": case().scores[:1], "classes": np.array([0])},
    ],
)
def test_another_place_class_score_or_number_differs(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert not compare(model(tmp_path / "fixed.onnx"), replace(case(), **changed)).agree


def test_a_file_that_is_not_recognized_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "none.npz", case())
    (tmp_path / "none.onnx").write_bytes(b"")

    assert not tell("none", tmp_path)
    assert "none                    refused: expected" in capsys.readouterr().out


def test_a_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = replace(case(), family="yolox", labels=("a", "b"), keypoints=np.ones((3, 5, 2)))
    save(tmp_path / "case.npz", written)

    read = load(tmp_path / "case.npz")

    assert (read.family, read.labels, read.masks) == ("yolox", ("a", "b"), None)
    np.testing.assert_array_equal(read.boxes, written.boxes)
    np.testing.assert_array_equal(read.outputs[0], OUTPUT)
    assert read.keypoints is not None
    np.testing.assert_array_equal(read.keypoints, np.ones((3, 5, 2)))
