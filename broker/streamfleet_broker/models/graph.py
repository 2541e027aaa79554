"""What a model must be, told by its graph: the family, the size of its input, its classes.

Whoever opens the file says what is in it; here it is only judged. What is refused says what was expected and
what came.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from streamfleet_broker.protocol.values import Family, Manifest, Weights

MAX_FILE = 2 * 1024**3  # bytes: what one protobuf message can hold
MAX_LABELS = 20_000
MAX_LABEL = 128  # characters
MAX_SIDE = 8192  # pixels
_STRIDES = (8, 16, 32)  # of YOLOX's three grids

_PAIR = re.compile(
    r"""\s*(?P<index>\d{1,6})\s*:\s*(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?:,|\Z)"""
)

Shape = tuple[int | None, ...]  # None where the file leaves a dimension open


class BadModel(Exception):
    """A file that no device could run."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: str  # by ONNX's name, as FLOAT
    shape: Shape

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name!r} {self.dtype} ({dims})"


@dataclass(frozen=True, slots=True)
class Graph:
    """All that is looked at in a model file."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]


def manifest_of(
    graph: Graph, weights: Weights, family: Family | None, labels: tuple[str, ...] | None
) -> Manifest:
    """What a device must know to run this graph. Raises: BadModel."""
    task = graph.metadata.get("task", "detect")
    if task != "detect":
        raise BadModel(f"expected a model of the task 'detect', its metadata says {task!r}")
    labels = labels or labels_in(graph.metadata)
    height, width = _input_size(graph)
    output = _output(graph)
    family = family or _family(graph, output)
    if family == "ultralytics":
        labels = _checked(labels, _ultralytics_classes(output), output)
    else:
        labels = _checked(labels, _yolox_classes(output, height, width), output)
    return Manifest(family, labels, width, height, weights)


def labels_in(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """The class names as Ultralytics writes them, `{0: 'person', 1: 'car'}`, or None. Raises: BadModel."""
    text = metadata.get("names", "").strip()
    if not text:
        return None
    if not (text.startswith("{") and text.endswith("}")):
        raise BadModel(f"expected the metadata 'names' as {{0: 'person', …}}, it begins with {text[:40]!r}")
    inner, at, names = text[1:-1].rstrip().rstrip(","), 0, {}
    while at < len(inner):
        pair = _PAIR.match(inner, at)
        if pair is None:
            raise BadModel(
                f"expected the metadata 'names' as {{0: 'person', …}}, came {inner[at : at + 40]!r}"
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
        raise BadModel(f"expected a class name in quotes in the metadata 'names', came {text[:40]}") from exc
    assert isinstance(name, str)
    return name


# the shapes -----------------------------------------------------------------------------------------------


def _input_size(graph: Graph) -> tuple[int, int]:
    """(height, width) in pixels."""
    if len(graph.inputs) != 1:
        names = ", ".join(map(str, graph.inputs)) or "none"
        raise BadModel(f"expected one input, came {len(graph.inputs)}: {names}")
    port = graph.inputs[0]
    if port.dtype != "FLOAT" or len(port.shape) != 4:
        raise BadModel(f"expected an input FLOAT (1, 3, height, width), came {port}")
    batch, channels, height, width = port.shape
    if batch not in (1, None) or channels not in (3, None):
        raise BadModel(f"expected an input FLOAT (1, 3, height, width), came {port}")
    if height is None or width is None:
        height, width = _size_in(graph.metadata, port)
    if height > MAX_SIDE or width > MAX_SIDE:
        raise BadModel(f"expected an input of at most {MAX_SIDE} pixels a side, came {port}")
    return height, width


def _size_in(metadata: dict[str, str], port: Port) -> tuple[int, int]:
    sides = re.fullmatch(r"\s*\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]\s*", metadata.get("imgsz", ""))
    if sides is None or not (int(sides[1]) and int(sides[2])):
        raise BadModel(
            f"expected an input of a fixed size, or the metadata 'imgsz' as [height, width]; came {port}: "
            "export it with a fixed size"
        )
    return int(sides[1]), int(sides[2])


def _output(graph: Graph) -> Port:
    port = graph.outputs[0]
    if port.dtype != "FLOAT" or len(port.shape) != 3 or port.shape[0] not in (1, None):
        raise BadModel(f"expected an output FLOAT of rank 3 with a batch of 1, came {port}")
    return port


def _family(graph: Graph, output: Port) -> Family:
    """The family that the file itself shows."""
    if "names" in graph.metadata and "stride" in graph.metadata:
        return "ultralytics"
    _, rows, columns = output.shape
    if rows is not None and (columns is None or rows < columns):
        return "ultralytics"
    raise BadModel(
        f"expected an output (1, 4 + classes, boxes) as Ultralytics exports it, came {output}; "
        "a YOLOX model, (1, boxes, 5 + classes), must be named so and needs its labels: "
        "--family yolox --labels FILE, or files beside it"
    )


def _ultralytics_classes(output: Port) -> int | None:
    _, rows, columns = output.shape
    if rows is not None and columns is not None and rows >= columns:
        hint = " (exported with nms=True? export it without)" if columns in (6, 7) else ""
        raise BadModel(f"expected an output (1, 4 + classes, boxes), came {output}{hint}")
    return None if rows is None else rows - 4


def _yolox_classes(output: Port, height: int, width: int) -> int | None:
    if height % _STRIDES[-1] or width % _STRIDES[-1]:
        raise BadModel(f"expected an input whose sides are multiples of 32, came {width}x{height}")
    _, boxes, columns = output.shape
    expected = sum((height // stride) * (width // stride) for stride in _STRIDES)
    if boxes not in (None, expected):
        raise BadModel(
            f"expected an output (1, {expected}, 5 + classes), YOLOX's for {width}x{height}, came {output}"
        )
    return None if columns is None else columns - 5


def _checked(labels: tuple[str, ...] | None, classes: int | None, output: Port) -> tuple[str, ...]:
    if classes is not None and classes < 1:
        raise BadModel(f"expected an output with at least one class, came {output}")
    if labels is None:
        count = "" if classes is None else f" ({classes} of them)"
        raise BadModel(
            f"expected class names{count}, the file holds none: give them with --labels, or in a file beside "
            "it"
        )
    if classes is not None and len(labels) != classes:
        raise BadModel(f"expected {classes} class names for the output {output}, came {len(labels)}")
    if len(labels) > MAX_LABELS:
        raise BadModel(f"expected at most {MAX_LABELS} class names, came {len(labels)}")
    for label in labels:
        if not label or len(label) > MAX_LABEL:
            raise BadModel(f"expected class names of 1 to {MAX_LABEL} characters, came {label[:40]!r}")
    return labels
