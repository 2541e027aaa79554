"""Small ONNX models of each task that see the same in every picture, described as Ultralytics does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64  # pixels, of the square input
GRID = 16  # of the prototypes of masks
NAMES = "{0: 'bolt', 1: 'nut'}"
KEYPOINTS = ("head", "tip")

# The box of each object in the input: its centre, its width and its height.
FIRST, SECOND = (32.0, 32.0, 32.0, 16.0), (12.0, 22.0, 8.0, 8.0)
ANGLE = np.pi / 6  # of the first oriented box, clockwise
POINTS = ((20.0, 28.0, 0.9), (44.0, 36.0, 0.6))  # of the first object: x, y, confidence
CLASSES = (0.2, 0.8)


def write_segmenting_model(path: Path) -> None:
    """Finds a bolt, whose mask is the left half of its box, and a nut, whose mask is all of it."""
    boxes = [[*FIRST, 0.9, 0.0, 1.0, 0.0], [*SECOND, 0.0, 0.7, 0.0, 1.0]]
    prototypes = np.full((1, 2, GRID, GRID), 5.0)
    prototypes[0, 0, :, GRID // 2 :] = -5
    _write(path, [_columns(boxes), prototypes], task="segment", names=NAMES)


def write_oriented_model(path: Path) -> None:
    """Finds a bolt that is turned, and a nut that is not."""
    boxes = [[*FIRST, 0.9, 0.0, ANGLE], [*SECOND, 0.0, 0.7, 0.0]]
    _write(path, [_columns(boxes)], task="obb", names=NAMES)


def write_pose_model(path: Path) -> None:
    """Finds a bolt with its two key points, and another one with the same."""
    points = np.ravel(POINTS).tolist()
    boxes = [[*FIRST, 0.9, *points], [*SECOND, 0.7, *points]]
    said = {"kpt_shape": f"[{len(KEYPOINTS)}, 3]", "kpt_names": f"{{0: {[*KEYPOINTS]}}}"}
    _write(path, [_columns(boxes)], task="pose", names="{0: 'bolt'}", **said)


def write_classifying_model(path: Path) -> None:
    """Takes every picture for one of a nut."""
    _write(path, [np.array([CLASSES])], task="classify", names=NAMES)


def _columns(boxes: list[list[float]]) -> np.ndarray:
    """Boxes as an export has them, with one in each column."""
    return np.array(boxes).T[None]


def _write(path: Path, outputs: list[np.ndarray], **metadata: str) -> None:
    ports, nodes = [], [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    constants = [numpy_helper.from_array(np.array(0, np.float32), "zero")]
    for number, output in enumerate(outputs):
        constants.append(numpy_helper.from_array(output.astype(np.float32), f"constant{number}"))
        nodes.append(helper.make_node("Add", [f"constant{number}", "nothing"], [f"output{number}"]))
        ports.append(helper.make_tensor_value_info(f"output{number}", TensorProto.FLOAT, output.shape))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    graph = helper.make_graph(nodes, "test", [image], ports, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"stride": "32", "imgsz": f"[{SIDE}, {SIDE}]", "batch": "1", **metadata})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
