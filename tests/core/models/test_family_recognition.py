"""A model shows by its metadata and shapes how it is to be read."""

from __future__ import annotations

import pytest

from streamfleet_core.models.family_recognition import recognize
from streamfleet_core.models.onnx_graph import Graph, Port, Shape

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
