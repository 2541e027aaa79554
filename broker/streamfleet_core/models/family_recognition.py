"""Recognizes the family and the task of a model by its metadata and the shapes of its outputs. Pure.

N boxes, C classes, E further numbers of each box: none to detect, the angle of an oriented box, the values of
its key points, or as many coefficients as there are prototypes of masks, which are a second output.

    ultralytics      (1, 4 + C + E, N)                    also to classify: (1, C)
    end2end          (1, N, 6 + E)                        NMS is in the model
    yolov5           (1, N, 5 + C + E)
    yolox            (1, N, 5 + C)                        must be named, as must yolox-decoded
    rtdetr           (1, N, 4 + C)                        Ultralytics' export of RT-DETR
    rtdetr-topk      (1, N, 6)                            the same, since it chooses among the classes itself
    detr             logits (1, N, C), pred_boxes (1, N, 4)
    detr-deploy      labels (1, N), boxes (1, N, 4), scores (1, N)
    rfdetr           dets (1, N, 4), labels (1, N, C or C + 1), with masks also masks (1, N, height, width)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from streamfleet_core.models.class_names import keypoint_names
from streamfleet_core.models.onnx_graph import BadModel, Graph, Port
from streamfleet_core.protocol.limits import MAX_KEYPOINTS
from streamfleet_core.protocol.values import Family, Task

SIZES_INPUT = "orig_target_sizes"  # of detr-deploy: the width and height of the picture
_STRIDES = (8, 16, 32)  # pixels between the points of each of three grids
_QUERIES = (100, 300, 900)  # usual numbers of boxes of a transformer
_TASKS: tuple[Task, ...] = get_args(Task)
_BY_NAMES: dict[Family, tuple[str, ...]] = {
    "detr": ("logits", "pred_boxes"),
    "detr-deploy": ("labels", "boxes", "scores"),
    "rfdetr": ("dets", "labels"),
}
_MASKS = "masks"
_RTDETR_HEAD = "RTDETRDecoder"
_KEYPOINT_SHAPE = re.compile(r"\s*[\[(]\s*(\d{1,4})\s*,\s*([23])\s*[\])]\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the outputs of a model are to be read."""

    family: Family
    task: Task
    outputs: tuple[Port, ...]  # that are read, in the order of the family
    classes: int | None  # None: the shapes do not say
    keypoints: tuple[str, ...] = ()  # names


def recognize(
    graph: Graph, family: Family | None, labels: tuple[str, ...] | None, *, height: int, width: int
) -> Layout:
    """Recognize the layout. `height`, `width`: of the input, in pixels. Raises: BadModel.

    `family`: None, or what the user says.
    """
    named = _by_names(graph, family, labels)
    if named is not None:
        return named
    task = _task(graph)
    if task == "classify":
        return _classifier(graph, family)
    output, grid = _rows(graph), Grid(height, width)
    further = _further(graph, output, task)
    family = family or _family(graph, output, labels, grid, further.count)
    outputs = (output, further.prototypes) if further.prototypes else (output,)
    classes = _classes(family, output, grid, further.count)
    _check_task(family, task)
    return Layout(family=family, task=task, outputs=outputs, classes=classes, keypoints=further.keypoints)


# by names -------------------------------------------------------------------------------------------------


def _by_names(graph: Graph, family: Family | None, labels: tuple[str, ...] | None) -> Layout | None:
    """The layout of the families whose outputs have names of their own; None if it is none of them."""
    ports = {port.name: port for port in graph.outputs}
    for candidate, names in _BY_NAMES.items():
        if family in (None, candidate) and all(name in ports for name in names):
            return _named(candidate, [ports[name] for name in names], ports.get(_MASKS), labels)
    if family in _BY_NAMES:
        raise BadModel(
            f"expected the outputs {', '.join(_BY_NAMES[family])} of the family {family}, got "
            f"{'; '.join(map(str, graph.outputs[:4]))}"
        )
    return None


