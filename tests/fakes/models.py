"""Small ONNX models whose detections are known, made where a test needs them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamfleet_core.protocol.values import Family, Manifest, Task, Weights
from streamfleet_worker.video.synthetic.test_pattern import LABELS

SIDE = 320  # pixels, of the square input
CELL = 4  # pixels from one window to the next
WINDOW = 32  # pixels, of a box
_CHANNELS = 8  # of each convolution in a chain


def manifest_of(
    path: Path,
    *,
    labels: tuple[str, ...] = LABELS,
    family: Family = "ultralytics",
    width: int = SIDE,
    height: int = SIDE,
    task: Task = "detect",
) -> Manifest:
    """The manifest of a model file."""
    content = path.read_bytes()
    weights = Weights(hashlib.sha256(content).hexdigest(), len(content))
    return Manifest(
        family=family, labels=labels, input_width=width, input_height=height, weights=weights, task=task
    )


def with_description(content: bytes, text: str) -> bytes:
    """The same model as content that no other test has put into a fleet."""
    model = onnx.load_model_from_string(content)
    model.doc_string = text
    described: bytes = model.SerializeToString()
    return described


def write_colour_classifier(path: Path, *, side: int = 32) -> Manifest:
    """Says how much of a picture is red, green and blue: (1, 3)."""
    nodes = [helper.make_node("ReduceMean", ["images"], ["output"], axes=[2, 3], keepdims=0)]
    write(path, nodes, {}, [1, 3, side, side], [1, 3])
    return manifest_of(path, width=side, height=side, task="classify")


def write_squares_model(path: Path, *, batch: int | str = 1) -> Manifest:
    """Finds pure red, green and blue squares of 32 pixels: one box a window, (batch, 4 + 3, N).

    A window's score is how much of it one colour covers, from 0.5 to 1 as 0 to 1, so that a window which
    meets a square by half counts for nothing.
    """
    windows = (SIDE - WINDOW) // CELL + 1
    rows, columns = np.mgrid[:windows, :windows].reshape(2, -1) * CELL + WINDOW / 2
    boxes = np.stack([columns, rows, np.full_like(rows, WINDOW), np.full_like(rows, WINDOW)])
    # A channel less the two others: pure colours give 1, greys less than 0.
    mixing = 2 * np.eye(3) - np.ones((3, 3))
    cells = WINDOW // CELL
    nodes = [
        helper.make_node("Conv", ["images", "mixing"], ["pure"]),
        helper.make_node("Relu", ["pure"], ["positive"]),
        helper.make_node("AveragePool", ["positive"], ["cells"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        helper.make_node("AveragePool", ["cells"], ["covered"], kernel_shape=[cells] * 2, strides=[1, 1]),
        helper.make_node("Mul", ["covered", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["sharpened"]),
        helper.make_node("Relu", ["sharpened"], ["scores"]),
        helper.make_node("Reshape", ["scores", "flat"], ["classes"]),
        helper.make_node("ReduceMean", ["classes"], ["mean"], axes=[1, 2]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["boxes", "nothing"], ["all boxes"]),  # once for each picture
        helper.make_node("Concat", ["all boxes", "classes"], ["output"], axis=1),
    ]
    constants: dict[str, np.ndarray] = {
        "mixing": mixing.reshape(3, 3, 1, 1).astype(np.float32),
        "two": np.array(2, np.float32),
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "flat": np.array([0, 3, -1], np.int64),  # 0: as in the input
        "boxes": boxes[None].astype(np.float32),
    }
    write(path, nodes, constants, [batch, 3, SIDE, SIDE], [batch, 7, windows * windows])
    return manifest_of(path)


def write_constant_model(path: Path, output: np.ndarray, *, side: int = 64, batch: int | str = 1) -> None:
    """Gives the same output (1, rows, columns) for every picture."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["constant", "nothing"], ["output"]),
    ]
    constants = {"zero": np.array(0, np.float32), "constant": output.astype(np.float32)}
    write(path, nodes, constants, [batch, 3, side, side], list(output.shape))


