"""The demo: cameras over generated conveyor belts, and models for generated video.

`conveyor_model` was trained on such belts; see `demo/README.md` in the repository. `demo_model` needs no
training: it finds the squares of pure red, green and blue of the test pattern.

images (1, 3, 320, 320), RGB 0..1
  ─▶ each channel minus the larger of the other two ─▶ its mean m over 32 x 32 pixels, every 4 ─▶ 2 m - 1
  ─▶ output0 (1, 7, 5329): centre x, centre y, 32, 32, and the scores of red, green and blue
"""

from __future__ import annotations

from importlib import resources

import onnx
from onnx import TensorProto, helper

MODEL_ID = "conveyor/1"
CAMERAS = {f"belt-{number}": f"scene://conveyor/{number}" for number in (1, 2, 3, 4)}  # by pipeline
WORKERS = 2  # devices of the demo, so that it is a fleet

LABELS = ("red", "green", "blue")
SIDE = 320  # pixels of the square input
BOX = 32  # pixels of a side of every box
STEP = 4  # pixels from one window to the next

_PER_SIDE = (SIDE - BOX) // STEP + 1
_COUNT = _PER_SIDE**2


def conveyor_model() -> bytes:
    """The ONNX file of the detector of bolts, nuts and washers."""
    return resources.files("streamfleet_api.local").joinpath("conveyor.onnx").read_bytes()


def demo_model() -> bytes:
    """The ONNX file of the square detector. It is deterministic; its metadata is as Ultralytics writes it."""
    graph = helper.make_graph(
        [*_scores(), *_boxes(), helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1)],
        "streamfleet-demo",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 4 + len(LABELS), _COUNT])],
        _constants(),
    )
    model = helper.make_model(
        graph, producer_name="streamfleet", opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    names = ", ".join(f"{index}: {label!r}" for index, label in enumerate(LABELS))
    properties = {"task": "detect", "names": f"{{{names}}}", "stride": "32", "imgsz": f"[{SIDE}, {SIDE}]"}
    helper.set_model_props(model, properties)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _scores() -> list[onnx.NodeProto]:
    others = {"red": ("green", "blue"), "green": ("red", "blue"), "blue": ("red", "green")}
    nodes = [helper.make_node("Split", ["images"], list(LABELS), axis=1)]
    for label in LABELS:
        nodes.append(helper.make_node("Max", list(others[label]), [f"not_{label}"]))
        nodes.append(helper.make_node("Sub", [label, f"not_{label}"], [f"pure_{label}"]))
    window = BOX // STEP
    return [
        *nodes,
        helper.make_node("Concat", [f"pure_{label}" for label in LABELS], ["pure"], axis=1),
        helper.make_node("AveragePool", ["pure"], ["cells"], kernel_shape=[STEP, STEP], strides=[STEP, STEP]),
        helper.make_node(
            "AveragePool", ["cells"], ["windows"], kernel_shape=[window, window], strides=[1, 1]
        ),
        # Score a window with half a square 0: a box that overlaps too little to be merged must not appear.
        helper.make_node("Mul", ["windows", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["surplus"]),
        helper.make_node("Clip", ["surplus", "zero", "one"], ["clipped"]),
        helper.make_node("Reshape", ["clipped", "flat_scores"], ["scores"]),
    ]


def _boxes() -> list[onnx.NodeProto]:
    """The boxes, expanded from one row and one column of centres, so that the file stays small."""
    sources = {"centre_x": "columns", "centre_y": "rows", "size": "side"}
    nodes = []
    for name, source in sources.items():
        nodes.append(helper.make_node("Expand", [source, "plane"], [f"{name}_plane"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_plane", "flat"], [name]))
    return [*nodes, helper.make_node("Concat", ["centre_x", "centre_y", "size", "size"], ["boxes"], axis=1)]


def _constants() -> list[onnx.TensorProto]:
    centres = [float(BOX // 2 + STEP * index) for index in range(_PER_SIDE)]
    return [
        helper.make_tensor("columns", TensorProto.FLOAT, [1, 1, 1, _PER_SIDE], centres),
        helper.make_tensor("rows", TensorProto.FLOAT, [1, 1, _PER_SIDE, 1], centres),
        helper.make_tensor("side", TensorProto.FLOAT, [1, 1, 1, 1], [float(BOX)]),
        helper.make_tensor("plane", TensorProto.INT64, [4], [1, 1, _PER_SIDE, _PER_SIDE]),
        helper.make_tensor("flat", TensorProto.INT64, [3], [1, 1, _COUNT]),
        helper.make_tensor("flat_scores", TensorProto.INT64, [3], [1, len(LABELS), _COUNT]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
    ]