def _named(family: Family, ports: list[Port], masks: Port | None, labels: tuple[str, ...] | None) -> Layout:
    boxes = ports[0] if family == "rfdetr" else ports[1]
    if len(boxes.shape) != 3 or boxes.shape[0] not in (1, None) or boxes.shape[2] not in (4, None):
        raise BadModel(f"expected boxes (1, N, 4) in the output {boxes.name!r}, got {boxes}")
    scores = {"detr": ports[0], "rfdetr": ports[1]}.get(family)
    if scores is not None and len(scores.shape) != 3:
        raise BadModel(f"expected scores (1, N, classes) in the output {scores.name!r}, got {scores}")
    task: Task = "detect"
    if family == "rfdetr" and masks is not None:
        task, ports = "segment", [*ports, masks]
        if len(masks.shape) != 4:
            raise BadModel(f"expected masks (1, N, height, width), got {masks}")
    classes = None if scores is None else scores.shape[2]
    if family == "rfdetr" and classes is not None and labels is not None and len(labels) == classes - 1:
        classes = len(labels)  # the last column is that of no object
    return Layout(family=family, task=task, outputs=tuple(ports), classes=classes)


# by shapes ------------------------------------------------------------------------------------------------


def _task(graph: Graph) -> Task:
    said = graph.metadata.get("task")
    if said is None:
        prototypes = len(graph.outputs) > 1 and len(graph.outputs[1].shape) == 4
        return "segment" if prototypes else "detect"
    if said not in _TASKS:
        raise BadModel(f"expected a model of the task {', '.join(_TASKS)}, got {said[:40]!r} in its metadata")
    return said


def _classifier(graph: Graph, family: Family | None) -> Layout:
    port = graph.outputs[0]
    if len(port.shape) != 2 or port.shape[0] not in (1, None) or family not in (None, "ultralytics"):
        raise BadModel(
            f"expected an output (1, classes) of a model of the family ultralytics to classify, got {port}"
        )
    return Layout(family="ultralytics", task="classify", outputs=(port,), classes=port.shape[1])


def _rows(graph: Graph) -> Port:
    """The first output, which has a row or a column for each box."""
    port = graph.outputs[0]
    if port.dtype not in ("FLOAT", "FLOAT16") or len(port.shape) != 3 or port.shape[0] not in (1, None):
        others = "; ".join(map(str, graph.outputs[1:4]))
        by_names = "; ".join(f"{family}: {', '.join(names)}" for family, names in _BY_NAMES.items())
        raise BadModel(
            f"expected a first output FLOAT of rank 3 with a batch of 1, got {port}"
            + (
                f" (and {others}); families with several outputs have these names, {by_names}"
                if others
                else ""
            )
        )
    return port


@dataclass(frozen=True, slots=True)
class _Further:
    """What a box has beside its place, its score and its class."""

    count: int = 0  # numbers of each box
    prototypes: Port | None = None
    keypoints: tuple[str, ...] = ()


def _further(graph: Graph, output: Port, task: Task) -> _Further:
    if task == "obb":
        return _Further(1)
    if task == "pose":
        return _keypoints(graph.metadata)
    if task == "segment":
        port = graph.outputs[1] if len(graph.outputs) > 1 else None
        if port is None or len(port.shape) != 4 or not port.shape[1]:
            raise BadModel(
                f"expected prototypes of masks (1, count, height, width) as the second output, got "
                f"{'none' if port is None else port} beside {output}"
            )
        return _Further(port.shape[1], port)
    return _Further()


def _keypoints(metadata: dict[str, str]) -> _Further:
    said = metadata.get("kpt_shape", "")
    shape = _KEYPOINT_SHAPE.fullmatch(said)
    if shape is None or not 1 <= int(shape[1]) <= MAX_KEYPOINTS:
        raise BadModel(
            f"expected the metadata 'kpt_shape' as [key points, 2 or 3], as [17, 3], got {said[:40]!r}"
        )
    count = int(shape[1])
    return _Further(count * int(shape[2]), keypoints=keypoint_names(metadata, count))


@dataclass(frozen=True, slots=True)
class Grid:
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


