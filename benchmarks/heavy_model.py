"""A stand-in for a detector of YOLOv8n's size, with random weights: 8.7 GFLOPs for 640x640 pixels.

Only its cost is real. It is a chain of convolutions with SiLU, whose widths and strides are those of YOLOv8n,
and three heads for grids of 8, 16 and 32 pixels: (1, 4 + 80, 8400). Constants outweigh the output of the
heads, so that each frame has the same eight detections, and postprocessing and messages cost as usual.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIDE = 640  # pixels, of the square input
CLASSES = 80
STRIDES = (8, 16, 32)  # pixels, of the three grids
DETECTIONS = 8
GFLOPS = 8.7  # two operations for each multiplication and addition

_WIDTHS = (16, 32, 64, 128, 256)  # channels; each stage halves the sides
_LAYERS = 4  # further convolutions of each stage but the first
_KERNEL = 3
_GAIN = 2.8  # keeps the variance through SiLU
_QUIET = 0.1  # standard deviation of the heads' weights: less than the constants
_UNLIKELY, _CERTAIN = -8.0, 4.0  # before the sigmoid
_BOX = 96.0  # pixels, of a detection

_Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]


def heavy_model(*, batch: int | str = 1, side: int = SIDE) -> bytes:
    """The ONNX file. It is deterministic; its metadata is as Ultralytics writes it.

    `batch`: the first dimension; a name for one that is chosen with each run. `side`: pixels of the input,
    whose square the cost follows.
    """
    network = _Network(side)
    heads, tensor, channels = [], "images", 3
    for stage, width in enumerate(_WIDTHS):
        tensor, channels = network.convolve(tensor, channels, width, stride=2), width
        for _ in range(_LAYERS if stage else 0):
            tensor = network.convolve(tensor, channels, width)
        if 2 ** (stage + 1) in STRIDES:
            heads.append(network.head(tensor, channels))
    network.join(heads)
    graph = helper.make_graph(
        network.nodes,
        "stand-in",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, 4 + CLASSES, _points(side)])],
        [numpy_helper.from_array(array, name) for name, array in network.constants.items()],
    )
    model = helper.make_model(
        graph, producer_name="streamfleet", opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    names = ", ".join(f"{index}: 'class {index}'" for index in range(CLASSES))
    properties = {"task": "detect", "names": f"{{{names}}}", "stride": "32", "imgsz": f"[{side}, {side}]"}
    helper.set_model_props(model, properties)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Network:
    """The nodes and constants of the graph, as far as it is made."""

    def __init__(self, side: int) -> None:
        self._side = side
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, _Array] = {}
        self._random = np.random.default_rng(0)
        self._numbers = itertools.count()

    def convolve(self, tensor: str, channels: int, width: int, *, stride: int = 1) -> str:
        """Add a convolution with SiLU, and return its output."""
        deviation = math.sqrt(_GAIN / (channels * _KERNEL**2))
        made = self._convolution(
            tensor, (width, channels, _KERNEL, _KERNEL), deviation, strides=[stride] * 2, pads=[1] * 4
        )
        return self._add("Mul", [made, self._add("Sigmoid", [made])])

    def head(self, tensor: str, channels: int) -> str:
        """Add a head, and return its output (batch, 4 + classes, points of its grid)."""
        made = self._convolution(tensor, (4 + CLASSES, channels, 1, 1), _QUIET / math.sqrt(channels))
        return self._add("Reshape", [made, self._constant(np.array([0, 4 + CLASSES, -1], np.int64))])

    def join(self, heads: list[str]) -> None:
        """Join the heads, and add the constants."""
        flat = self._add("Concat", heads, axis=2)
        parts = self._constant(np.array([4, CLASSES], np.int64))
        self.nodes.append(helper.make_node("Split", [flat, parts], ["offsets", "logits"], axis=1))
        boxes = self._add("Add", ["offsets", self._constant(_boxes(self._side))])
        scores = self._add("Sigmoid", [self._add("Add", ["logits", self._constant(_biases(self._side))])])
        self.nodes.append(helper.make_node("Concat", [boxes, scores], ["output0"], axis=1))

    def _convolution(self, tensor: str, shape: tuple[int, ...], deviation: float, **more: Any) -> str:
        weights = self._random.normal(0, deviation, shape).astype(np.float32)
        return self._add("Conv", [tensor, self._constant(weights)], **more)

    def _constant(self, array: _Array) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = array
        return name

    def _add(self, operator: str, inputs: list[str], **more: Any) -> str:
        output = f"tensor{next(self._numbers)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **more))
        return output


def _points(side: int) -> int:
    return sum((side // stride) ** 2 for stride in STRIDES)


def _boxes(side: int) -> npt.NDArray[np.float32]:
    """(1, 4, points): the centre of each point, and the size of a detection, in pixels."""
    centres = [
        (np.mgrid[: side // stride, : side // stride][::-1].reshape(2, -1) + 0.5) * stride
        for stride in STRIDES
    ]
    where = np.concatenate(centres, axis=1)
    return np.concatenate([where, np.full_like(where, _BOX)])[None].astype(np.float32)


def _biases(side: int) -> npt.NDArray[np.float32]:
    """(1, classes, points): unlikely, except for points of the middle grid that are far from each other."""
    biases = np.full((1, CLASSES, _points(side)), _UNLIKELY, np.float32)
    first, across = (side // STRIDES[0]) ** 2, side // STRIDES[1]
    for number in range(DETECTIONS):
        row, column = across // 3 + across // 3 * (number // 4), 5 + 10 * (number % 4)
        biases[0, number, first + row * across + column] = _CERTAIN
    return biases
