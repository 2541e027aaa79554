"""Reads an ONNX file in one bounded pass over its bytes, and builds no objects that are not needed.

protobuf would build an object for each of two million empty nodes that fit into 4 MB; here they are counted.
Files that no regular export produces are refused: more nodes than any detector has, weights in other files,
tensors that claim to be larger than the file, recursive functions, operators of custom libraries. (S21)
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from streamfleet_core.models.foreign_format import advice_on
from streamfleet_core.models.onnx_graph import MAX_FILE, BadModel, Graph, Port

MAX_NODES = 50_000  # of all graphs; a function counts once per call
MAX_FIELDS = 1_000_000  # protobuf fields of all messages
MAX_DEPTH = 64  # nested messages; protobuf itself allows 100
MAX_CALLS = 50  # nested calls of functions
MAX_SPARSE = 2**24  # elements of all sparse tensors
MAX_METADATA = 4 * 1024**2  # bytes
_MAX_NAME = 1024  # bytes, of an operator, an input or an output

Content = bytes | mmap.mmap

# The messages of ONNX: field number → type, for fields that are messages themselves. "!" marks a field that
# may occur only once: protobuf would merge a second one into the first, and the result would be unchecked.
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph!", 8: "OperatorSet", 14: "Entry", 20: "Training", 25: "Function", 26: "Leaf"},
    "Graph": {
        1: "Node",
        5: "Tensor",
        11: "Value",
        12: "Value",
        13: "Value",
        14: "Annotation",
        15: "SparseTensor",
        16: "Entry",
    },
    "Node": {5: "Attribute", 9: "Entry", 10: "NodeConfiguration"},
    "Attribute": {
        5: "Tensor!",
        6: "Graph!",
        10: "Tensor",
        11: "Graph",
        14: "Type!",
        15: "Type",
        22: "SparseTensor!",
        23: "SparseTensor",
    },
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute", 12: "Value", 14: "Entry"},
    "Tensor": {3: "Leaf!", 13: "Entry", 16: "Entry"},
    "SparseTensor": {1: "Tensor!", 2: "Tensor!"},
    "Value": {2: "Type!", 4: "Entry"},
    "Type": {1: "TensorType!", 4: "Element!", 5: "MapType!", 7: "Leaf!", 8: "TensorType!", 9: "Element!"},
    "TensorType": {2: "Shape!"},
    "Element": {1: "Type!"},
    "MapType": {2: "Type!"},
    "Shape": {1: "Leaf"},
    "Annotation": {2: "Entry"},
    "Training": {1: "Graph!", 2: "Graph!", 3: "Entry", 4: "Entry"},
    "NodeConfiguration": {2: "Sharding"},
    "Sharding": {3: "Leaf", 4: "ShardedDim"},
    "ShardedDim": {2: "Leaf"},
    "OperatorSet": {},
    "Entry": {},
    "Leaf": {},
}

# The domains of ONNX Runtime's operators.
_ONNX = ("", "ai.onnx")
_DOMAINS = frozenset((*_ONNX, "ai.onnx.ml", "ai.onnx.preview", "com.microsoft"))

_LOOPS = ("Loop", "Scan")

_DATA_TYPES = (
    *("UNDEFINED", "FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL"),
    *("FLOAT16", "DOUBLE", "UINT32", "UINT64", "COMPLEX64", "COMPLEX128", "BFLOAT16"),
)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types; ONNX uses no groups

_Operator = tuple[str, str, str]  # domain, name, overload


class _Unreadable(Exception):
    """The bytes are not a protobuf message."""


class _Field(NamedTuple):  # the cheapest type to create: there is one for every field
    number: int
    wire: int
    value: int  # the value of a number; otherwise where the bytes begin
    end: int  # where the field ends


@dataclass(slots=True, kw_only=True)
class _Found:
    """The result of the pass."""

    ir_version: int = 0
    opset: int = 0
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    constants: set[str] = field(default_factory=set)  # names of the main graph's tensors
    metadata: dict[str, str] = field(default_factory=dict)
    metadata_size: int = 0
    nodes: int = 0  # of the main graph
    loops: bool = False
    functions: dict[_Operator, Counter[_Operator]] = field(default_factory=dict)


def read_file(path: Path) -> Graph:
    """Read an ONNX file without loading it into memory. It blocks. Raises: BadModel, OSError."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise BadModel(f"expected an ONNX file of at most {MAX_FILE} bytes, got {size}")
    if size == 0:
        return read_graph(b"")  # an empty file cannot be mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return read_graph(content)