def _family(graph: Graph, output: Port, labels: tuple[str, ...] | None, grid: Grid, further: int) -> Family:
    """Infer the family from the file itself. Raises: BadModel."""
    _, rows, columns = output.shape
    said, with_nms = _says_end_to_end(graph.metadata), 6 + further
    of_ultralytics = "names" in graph.metadata and "stride" in graph.metadata
    if _says_rtdetr(graph.metadata):
        return _rtdetr(graph.metadata, columns, labels)
    if said and columns in (with_nms, None):
        return "end2end"
    if labels is not None and rows == 4 + len(labels) + further and columns != with_nms:
        return "ultralytics"
    if rows is not None and rows < (columns or rows + 1) and columns != with_nms:
        return "ultralytics"
    if of_ultralytics and columns is None:
        return "ultralytics"
    rows_of_yolov5 = labels is not None and columns == 5 + len(labels) + further
    if of_ultralytics and rows_of_yolov5 and (columns != with_nms or grid.has(rows)):
        return "yolov5"
    if columns == with_nms and said is None and not grid.has(rows) and not (rows is None and rows_of_yolov5):
        return "end2end"
    raise BadModel(
        "expected an output (1, 4 + classes, boxes) as Ultralytics exports it, or (1, boxes, 6) with NMS in "
        f"it (x1, y1, x2, y2, score, class), got {output}; {_hint(output, grid)}"
    )


def _hint(output: Port, grid: Grid) -> str:
    """Which family it may be, by its number of boxes, and how to say so."""
    _, rows, columns = output.shape
    say = "say so, with its labels: --family {} --labels FILE, or files beside it"
    if rows == grid.points:
        return (
            "it may be YOLOX's, with a box for each point of its grids: "
            f"{say.format('yolox')}; yolox-decoded if the export has decoded the boxes"
        )
    if grid.has(rows):
        return f"it may be YOLOv5's, with three boxes for each point of its grids: {say.format('yolov5')}"
    if rows in _QUERIES and columns is not None and columns > 4:
        return f"it may be RT-DETR's, (1, queries, 4 + classes): {say.format('rtdetr')}"
    return (
        "YOLOX and YOLOv5, (1, boxes, 5 + classes), must be named so and need their labels: "
        "--family yolox --labels FILE, or files beside it"
    )


def _says_end_to_end(metadata: dict[str, str]) -> bool | None:
    """Whether the metadata of Ultralytics says that NMS is included; None if it does not say."""
    if metadata.get("end2end", "").lower() == "true" or "'nms': True" in metadata.get("args", ""):
        return True
    return False if "end2end" in metadata else None


def _says_rtdetr(metadata: dict[str, str]) -> bool:
    """Whether Ultralytics says so: by the head, or by the description, `Ultralytics RTDETR-L model …`."""
    if metadata.get("head") == _RTDETR_HEAD:
        return True
    return re.match(r"Ultralytics rt-?detr", metadata.get("description", ""), re.IGNORECASE) is not None


def _rtdetr(metadata: dict[str, str], columns: int | None, labels: tuple[str, ...] | None) -> Family:
    """The form. With two classes both have six columns, but only the later one names its head."""
    of_two_classes = labels is not None and len(labels) == 2
    return "rtdetr-topk" if columns == 6 and (not of_two_classes or "head" in metadata) else "rtdetr"


def _classes(family: Family, output: Port, grid: Grid, further: int) -> int | None:
    """The number of classes in the shape; None for a dynamic one. Raises: BadModel."""
    _, rows, columns = output.shape
    if family == "end2end":
        if columns not in (6 + further, None):
            raise BadModel(
                f"expected an output (1, boxes, {6 + further}): x1, y1, x2, y2, score, class"
                f"{' and more' if further else ''} of each box, got {output}"
            )
        return None
    if family == "rtdetr-topk":
        return None
    if family == "ultralytics":
        return None if rows is None else rows - 4 - further
    if family in ("yolox", "yolox-decoded"):
        _check_yolox(output, grid)
    fixed = 4 if family == "rtdetr" else 5
    return None if columns is None else columns - fixed - further


def _check_yolox(output: Port, grid: Grid) -> None:
    if grid.height % _STRIDES[-1] or grid.width % _STRIDES[-1]:
        raise BadModel(f"expected an input whose sides are multiples of 32, got {grid.width}x{grid.height}")
    if output.shape[1] not in (None, grid.points):
        raise BadModel(
            f"expected an output (1, {grid.points}, 5 + classes), YOLOX's for {grid.width}x{grid.height}, "
            f"got {output}"
        )


def _check_task(family: Family, task: Task) -> None:
    known = {"yolov5": ("detect", "segment"), "yolox": ("detect",), "yolox-decoded": ("detect",)}
    tasks = known.get(family, ("detect",) if family.startswith("rtdetr") else _TASKS)
    if task not in tasks:
        raise BadModel(f"expected the task {' or '.join(tasks)} of the family {family}, got {task}")
