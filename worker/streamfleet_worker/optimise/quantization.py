"""INT8 from a float32 model, by ONNX Runtime's own tools: weights and activations in QDQ, the head in float.

The head decides about boxes and scores: the last convolutions before the outputs, and all after them.
In INT8 it would lose every score without an error. Ranges are those of activations with given pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, version_converter

from streamfleet_worker.engine.onnx_runtime import onnx_runtime

_OPSET = 13  # the first with a scale for each channel
_ENDS = "Conv"  # the operator at which the head begins


def quantize(
    source: Path,
    target: Path,
    pictures: Iterator[dict[str, npt.NDArray[Any]]],
    *,
    full_range: bool,
    convolutions: int = 1,
    keep_stem: bool = False,
) -> None:
    """Write the INT8 model.

    `pictures`: the inputs of runs, by name.
    `full_range`: whether weights have 8 bits, for processors that add their products without overflow, or 7.
    `convolutions`: how many of them, from each output backwards, stay in float.
    `keep_stem`: whether the first convolutions stay in float, too.

    Raises: ValueError, if nothing can be quantized.
    """
    onnx_runtime()  # first, because it disables telemetry
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".float.onnx")
    try:
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = with_names(_with_axes(onnx.load(str(prepared))))
        onnx.save(model, str(prepared))
        kept = head_of(model, convolutions) | (stem_of(model) if keep_stem else set())
        if all(node.name in kept for node in model.graph.node if node.op_type == _ENDS):
            raise ValueError("expected convolutions before the head, got none")
        quantize_static(
            str(prepared),
            str(target),
            _Pictures(pictures),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not full_range,
            nodes_to_exclude=sorted(kept),
        )
    finally:
        prepared.unlink(missing_ok=True)


def with_names(model: ModelProto) -> ModelProto:
    """The same model, in which each node has a name."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node {number}"
    return model


def head_of(model: ModelProto, convolutions: int = 1) -> set[str]:
    """The names of the nodes of the head, with so many convolutions on the way back from each output."""
    makers: dict[str, NodeProto] = {name: node for node in model.graph.node for name in node.output}
    open_names = [(output.name, convolutions) for output in model.graph.output]
    most: dict[str, int] = {}  # convolutions that were left at a node
    while open_names:
        name, left = open_names.pop()
        node = makers.get(name)
        if node is None or most.get(node.name, -1) >= left:
            continue
        most[node.name] = left
        left -= node.op_type == _ENDS
        if left > 0:
            open_names += [(given, left) for given in node.input]
    return set(most)


def stem_of(model: ModelProto) -> set[str]:
    """The names of the first convolutions, and of the nodes before them."""
    users: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    open_names = [given.name for given in model.graph.input]
    stem: set[str] = set()
    while open_names:
        for node in users.get(open_names.pop(), []):
            if node.name not in stem:
                stem.add(node.name)
                if node.op_type != _ENDS:
                    open_names += node.output
    return stem


def _with_axes(model: ModelProto) -> ModelProto:
    """The model in an opset whose `DequantizeLinear` has a scale for each channel."""
    versions = {each.domain: each.version for each in model.opset_import}
    if versions.get("", _OPSET) >= _OPSET:
        return model
    return version_converter.convert_version(model, _OPSET)


class _Pictures:
    """Gives each picture once, as a `CalibrationDataReader` does."""

    def __init__(self, pictures: Iterator[dict[str, npt.NDArray[Any]]]) -> None:
        self._left = pictures

    def get_next(self) -> dict[str, Any] | None:
        """The next inputs; None at the end."""
        return next(self._left, None)