def read_graph(content: Content) -> Graph:
    """Read the inputs, outputs and metadata of an ONNX file. Raises: BadModel."""
    advice = advice_on(content)
    if advice:
        raise BadModel(f"expected an ONNX file, got {advice}")
    reader = _Reader(content)
    try:
        found = reader.read()
    except _Unreadable as exc:
        raise BadModel(f"expected an ONNX file, got something else or an incomplete file: {exc}") from exc
    if found.ir_version < 1 or not found.nodes or not found.outputs:
        raise BadModel("expected an ONNX file with a graph, got none")
    inputs = tuple(port for port in found.inputs if port.name not in found.constants)
    return Graph(
        inputs=inputs,
        outputs=tuple(found.outputs),
        metadata=found.metadata,
        ir_version=found.ir_version,
        opset=found.opset,
        loops=found.loops,
    )


class _Reader:
    """One pass over one file."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._found = _Found()
        self._fields = 0
        self._nodes = 0
        self._sparse = 0  # elements of all sparse tensors, as dense ones
        self._main: Counter[_Operator] = Counter()

    def read(self) -> _Found:
        """Read the whole file. Raises: BadModel, _Unreadable."""
        for each in self._walk("Model", 0, len(self._content), 0, self._main):
            match each.number, each.wire:
                case 1, 0:
                    self._found.ir_version = each.value
                case 8, 2:
                    self._opset(each)
                case 14, 2:
                    self._metadata(each)
                case 7, 2:
                    self._graph(each)
                case 25, 2:
                    self._function(each)
        self._check_functions()
        return self._found

    # all messages -----------------------------------------------------------------------------------------

    def _walk(
        self, kind: str, start: int, end: int, depth: int, calls: Counter[_Operator]
    ) -> Iterator[_Field]:
        """Yield the fields of a message. A field is yielded after everything below it was checked."""
        if depth > MAX_DEPTH:
            raise BadModel(f"expected at most {MAX_DEPTH} levels of nested graphs, got more")
        if kind == "Node":
            self._count_node()
        messages, once = MESSAGES[kind], set()
        for each in self._split(start, end):
            below = messages.get(each.number)
            if below is not None and each.wire == _BYTES:
                if below[-1] == "!":
                    if each.number in once:
                        raise _Unreadable(f"field {each.number} of a {kind} occurs twice")
                    once.add(each.number)
                    below = below[:-1]
                self._check(below, each.value, each.end, depth + 1, calls)
            yield each

    def _check(self, kind: str, start: int, end: int, depth: int, calls: Counter[_Operator]) -> None:
        """Check a message whose content is not needed otherwise."""
        if kind == "Function":
            return  # read separately: its nodes count for each of its calls
        if kind == "Tensor":
            self._tensor(start, end, depth, calls)
        elif kind == "SparseTensor":
            self._sparse_tensor(start, end, depth, calls)
        elif kind == "Node":
            self._node(start, end, depth, calls)
        else:
            for _ in self._walk(kind, start, end, depth, calls):
                pass

    def _node(self, start: int, end: int, depth: int, calls: Counter[_Operator]) -> None:
        name = domain = overload = ""
        for each in self._walk("Node", start, end, depth, calls):
            if each.wire == _BYTES:
                if each.number == 4:
                    name = self._text(each)
                elif each.number == 7:
                    domain = self._text(each)
                elif each.number == 8:
                    overload = self._text(each)
        calls[domain, name, overload] += 1
        self._found.loops |= name in _LOOPS

    def _tensor(self, start: int, end: int, depth: int, calls: Counter[_Operator]) -> None:
        """Check that the tensor holds as much data as it claims. An element takes at least a quarter byte."""
        elements, held, name, outside = 1, 0, "", False
        for each in self._walk("Tensor", start, end, depth, calls):
            if each.number == 1:
                for size in self._numbers(each):
                    elements = min(elements * size, 2**62)
            elif each.number == 8 and each.wire == _BYTES:
                name = self._text(each)
            elif each.number == 13 or (each.number == 14 and each.value == 1):
                outside = True
            elif each.number in (4, 5, 6, 7, 9, 10, 11):
                held += each.end - each.value if each.wire == _BYTES else 1
                held += each.number == 6  # a string may be empty
        if outside:
            raise BadModel(
                f"expected a model in one file, its tensor {name!r} is in another one (external data): "
                "export it as one file, as torch.onnx.export(…, external_data=False) does"
            )
        if elements > 4 * held:
            raise BadModel(
                f"expected all of the tensor {name!r} in the file, it claims {elements} elements "
                f"and holds {held} bytes"
            )

    def _sparse_tensor(self, start: int, end: int, depth: int, calls: Counter[_Operator]) -> None:
        """Count its elements as those of a dense tensor, which it becomes when it is loaded."""
        elements = 1
        for each in self._walk("SparseTensor", start, end, depth, calls):
            if each.number == 3:
                for size in self._numbers(each):
                    elements = min(elements * size, 2**62)
        self._sparse += elements
        if self._sparse > MAX_SPARSE:
            raise BadModel(f"expected sparse tensors of at most {MAX_SPARSE} elements, got {self._sparse}")

    def _count_node(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise BadModel(f"expected at most {MAX_NODES} nodes, got more")

    def _count_field(self) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise BadModel(f"expected at most {MAX_FIELDS} fields, got more")

    # fields at fixed places -------------------------------------------------------------------------------

    def _graph(self, graph: _Field) -> None:
        """Read the main graph, which was checked already: its ports, and the names of its tensors."""
        for each in self._split(graph.value, graph.end):
            if each.wire != _BYTES:
                continue
            if each.number == 1:
                self._found.nodes += 1
            elif each.number == 5:
                self._found.constants.add(self._name_of(each, 8))
            elif each.number == 11:
                self._found.inputs.append(self._port(each))
            elif each.number == 12:
                self._found.outputs.append(self._port(each))

    def _name_of(self, message: _Field, number: int) -> str:
        for each in self._split(message.value, message.end):
            if each.number == number and each.wire == _BYTES:
                return self._text(each)
        return ""

    def _port(self, value: _Field) -> Port:
        name = self._name_of(value, 1)
        tensor = self._only(self._only(value, 2), 1)
        if tensor is None:
            raise BadModel(f"expected tensors as inputs and outputs, {name!r} is something else")
        dtype, dims = 0, []
        for each in self._split(tensor.value, tensor.end):
            if each.number == 1:
                dtype = each.value
            elif each.number == 2 and each.wire == _BYTES:
                shape = self._split(each.value, each.end)
                dims = [self._dimension(one) for one in shape if one.number == 1 and one.wire == _BYTES]
        return Port(name, _DATA_TYPES[dtype] if dtype < len(_DATA_TYPES) else f"type {dtype}", tuple(dims))

    def _only(self, message: _Field | None, number: int) -> _Field | None:
        if message is None:
            return None
        below = self._split(message.value, message.end)
        return next((each for each in below if each.number == number and each.wire == _BYTES), None)

    def _dimension(self, dimension: _Field) -> int | None:
        size = 0
        for each in self._split(dimension.value, dimension.end):
            if each.number == 1 and each.wire == _VARINT:
                size = each.value
            elif each.number == 2:
                size = 0
        return size if 0 < size < 2**63 else None

    def _opset(self, opset: _Field) -> None:
        domain, version = "", 0
        for each in self._split(opset.value, opset.end):
            if each.number == 1 and each.wire == _BYTES:
                domain = self._text(each)
            elif each.number == 2 and each.wire == _VARINT:
                version = each.value
        if domain in _ONNX:
            self._found.opset = version

    def _metadata(self, entry: _Field) -> None:
        self._found.metadata_size += entry.end - entry.value
        if self._found.metadata_size > MAX_METADATA:
            raise BadModel(f"expected metadata of at most {MAX_METADATA} bytes, got more")
        key = value = ""
        for each in self._split(entry.value, entry.end):
            if each.number == 1 and each.wire == _BYTES:
                key = self._text(each, "the key of its metadata", MAX_METADATA)
            elif each.number == 2 and each.wire == _BYTES:
                value = self._text(each, f"its metadata {key!r}", MAX_METADATA)
        self._found.metadata[key] = value

    # functions --------------------------------------------------------------------------------------------

    def _function(self, function: _Field) -> None:
        name = domain = overload = ""
        calls: Counter[_Operator] = Counter()
        for each in self._walk("Function", function.value, function.end, 1, calls):
            if each.wire == _BYTES:
                if each.number == 1:
                    name = self._text(each)
                elif each.number == 10:
                    domain = self._text(each)
                elif each.number == 13:
                    overload = self._text(each)
        self._found.functions[domain, name, overload] = calls

    def _check_functions(self) -> None:
        functions = self._found.functions
        known: dict[_Operator, int] = {}

        def nodes_of(calls: Counter[_Operator], depth: int) -> int:
            if depth > MAX_CALLS:
                raise BadModel(
                    f"expected calls of functions at most {MAX_CALLS} deep, got recursive or deeper ones"
                )
            total = 0
            for operator, times in calls.items():
                if operator not in functions:
                    _check_domain(operator)
                    total += times
                    continue
                if operator not in known:
                    known[operator] = nodes_of(functions[operator], depth + 1)
                total += times * known[operator]
            return total

        for calls in (self._main, *functions.values()):
            count = nodes_of(calls, 0)
            if count > MAX_NODES:
                raise BadModel(
                    f"expected at most {MAX_NODES} nodes, got {count} with the calls of its functions"
                )

    # bytes ------------------------------------------------------------------------------------------------

    def _split(self, start: int, end: int) -> Iterator[_Field]:
        """Split a message into its fields. Raises: BadModel, _Unreadable."""
        content, at = self._content, start
        while at < end:
            self._count_field()
            tag, at = _varint(content, at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, stop = _varint(content, at, end)
            elif wire == _BYTES:
                length, value = _varint(content, at, end)
                stop = value + length
            elif wire in (_FIXED64, _FIXED32):
                value, stop = at, at + (8 if wire == _FIXED64 else 4)
            else:
                raise _Unreadable(f"a field of wire type {wire} at byte {at}")
            if not number or stop > end:
                raise _Unreadable(f"a field at byte {at} ends after its message")
            yield _Field(number, wire, value, stop)
            at = stop

    def _numbers(self, each: _Field) -> Iterator[int]:
        """Yield the numbers of a field that may be packed."""
        if each.wire == _VARINT:
            yield each.value
        elif each.wire == _BYTES:
            at = each.value
            while at < each.end:
                self._count_field()
                number, at = _varint(self._content, at, each.end)
                yield number

    def _text(self, each: _Field, what: str = "a name", limit: int = _MAX_NAME) -> str:
        if each.end - each.value > limit:
            raise BadModel(f"expected {what} of at most {limit} bytes, got {each.end - each.value}")
        try:
            return self._content[each.value : each.end].decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BadModel(f"expected {what} in UTF-8, got {exc.object[exc.start : exc.end]!r}") from exc


def _check_domain(operator: _Operator) -> None:
    domain, name, _ = operator
    if domain not in _DOMAINS:
        raise BadModel(
            f"expected operators of ONNX, got {domain}::{name} of a custom library: export it without it"
        )


def _varint(content: Content, at: int, end: int) -> tuple[int, int]:
    """Decode the number at a position, and return where it ends."""
    number = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise _Unreadable(f"a number at byte {at} does not end")
