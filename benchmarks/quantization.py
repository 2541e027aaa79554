"""INT8 from a float32 model, by ONNX Runtime's own tools: weights and activations in QDQ, the head in float.

The head is what decides about boxes and scores: the last convolutions before the output, and all that follows
them. Ranges are those that activations have with the given pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto

from streamfleet_worker.engine.onnx_runtime import onnx_runtime

_ENDS = "Conv"  # the operator before which the head begins


def quantize(source: Path, target: Path, pictures: Sequence[npt.NDArray[np.float32]]) -> None:
    """Write the INT8 model. `pictures`: inputs (1, 3, height, width) as the model takes them."""
    onnx_runtime()  # first, because it disables telemetry
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".float.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(str(prepared))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node {number}"
    onnx.save(model, str(prepared))
    quantize_static(
        str(prepared),
        str(target),
        _Pictures(model.graph.input[0].name, pictures),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not has_vnni(),
        nodes_to_exclude=sorted(head_of(model)),
    )
    prepared.unlink()


def head_of(model: ModelProto) -> set[str]:
    """The names of the nodes of the head. Pure."""
    makers: dict[str, NodeProto] = {name: node for node in model.graph.node for name in node.output}
    open_names = [output.name for output in model.graph.output]
    head: set[str] = set()
    while open_names:
        node = makers.get(open_names.pop())
        if node is None or node.name in head:
            continue
        head.add(node.name)
        if node.op_type != _ENDS:
            open_names += node.input
    return head


def has_vnni() -> bool:
    """Whether the CPU adds products of 8 bits without overflow; otherwise weights have 7 bits."""
    return any(name in Path("/proc/cpuinfo").read_text() for name in ("vnni", "asimddp"))


class _Pictures:
    """Gives each picture once, as a `CalibrationDataReader` does."""

    def __init__(self, name: str, pictures: Sequence[npt.NDArray[np.float32]]) -> None:
        self._left: Iterator[dict[str, Any]] = iter([{name: each} for each in pictures])

    def get_next(self) -> dict[str, Any] | None:
        """The next inputs; None at the end."""
        return next(self._left, None)
