"""Derives a model's manifest from its graph: the family, the size of its input, its classes.

It opens no files: the caller passes the content. Errors say what was expected and what the file has.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from dataclasses import dataclass

from streamfleet_core.protocol.limits import MAX_CLASSES, MAX_INPUT_SIDE
from streamfleet_core.protocol.values import Family, Manifest, Weights

MAX_FILE = 2 * 1024**3  # bytes: the limit of a protobuf message
MAX_LABEL = 128  # characters
MAX_IR_VERSION = 13  # the highest that ONNX Runtime 1.31 loads
MAX_OPSET = 26  # the same
LOAD_TIME = 20  # seconds of processor time to load a model
RUN_TIME = 10  # seconds of processor time for the first inference
LONG_RUN_TIME = 30  # the same in the API, for a graph without loops: devices may be faster
TOO_LONG = (
    f"it took too long: loading may take {LOAD_TIME} s of processor time, an inference {RUN_TIME} s, "
    "three times as long with a GPU"
)
_STRIDES = (8, 16, 32)  # pixels between the points of each of three grids
_UNSHOWABLE = ("Cc", "Cs")  # control characters and surrogates

_PAIR = re.compile(
    r"""\s*(?P<index>\d{1,6})\s*:\s*(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?:,|\Z)"""
)

Shape = tuple[int | None, ...]  # None for a dynamic dimension


class BadModel(Exception):
    """A file that no device can run."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: str  # in ONNX's spelling, as FLOAT
    shape: Shape

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name!r} {self.dtype} ({dims})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The parts of a model file that matter here."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]
    ir_version: int = 0
    opset: int = 0  # version of ONNX's own operators
    loops: bool = False  # with loops, the run time does not follow from the size


def manifest_of(
    graph: Graph, weights: Weights, family: Family | None, labels: tuple[str, ...] | None
) -> Manifest:
    """Derive the manifest that a device needs to run this graph. Raises: BadModel."""
    task = graph.metadata.get("task", "detect")
    if task != "detect":
        raise BadModel(f"expected a model of the task 'detect', got {task[:40]!r} in its metadata")
    labels = labels or labels_in(graph.metadata)
    height, width = _input_size(graph)
    output = _output(graph)
    family = family or _family(graph, output, labels, _Grid(height, width))
    labels = _checked(labels, _classes(family, output, _Grid(height, width)), output)
    _check_versions(graph)
    return Manifest(family=family, labels=labels, input_width=width, input_height=height, weights=weights)


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


