"""FP16 from a float32 model: weights and activations of what lies before the head, which stays in float.

The head computes coordinates in pixels, for which FP16 is too coarse: above 512 its numbers are half a pixel
apart. Inputs and outputs keep their types. ONNX Runtime's own tool rounds also between the nodes that it
leaves in float, and names some of its casts twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    checker,
    helper,
    numpy_helper,
    shape_inference,
)

from streamfleet_worker.optimise.quantization import head_of, with_names

_ALWAYS_FLOAT = {"Resize": (1, 2)}  # inputs that are float32 whatever the others are: a region, the scales
_WITH_GRAPHS = ("If", "Loop", "Scan")


def halve(source: Path, target: Path) -> None:
    """Write the FP16 model. Raises: ValueError, if the model has no weights of float32 before its head."""
    model = with_names(onnx.load(str(source)))
    _Halver(model, head_of(model)).apply()
    checker.check_model(model, full_check=True)
    onnx.save(model, str(target))


class _Halver:
    """Rewrites the nodes of a model in their order."""

    def __init__(self, model: ModelProto, head: Collection[str]) -> None:
        self._graph: GraphProto = model.graph
        self._head = head
        self._types = _types_of(model)
        self._constants = {each.name: each for each in model.graph.initializer}
        self._halves: set[str] = set()  # what nodes before the head put out, now in FP16
        self._casts: dict[tuple[str, int], str] = {}  # by value and type
        self._nodes: list[NodeProto] = []

    def apply(self) -> None:
        """Change the graph. Raises: ValueError."""
        for node in self._graph.node:
            if node.op_type in _WITH_GRAPHS:
                raise ValueError(f"expected a graph without branches, got {node.op_type}")
            (self._keep if node.name in self._head else self._halve)(node)
            self._nodes.append(node)
        made = {name for name, kind in self._casts if kind == TensorProto.FLOAT16 and name in self._constants}
        if not made:
            raise ValueError("expected weights of float32 before the head, got none")
        used = {name for node in self._nodes for name in node.input}
        constants = [each for each in self._constants.values() if each.name in used]
        for field, values in (("node", self._nodes), ("initializer", constants), ("value_info", [])):
            del getattr(self._graph, field)[:]
            getattr(self._graph, field).extend(values)

    def _keep(self, node: NodeProto) -> None:
        for place, name in enumerate(node.input):
            if name in self._halves:
                node.input[place] = self._cast(name, TensorProto.FLOAT)

    def _halve(self, node: NodeProto) -> None:
        always_float = _ALWAYS_FLOAT.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if place in always_float and name in self._halves:
                node.input[place] = self._cast(name, TensorProto.FLOAT)
            elif place not in always_float and self._is_float(name) and name not in self._halves:
                node.input[place] = self._cast(name, TensorProto.FLOAT16)
        for name in node.output:
            if self._is_float(name):
                self._halves.add(name)
        _halve_attributes(node)

    def _is_float(self, name: str) -> bool:
        """Whether a value was float32 in the model. Raises: ValueError."""
        if name and name not in self._types:
            raise ValueError(f"expected a graph whose types follow from its operators, not so that of {name}")
        return bool(name) and self._types[name] == TensorProto.FLOAT

    def _cast(self, name: str, kind: int) -> str:
        """The name of the value in this type."""
        key = (name, kind)
        if key not in self._casts:
            made = self._casts[key] = f"{name} as {TensorProto.DataType.Name(kind)}"
            if name in self._constants:
                numbers = numpy_helper.to_array(self._constants[name])
                self._constants[made] = numpy_helper.from_array(numbers.astype(np.float16), made)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [made], name=made, to=kind))
        return self._casts[key]


def _types_of(model: ModelProto) -> Mapping[str, int]:
    """The type of each value. Raises: onnx's InferenceError."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {each.name: each.type.tensor_type.elem_type for each in values}
    return {**types, **{each.name: each.data_type for each in graph.initializer}}


def _halve_attributes(node: NodeProto) -> None:
    """Let a node that makes float32 numbers make FP16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            numbers = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(numbers, attribute.t.name))
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            numbers = np.array(
                attribute.f if attribute.name == "value_float" else attribute.floats, np.float16
            )
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(numbers)))
