"""Derives a model's manifest from its graph: family and task, the size of its input, its classes. Pure.

It opens no files: the caller passes the content. Errors say what was expected and what the file has.
"""

from __future__ import annotations

import re

from streamfleet_core.models.class_names import check_labels, labels_in
from streamfleet_core.models.family_recognition import SIZES_INPUT, recognize
from streamfleet_core.models.onnx_graph import MAX_IR_VERSION, MAX_OPSET, BadModel, Graph, Port
from streamfleet_core.protocol.limits import MAX_INPUT_SIDE, MAX_TENSOR_NAME
from streamfleet_core.protocol.values import Family, Manifest, Weights

_INPUT_TYPES = ("FLOAT", "FLOAT16", "UINT8")


def manifest_of(
    graph: Graph, weights: Weights, family: Family | None, labels: tuple[str, ...] | None
) -> Manifest:
    """Derive the manifest that a device needs to run this graph. Raises: BadModel."""
    labels = labels or labels_in(graph.metadata)
    height, width = _input_size(graph)
    layout = recognize(graph, family, labels, height=height, width=width)
    labels = check_labels(labels, layout.classes, layout.outputs[0])
    _check_versions(graph)
    names = tuple(port.name for port in layout.outputs)
    if not all(0 < len(name) <= MAX_TENSOR_NAME for name in names):
        raise BadModel(f"expected names of outputs of 1 to {MAX_TENSOR_NAME} characters")
    return Manifest(
        family=layout.family,
        labels=labels,
        input_width=width,
        input_height=height,
        weights=weights,
        task=layout.task,
        outputs=() if names == (graph.outputs[0].name,) else names,
        keypoints=layout.keypoints,
    )


def _check_versions(graph: Graph) -> None:
    if graph.ir_version > MAX_IR_VERSION:
        raise BadModel(
            f"expected an IR version of at most {MAX_IR_VERSION}, the highest that ONNX Runtime loads, got "
            f"{graph.ir_version}: export it by an earlier onnx, or with a lower opset"
        )
    if graph.opset > MAX_OPSET:
        raise BadModel(
            f"expected an opset of at most {MAX_OPSET}, the highest that ONNX Runtime runs, got "
            f"{graph.opset}: export it with a lower one, as opset=17"
        )


def _input_size(graph: Graph) -> tuple[int, int]:
    """(height, width) in pixels."""
    port = _picture(graph)
    if port.dtype not in _INPUT_TYPES or len(port.shape) != 4:
        types = ", ".join(_INPUT_TYPES[:-1]) + f" or {_INPUT_TYPES[-1]}"
        raise BadModel(f"expected an input {types} (1, 3, height, width), got {port}")
    batch, channels, height, width = port.shape
    if batch not in (1, None):
        raise BadModel(
            f"expected an input FLOAT (1, 3, height, width), got {port}: export it with batch=1, or dynamic"
        )
    if channels not in (3, None):
        layout = " (channels last: export it with channels first)" if width in (1, 3) else ""
        raise BadModel(f"expected an input FLOAT (1, 3, height, width), got {port}{layout}")
    if height is None or width is None:
        height, width = _size_in(graph.metadata, port)
    if height > MAX_INPUT_SIDE or width > MAX_INPUT_SIDE:
        raise BadModel(f"expected an input of at most {MAX_INPUT_SIDE} pixels a side, got {port}")
    return height, width


def _picture(graph: Graph) -> Port:
    """The input for the picture. The only other one that is allowed is for its size."""
    pictures = [port for port in graph.inputs if port.name != SIZES_INPUT]
    if len(pictures) != 1:
        names = ", ".join(map(str, graph.inputs)) or "none"
        raise BadModel(f"expected one input, got {len(graph.inputs)}: {names}")
    return pictures[0]


def _size_in(metadata: dict[str, str], port: Port) -> tuple[int, int]:
    sides = re.fullmatch(r"\s*\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]\s*", metadata.get("imgsz", ""))
    if sides is None or not (int(sides[1]) and int(sides[2])):
        raise BadModel(
            f"expected an input of a fixed size, or the metadata 'imgsz' as [height, width]; got {port}: "
            "export it with a fixed size"
        )
    return int(sides[1]), int(sides[2])
