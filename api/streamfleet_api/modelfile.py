"""What is in a model file, read without running it and without opening any other file. `graph` judges it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from streamfleet_broker.models.graph import MAX_FILE, BadModel, Graph, Port, manifest_of
from streamfleet_broker.protocol.values import Family, Manifest, Weights

__all__ = ["BadModel", "inspect"]


def inspect(
    path: Path, sha256: str, *, family: Family | None = None, labels: tuple[str, ...] | None = None
) -> Manifest:
    """The manifest of the model in a file. It blocks. Raises: BadModel, OSError."""
    return manifest_of(read_graph(path), Weights(sha256, path.stat().st_size), family, labels)


def read_graph(path: Path) -> Graph:
    """The inputs, outputs and metadata of an ONNX file. Raises: BadModel, OSError."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise BadModel(f"expected an ONNX file of at most {MAX_FILE} bytes, it has {size}")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as exc:
        raise BadModel(
            "expected an ONNX file, it cannot be read as one (cut off, or something else)"
        ) from exc
    if model.ir_version < 1 or not model.graph.node or not model.graph.output:
        raise BadModel("expected an ONNX file with a graph, it holds none")
    _refuse_external_data(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    return Graph(
        tuple(_port(value) for value in model.graph.input if value.name not in constants),
        tuple(_port(value) for value in model.graph.output),
        {entry.key: entry.value for entry in model.metadata_props},
    )


def _refuse_external_data(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BadModel(
                f"expected a model in one file, its tensor {tensor.name!r} lies in another (external data): "
                "export it anew without external data"
            )


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a message: initializers, attributes, nested graphs, functions, sparse ones."""
    waiting: list[Message] = [message]
    while waiting:
        current = waiting.pop()
        if isinstance(current, onnx.TensorProto):
            yield current
            continue
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)


def _port(value: onnx.ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        raise BadModel(f"expected a tensor, {value.name!r} is a {value.type.WhichOneof('value')}")
    tensor = value.type.tensor_type
    dims = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim
    ]
    return Port(value.name, _dtype(tensor.elem_type), tuple(dims))


def _dtype(number: int) -> str:
    known = onnx.TensorProto.DataType
    return known.Name(number) if number in known.values() else f"type {number}"
