"""An ONNX file is read within bounds: what it says is what `onnx` reads, and what may do harm is refused."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from onnx import TensorProto, helper

from streamfleet_api.local.demo import conveyor_model, demo_model
from streamfleet_core.models.foreign_format import advice_on
from streamfleet_core.models.onnx_file import (
    MAX_DEPTH,
    MAX_METADATA,
    MAX_NODES,
    MESSAGES,
    read_file,
    read_graph,
)
from streamfleet_core.models.onnx_graph import MAX_IR_VERSION, MAX_OPSET, BadModel

MODEL = demo_model()


def message(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds a message or a text."""
    length, written = len(content), b""
    while length > 127:
        written += bytes([length & 127 | 128])
        length >>= 7
    return varint(number << 3 | 2) + written + bytes([length]) + content


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def changed(change: object) -> bytes:
    """The demo's model after a change."""
    model = onnx.load_from_string(MODEL)
    change(model)  # type: ignore[operator]
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("content", [MODEL, conveyor_model()])
def test_it_reads_what_onnx_reads(content: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(content)
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    graph = read_graph(content)

    assert graph == read_file(file)
    assert [port.name for port in graph.inputs] == [port.name for port in model.graph.input]
    assert [port.shape for port in graph.outputs] == [
        tuple(dim.dim_value for dim in port.type.tensor_type.shape.dim) for port in model.graph.output
    ]
    assert graph.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert (graph.ir_version, graph.opset) == (model.ir_version, model.opset_import[0].version)


def test_it_is_seen_whether_a_model_loops() -> None:
    def change(model: onnx.ModelProto) -> None:
        body = helper.make_graph([helper.make_node("Loop", ["x"], ["y"])], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))

    assert read_graph(changed(change)).loops
    assert not read_graph(MODEL).loops


def test_an_input_that_has_a_value_is_none_and_open_dimensions_are_open() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("one", TensorProto.FLOAT, []))
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -1

    (port,) = read_graph(changed(change)).inputs

    assert str(port) == "'images' FLOAT (?, 3, ?, 320)"


def test_every_message_of_onnx_is_known() -> None:
    """So that nothing hides in a field that was added since."""
    known = {"Leaf": None}
    waiting: list[tuple[str, Descriptor]] = [("Model", onnx.ModelProto.DESCRIPTOR)]
    seen = set()
    while waiting:
        kind, descriptor = waiting.pop()
        if (kind, descriptor.full_name) in seen:
            continue
        seen.add((kind, descriptor.full_name))
        below = {field.number: field for field in descriptor.fields if field.message_type}
        assert set(MESSAGES[kind]) == set(below), (kind, descriptor.full_name)
        for number, field in below.items():
            name = MESSAGES[kind][number]
            assert name.endswith("!") == (not field.is_repeated), (kind, field.name)
            if name.strip("!") not in known:
                waiting.append((name.strip("!"), field.message_type))
            else:
                assert not [one for one in field.message_type.fields if one.message_type]


# what is refused ------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """Graphs in nodes of graphs, so deep."""
    graph = b""
    for _ in range(depth):
        graph = message(1, message(5, message(6, graph)))
    return b"\x08\x08" + message(7, graph)


def nested_types(depth: int) -> bytes:
    """Sequences of sequences, so deep."""
    kind = b""
    for _ in range(depth):
        kind = message(4, message(1, kind))
    return b"\x08\x08" + message(7, message(13, message(2, kind)))


def with_functions(*functions: tuple[str, list[str]]) -> bytes:
    """A model with these functions, each calling others; the first is called."""

    def change(model: onnx.ModelProto) -> None:
        opset = [helper.make_opsetid("", 13)]
        for name, calls in functions:
            domains = ["" if called == "Identity" else "f" for called in calls]
            nodes = [
                helper.make_node(called, ["x"], ["y"], domain=domain)
                for called, domain in zip(calls, domains, strict=True)
            ]
            model.functions.append(helper.make_function("f", name, ["x"], ["y"], nodes, opset))
        model.graph.node.append(helper.make_node(functions[0][0], ["images"], ["z"], domain="f"))

    return changed(change)


def doubling(levels: int) -> bytes:
    """Functions of which each calls the next twice."""
    last = (str(levels), ["Identity"])
    return with_functions(*((str(level), [str(level + 1)] * 2) for level in range(levels)), last)


def claiming(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="vast", data_type=TensorProto.FLOAT, raw_data=b"\0" * 64)
    tensor.dims.extend([2**40, 2**40])


def of_texts(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="texts", data_type=TensorProto.STRING, dims=[2**30], string_data=[b""])


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[2**20, 2**20]).values.CopyFrom(
        onnx.TensorProto(name="thin", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"\0" * 4)
    )


