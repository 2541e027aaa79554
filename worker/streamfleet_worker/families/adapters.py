"""All families by name."""

from __future__ import annotations

from streamfleet_core.protocol.values import Family, Manifest
from streamfleet_worker.families.adapter import Adapter, InputFormat
from streamfleet_worker.families.detr import Detr, DetrDeploy, RtDetr, RtDetrTopK
from streamfleet_worker.families.end_to_end import EndToEnd
from streamfleet_worker.families.rfdetr import RfDetr
from streamfleet_worker.families.ultralytics import Ultralytics
from streamfleet_worker.families.yolov5 import YoloV5
from streamfleet_worker.families.yolox import YoloX

ADAPTERS: dict[Family, Adapter] = {
    "ultralytics": Ultralytics(),
    "end2end": EndToEnd(),
    "yolov5": YoloV5(),
    "yolox": YoloX(decoded=False),
    "yolox-decoded": YoloX(decoded=True),
    "rtdetr": RtDetr(),
    "rtdetr-topk": RtDetrTopK(),
    "detr": Detr(),
    "detr-deploy": DetrDeploy(),
    "rfdetr": RfDetr(),
}


def adapter_of(manifest: Manifest) -> Adapter:
    """The adapter of a model's family."""
    return ADAPTERS[manifest.family]


def input_format_of(manifest: Manifest) -> InputFormat:
    """What the input of a model must be."""
    return adapter_of(manifest).input_format(manifest)