def labels_in(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """Parse class names as Ultralytics writes them, `{0: 'person', 1: 'car'}`. Raises: BadModel."""
    text = metadata.get("names", "").strip()
    if not text:
        return None
    if not (text.startswith("{") and text.endswith("}")):
        raise BadModel(f"expected the metadata 'names' as {{0: 'person', …}}, got {text[:40]!r}")
    inner, at, names = text[1:-1].rstrip().rstrip(","), 0, {}
    while at < len(inner):
        pair = _PAIR.match(inner, at)
        if pair is None:
            raise BadModel(
                f"expected the metadata 'names' as {{0: 'person', …}}, got {inner[at : at + 40]!r}"
            )
        names[int(pair["index"])] = _unquote(pair["text"])
        at = pair.end()
    if sorted(names) != list(range(len(names))):
        raise BadModel("expected the metadata 'names' to count from 0 without gaps")
    return tuple(names[index] for index in range(len(names)))


def _unquote(text: str) -> str:
    try:
        name = ast.literal_eval(text)
    except (SyntaxError, ValueError) as exc:
        raise BadModel(f"expected a class name in quotes in the metadata 'names', got {text[:40]}") from exc
    assert isinstance(name, str)
    return name


# the shapes -----------------------------------------------------------------------------------------------


def _input_size(graph: Graph) -> tuple[int, int]:
    """(height, width) in pixels."""
    if len(graph.inputs) != 1:
        names = ", ".join(map(str, graph.inputs)) or "none"
        raise BadModel(f"expected one input, got {len(graph.inputs)}: {names}")
    port = graph.inputs[0]
    if port.dtype != "FLOAT" or len(port.shape) != 4:
        half = ": export it without half" if port.dtype == "FLOAT16" else ""
        raise BadModel(f"expected an input FLOAT (1, 3, height, width), got {port}{half}")
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


def _size_in(metadata: dict[str, str], port: Port) -> tuple[int, int]:
    sides = re.fullmatch(r"\s*\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]\s*", metadata.get("imgsz", ""))
    if sides is None or not (int(sides[1]) and int(sides[2])):
        raise BadModel(
            f"expected an input of a fixed size, or the metadata 'imgsz' as [height, width]; got {port}: "
            "export it with a fixed size"
        )
    return int(sides[1]), int(sides[2])


def _output(graph: Graph) -> Port:
    port = graph.outputs[0]
    if port.dtype != "FLOAT" or len(port.shape) != 3 or port.shape[0] not in (1, None):
        others = "; ".join(map(str, graph.outputs[1:4]))
        raise BadModel(
            f"expected a first output FLOAT of rank 3 with a batch of 1, got {port}"
            f"{f' (and {others})' if others else ''}"
        )
    return port


@dataclass(frozen=True, slots=True)
class _Grid:
    """The size of an input, from which follows the number of boxes in an output before NMS."""

    height: int
    width: int

    @property
    def points(self) -> int:
        """The number of boxes of YOLOX: one for each point of its three grids."""
        return self._points(_STRIDES)

    def has(self, rows: int | None) -> bool:
        """Whether grids of three or four strides, with one or three anchors, give this number of boxes."""
        return rows in {
            anchors * self._points(strides) for anchors in (1, 3) for strides in (_STRIDES, (*_STRIDES, 64))
        }

    def _points(self, strides: tuple[int, ...]) -> int:
        return sum((self.height // stride) * (self.width // stride) for stride in strides)


def _family(graph: Graph, output: Port, labels: tuple[str, ...] | None, grid: _Grid) -> Family:
    """Infer the family from the file itself. Raises: BadModel."""
    _, rows, columns = output.shape
    said = _says_end_to_end(graph.metadata)
    of_ultralytics = "names" in graph.metadata and "stride" in graph.metadata
    if said and columns in (6, None):
        return "end2end"
    if labels is not None and rows == 4 + len(labels) and columns != 6:
        return "ultralytics"
    if rows is not None and rows < (columns or rows + 1) and columns != 6:
        return "ultralytics"
    if of_ultralytics and columns is None:
        return "ultralytics"
    rows_of_yolov5 = labels is not None and columns == 5 + len(labels)
    if of_ultralytics and rows_of_yolov5 and (columns != 6 or grid.has(rows)):
        return "yolov5"
    if columns == 6 and said is None and not grid.has(rows) and not (rows is None and rows_of_yolov5):
        return "end2end"
    raise BadModel(
        "expected an output (1, 4 + classes, boxes) as Ultralytics exports it, or (1, boxes, 6) with NMS in "
        f"it (x1, y1, x2, y2, score, class), got {output}; YOLOX and YOLOv5, (1, boxes, 5 + classes), must "
        "be named so and need their labels: --family yolox --labels FILE, or files beside it"
    )


def _says_end_to_end(metadata: dict[str, str]) -> bool | None:
    """Whether the metadata of Ultralytics says that NMS is included; None if it does not say."""
    if metadata.get("end2end", "").lower() == "true" or "'nms': True" in metadata.get("args", ""):
        return True
    return False if "end2end" in metadata else None


def _classes(family: Family, output: Port, grid: _Grid) -> int | None:
    """The number of classes in the shape; None for a dynamic one. Raises: BadModel."""
    _, rows, columns = output.shape
    if family == "end2end":
        if columns not in (6, None):
            raise BadModel(
                f"expected an output (1, boxes, 6): x1, y1, x2, y2, score, class of each box, got {output}"
            )
        return None
    if family == "ultralytics":
        return None if rows is None else rows - 4
    if family != "yolov5":
        _check_yolox(output, grid)
    return None if columns is None else columns - 5


def _check_yolox(output: Port, grid: _Grid) -> None:
    if grid.height % _STRIDES[-1] or grid.width % _STRIDES[-1]:
        raise BadModel(f"expected an input whose sides are multiples of 32, got {grid.width}x{grid.height}")
    if output.shape[1] not in (None, grid.points):
        raise BadModel(
            f"expected an output (1, {grid.points}, 5 + classes), YOLOX's for {grid.width}x{grid.height}, "
            f"got {output}"
        )


def _checked(labels: tuple[str, ...] | None, classes: int | None, output: Port) -> tuple[str, ...]:
    if classes is not None and classes < 1:
        raise BadModel(f"expected an output with at least one class, got {output}")
    if labels is None:
        count = "" if classes is None else f" ({classes} of them)"
        raise BadModel(
            f"expected class names{count}, the file has none: pass them with --labels, or in a file beside it"
        )
    if classes is not None and len(labels) != classes:
        raise BadModel(f"expected {classes} class names for the output {output}, got {len(labels)}")
    if len(labels) > MAX_CLASSES:
        raise BadModel(f"expected at most {MAX_CLASSES} class names, got {len(labels)}")
    for label in labels:
        if not label or len(label) > MAX_LABEL:
            raise BadModel(f"expected class names of 1 to {MAX_LABEL} characters, got {label[:40]!r}")
        if any(unicodedata.category(character) in _UNSHOWABLE for character in label):
            raise BadModel(f"expected class names without control characters, got {label[:40]!a}")
    return labels