def of_a_library(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shell", ["images"], ["z"], domain="evil.example"))


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.external_data.add(key="location", value="/etc/passwd")


BOMBS = {
    "empty nodes": (b"\x08\x08" + message(7, b"\x0a\x00" * 1_950_000), f"at most {MAX_NODES} nodes"),
    "empty values": (b"\x08\x08" + message(7, b"\x6a\x00" * 1_950_000), "at most 1000000 fields"),
    "empty texts": (b"\x08\x08" + message(7, message(5, b"\x32\x00" * 1_950_000)), "1000000 fields"),
    "graphs in graphs": (nested(30), f"at most {MAX_DEPTH} levels"),
    "graphs in graphs without end": (nested(5000), f"at most {MAX_DEPTH} levels"),
    "types in types": (nested_types(5000), f"at most {MAX_DEPTH} levels"),
    "a function that calls itself": (with_functions(("a", ["a"])), "got recursive or deeper ones"),
    "functions that call each other": (
        with_functions(("a", ["b"]), ("b", ["a"])),
        "got recursive or deeper ones",
    ),
    "functions that double": (doubling(20), "got 10485"),
    "a long line of functions": (
        with_functions(*((str(i), [str(i + 1)]) for i in range(5000)), ("5000", ["Identity"])),
        "functions at most 50 deep",
    ),
    "a tensor larger than the file": (changed(claiming), "'vast' in the file, it claims"),
    "a tensor of texts": (changed(of_texts), "'texts' in the file"),
    "a sparse tensor": (changed(sparse), "sparse tensors of at most 16777216 elements, got 1099511627776"),
    "an operator of a library": (changed(of_a_library), "operators of ONNX, got evil.example::Shell"),
    "data in another file": (changed(outside), "external data"),
    "metadata": (
        MODEL + message(14, message(1, b"k") + message(2, b"v" * MAX_METADATA)),
        "metadata of at most",
    ),
    "metadata that is no text": (
        MODEL + message(14, message(1, b"names") + message(2, b"{0: '\xff'}")),
        "its metadata 'names' in UTF-8, got b'\\xff'",
    ),
    "two graphs": (MODEL + message(7, b""), "field 7 of a Model occurs twice"),
    "a number without end": (b"\xff" * 100, "does not end"),
    "a length beyond the end": (b"\x08\x08\x3a\xff\xff\xff\xff\x7f", "ends after its message"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_may_do_harm_is_refused(name: str) -> None:
    content, reason = BOMBS[name]

    with pytest.raises(BadModel) as caught:
        read_graph(content)

    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_to_refuse_it_takes_no_memory() -> None:
    content, _ = BOMBS["empty nodes"]
    tracemalloc.start()
    try:
        with pytest.raises(BadModel):
            read_graph(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1024**2


def test_what_honest_exports_have_is_let_in() -> None:
    assert read_graph(doubling(10)).outputs
    with pytest.raises(BadModel, match="with a graph, got none"):  # but for an output
        read_graph(nested(15))


@pytest.mark.parametrize("cut", range(0, len(MODEL), 97))
def test_a_file_that_is_cut_off_is_refused(cut: int) -> None:
    try:
        whole = read_graph(MODEL[:cut])
    except BadModel:
        return
    assert whole.outputs  # only what stands behind the graph is missing


# what is taken for a model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"PK\x03\x04" + b"\0" * 26 + b"yolo11n/data.pkl", "a PyTorch file: export it: yolo export"),
        (
            b"PK\x03\x04" + b"\0" * 26 + b"x/data.pkl" + b"x/code/__torch__.py",
            "a TorchScript file: export the",
        ),
        (b"PK\x03\x04" + b"\0" * 26 + b"best.onnx", "an .onnx file in it: unpack it"),
        (b"PK\x03\x04" + b"\0" * 26 + b"readme", "without an .onnx file in its list"),
        (b"\x80\x02}q\x00", "a PyTorch file (a pickle"),
        (b"\xd0\x01\0\0" + b'{"description": "Ultralytics YOLO11n"', "a TensorRT engine"),
        (b"ftrt" + bytes(20), "a TensorRT engine"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__"', "a safetensors file"),
        (b"\x20\0\0\0TFL3", "a TensorFlow Lite file: export the model that it was made from: yolo export"),
        (b"\x1c\0\0\0ORTM", "ONNX Runtime's own format"),
        (b"\x89HDF\r\n\x1a\n", "a Keras file"),
        (b"\x1f\x8b\x08\0", "a compressed file: unpack it"),
        (b"\n\n<!DOCTYPE html><title>404</title>", "a web page (HTML): fetch the file itself"),
        (b'<?xml version="1.0"?><net name="x">', "an XML file, as OpenVINO's are"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b'{"ir_version": 8}', "a JSON file"),
        (b"", "an empty file"),
    ],
)
def test_what_is_taken_for_a_model_is_told_with_what_to_do(content: bytes, advice: str) -> None:
    with pytest.raises(BadModel) as caught:
        read_graph(content)

    assert str(caught.value).startswith("expected an ONNX file, got a")
    assert advice in str(caught.value)


def test_an_onnx_file_is_taken_for_nothing_else() -> None:
    assert not advice_on(MODEL)
    assert not advice_on(conveyor_model())


@pytest.mark.parametrize(
    ("ir_version", "opset", "loads"),
    [
        (MAX_IR_VERSION, 17, True),
        (MAX_IR_VERSION + 1, 17, False),
        (9, MAX_OPSET, True),
        (9, MAX_OPSET + 1, False),
    ],
)
def test_the_highest_versions_are_those_of_the_runtime_here(ir_version: int, opset: int, loads: bool) -> None:
    ort = pytest.importorskip("onnxruntime", "1.31")
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [port], [port])
    graph.output[0].name = "y"
    model = helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])
    options = ort.SessionOptions()
    options.log_severity_level = 4

    refused = contextlib.nullcontext() if loads else pytest.raises(Exception, match=r"IR version|Opset")
    with refused:
        ort.InferenceSession(model.SerializeToString(), options)
