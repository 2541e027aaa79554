"""A model shows by its metadata and shapes how it is to be read."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from streamfleet_core.models.family_recognition import recognize
from streamfleet_core.models.model_manifest import manifest_of
from streamfleet_core.models.onnx_graph import BadModel, Graph, Port, Shape
from streamfleet_core.protocol.values import Family, Manifest, Task, Weights

PICTURE = Port("images", "FLOAT", (1, 3, 320, 320))
OLDER = {
    "description": "Ultralytics RTDETR-L model trained on coco.yaml",
    "names": "{0: 'a'}",
    "stride": "32",
}
LATER = {**OLDER, "description": "Ultralytics YOLOv8-rtdetr model", "head": "RTDETRDecoder"}


def graph(metadata: dict[str, str], **outputs: Shape) -> Graph:
    ports = tuple(Port(name, "FLOAT", shape) for name, shape in outputs.items())
    return Graph(inputs=(PICTURE,), outputs=ports, metadata=metadata)


def labels(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


@pytest.mark.parametrize(
    ("metadata", "columns", "classes", "family"),
    [
        (OLDER, 84, 80, "rtdetr"),
        (OLDER, 6, 2, "rtdetr"),
        (LATER, 6, 80, "rtdetr-topk"),
        (LATER, 6, 2, "rtdetr-topk"),
        ({**OLDER, "end2end": "False"}, 6, 80, "rtdetr-topk"),
    ],
)
def test_ultralytics_has_two_forms_of_rt_detr(
    metadata: dict[str, str], columns: int, classes: int, family: str
) -> None:
    layout = recognize(
        graph(metadata, output0=(1, 300, columns)), None, labels(classes), height=320, width=320
    )

    assert (layout.family, layout.task) == (family, "detect")
    assert layout.classes in (classes, None)


@pytest.mark.parametrize(("columns", "classes"), [(5, 5), (6, 5), (6, 6)])
def test_rf_detr_may_have_a_column_for_no_object(columns: int, classes: int) -> None:
    outputs: dict[str, Shape] = {"dets": (1, 300, 4), "labels": (1, 300, columns)}

    layout = recognize(graph({}, **outputs), None, labels(classes), height=384, width=384)

    assert (layout.family, layout.classes) == ("rfdetr", classes)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((1, 2100, 85), "it may be YOLOX's, .*: --family yolox --labels FILE, .*; yolox-decoded if"),
        ((1, 6300, 85), "it may be YOLOv5's, .*: --family yolov5 --labels FILE"),
        ((1, 300, 84), "it may be RT-DETR's, .*: --family rtdetr --labels FILE"),
        ((1, 1234, 85), "YOLOX and YOLOv5, .*: --family yolox --labels FILE"),
    ],
)
def test_a_family_that_does_not_follow_from_the_file_is_proposed(shape: Shape, hint: str) -> None:
    with pytest.raises(BadModel, match=hint):
        recognize(graph({}, output0=shape), None, None, height=320, width=320)


def test_outputs_of_other_names_are_told_those_of_the_families() -> None:
    outputs: dict[str, Shape] = {"scores_of_all": (1, 300), "places": (1, 300, 4)}

    with pytest.raises(BadModel, match="have these names, detr: logits, pred_boxes; detr-deploy"):
        recognize(graph({}, **outputs), None, labels(3), height=320, width=320)


# anything -------------------------------------------------------------------------------------------------

SIZES = Port("orig_target_sizes", "INT64", (1, 2))
OPEN = Port("images", "FLOAT", (None, 3, None, None))
NAMES = ("output0", "logits", "pred_boxes", "labels", "boxes", "scores", "dets", "masks", "")
TYPES = ("FLOAT", "FLOAT16", "INT64", "STRING", "?")
SIDES = (None, -1, 0, 1, 2, 4, 5, 6, 7, 9, 84, 300, 8400, 2**63)
WORDS = {
    "task": ("detect", "segment", "pose", "obb", "classify", "semantic"),
    "names": ("{0: 'a'}", "{0: 'a', 1: \"it's\"}", "{1: 'a'}", "{0: 'a', 0: 'b'}", "{0: '\\x00'}", "{0: 'a"),
    "stride": ("32", "64"),
    "imgsz": ("[320, 320]", "[256, 416]", "[0, 0]", "[99999, 1]"),
    "kpt_shape": ("[17, 3]", "(3,2)", "[0, 3]", "[9999, 3]"),
    "kpt_names": ("{0: ['a', 'b', 'c']}", "['a'"),
    "end2end": ("True", "False"),
    "args": ("{'nms': True}", "{'nms': None}"),
    "head": ("Detect", "RTDETRDecoder"),
    "description": ("Ultralytics YOLO11n model", "Ultralytics RTDETR-L model"),
}


def rows(*shapes: Shape) -> tuple[Port, ...]:
    return tuple(Port(f"output{number}", "FLOAT", shape) for number, shape in enumerate(shapes))


# What exporters write, with one class or two.
USUAL = [
    *(rows((1, count, 2100)) for count in (5, 6, 7, 56, 57)),
    *(rows((1, 300, count)) for count in (5, 6, 7, 57)),
    *(rows((None, None, count)) for count in (5, 6, 7, None)),
    *(rows((1, count)) for count in (1, 2, None)),
    *(rows(shape, (1, 32, 80, 80)) for shape in ((1, 37, 2100), (1, 38, 2100), (1, 300, 38))),
    (Port("logits", "FLOAT", (1, 300, 2)), Port("pred_boxes", "FLOAT", (1, 300, 4))),
    (
        Port("labels", "INT64", (None, None)),
        Port("boxes", "FLOAT", (None, None, 4)),
        Port("scores", "FLOAT", (None, None)),
    ),
    (Port("dets", "FLOAT", (1, 300, 4)), Port("labels", "FLOAT", (1, 300, 2))),
]


def test_any_graph_gives_a_manifest_or_a_reason() -> None:
    chance, found, reasons = random.Random(5), set(), set()
    for _ in range(20_000):
        given, family, names = some_graph(chance), some_family(chance), some_labels(chance)

        try:
            manifest = manifest_of(given, Weights("0" * 64, 1), family, names)
        except BadModel as exc:
            reasons.add(str(exc))
            continue

        found.add((manifest.family, manifest.task))
        assert Manifest.decode(manifest.encode()) == manifest
        assert family in (None, manifest.family)
        assert (manifest.task == "pose") == bool(manifest.keypoints)
    assert all(reason.startswith("expected") for reason in reasons)
    assert {family for family, _ in found} == set(get_args(Family))
    assert {task for _, task in found} == set(get_args(Task))


def some_graph(chance: random.Random) -> Graph:
    """A graph with the inputs, outputs and words of models, and now and then others."""
    odd = chance.random() < 0.2
    inputs = chance.choice([(PICTURE,), (PICTURE,), (OPEN,), (PICTURE, SIZES)])
    return Graph(
        inputs=some_ports(chance, 3) if odd and chance.random() < 0.2 else inputs,
        outputs=(*some_ports(chance, 3), some_port(chance)) if odd else chance.choice(USUAL),
        metadata={
            key: some_text(chance) if chance.random() < 0.03 else chance.choice(words)
            for key, words in WORDS.items()
            if chance.random() < 0.4
        },
        ir_version=chance.choice([8, 8, 8, 8, 99]),
        opset=chance.choice([17, 17, 17, 17, 99]),
    )


def some_ports(chance: random.Random, most: int) -> tuple[Port, ...]:
    return tuple(some_port(chance) for _ in range(chance.randint(0, most)))


def some_port(chance: random.Random) -> Port:
    shape = tuple(chance.choice(SIDES) for _ in range(chance.randint(0, 5)))
    return Port(chance.choice(NAMES), chance.choice(TYPES), shape)


def some_text(chance: random.Random) -> str:
    return "".join(chance.choice("[](){}'\",:0123 ab\\\x00\ud800é") for _ in range(chance.randint(0, 60)))


def some_family(chance: random.Random) -> Family | None:
    return chance.choice([None, None, None, *get_args(Family)])


def some_labels(chance: random.Random) -> tuple[str, ...] | None:
    return chance.choice([None, labels(1), labels(2), labels(80), ("", "a"), ("a" * 999,)])