def write_slow_model(path: Path, *, side: int = 64, rounds: int = 400) -> Manifest:
    """Computes for a good while, then finds nothing: (1, 4 + 3, 1)."""
    matrix = np.eye(256, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["matrix", "mean"], ["m0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"m{index}", "matrix"], [f"m{index + 1}"]) for index in range(rounds)
    ]
    nodes += [
        helper.make_node("ReduceMean", [f"m{rounds}"], ["last"], keepdims=0),
        helper.make_node("Mul", ["last", "zero"], ["nothing"]),
        helper.make_node("Add", ["constant", "nothing"], ["output"]),
    ]
    constants = {
        "matrix": matrix,
        "zero": np.array(0, np.float32),
        "constant": np.zeros((1, 7, 1), np.float32),
    }
    write(path, nodes, constants, [1, 3, side, side], [1, 7, 1])
    return manifest_of(path, width=side, height=side)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    input_shape: list[int | str],
    output_shape: list[int | str],
) -> None:
    """Write a model of an input `images` and an output `output`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_hungry_model(path: Path, *, size: int = 1_600_000_000, side: int = 64) -> Manifest:
    """A few hundred bytes that make so many bytes of zeros: (1, 4 + 3, 1)."""
    nodes = [
        helper.make_node("ConstantOfShape", ["much"], ["zeros"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["zeros", "mean"], ["means"]),
        helper.make_node("ReduceMax", ["means"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["constant", "nothing"], ["output"]),
    ]
    constants: dict[str, np.ndarray] = {
        "much": np.array([size // 8], np.int64),  # of floats, and as many for the sum
        "zero": np.array(0, np.float32),
        "constant": np.zeros((1, 7, 1), np.float32),
    }
    write(path, nodes, constants, [1, 3, side, side], [1, 7, 1])
    return manifest_of(path, width=side, height=side)


def write_endless_model(path: Path, *, brighter_than: float = -1.0, side: int = 64) -> Manifest:
    """Never comes to an end with a picture whose mean is higher than that; else (1, 4 + 3, 1) of nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["in"], ["out"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("in", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "limit"], ["bright"]),
        helper.make_node("Loop", ["", "bright", "mean"], ["last"], body=body),
        helper.make_node("Mul", ["last", "zero"], ["nothing"]),
        helper.make_node("Add", ["constant", "nothing"], ["output"]),
    ]
    constants = {
        "limit": np.array(brighter_than, np.float32),
        "zero": np.array(0, np.float32),
        "constant": np.zeros((1, 7, 1), np.float32),
    }
    write(path, nodes, constants, [1, 3, side, side], [1, 7, 1])
    return manifest_of(path, width=side, height=side)


def write_picky_model(path: Path, *, side: int = 64) -> Manifest:
    """Fails with each picture that is dark; else (1, 4 + 3, 1) of nothing."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Less", ["mean", "limit"], ["dark"]),
        helper.make_node("Cast", ["dark"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["constants", "index"], ["output"]),
    ]
    constants = {"limit": np.array(0.4, np.float32), "constants": np.zeros((1, 1, 7, 1), np.float32)}
    write(path, nodes, constants, [1, 3, side, side], [1, 7, 1])
    return manifest_of(path, width=side, height=side)


def write_chain(path: Path, *, convolutions: int, opset: int = 17) -> Path:
    """Convolutions in a row, each followed by a Relu, and a Sigmoid at the end."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], [], "images"
    for number in range(convolutions):
        channels = 3 if number == 0 else _CHANNELS
        weights = rng.normal(0, 0.3, (_CHANNELS, channels, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(
            helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], name=f"conv{number}", pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"))
        last = f"r{number}"
    nodes.append(helper.make_node("Sigmoid", [last], ["output"], name="sigmoid"))
    shape = [1, 3, 16, 16]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, _CHANNELS, 16, 16])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path
