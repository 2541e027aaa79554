"""Models of the package `ultralytics`: each version and task, exported and run by the package itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.transformers import float16
from torch import nn

from tests.references.case import CONFIDENCE, MOST, OVERLAP, Case
from tests.references.pictures import ODD, PLAIN, drawn, fitted
from tests.references.random_weights import numbers, run_file, settle, smooth, spread

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")

NAMES = ("bolt", "nut", "it's", "gear: big", "pin")
_SUFFIXES = {"segment": "-seg", "pose": "-pose", "obb": "-obb", "classify": "-cls"}
_TINY_DETR = """
nc: 5
scales:
  l: [1.0, 1.0, 1024]
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[2, 3, 4], 1, RTDETRDecoder, [nc, 64, 100, 4, 4, 2, 128]]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A model, and how it is exported."""

    version: str
    task: str = "detect"
    classes: int = 5
    keypoints: tuple[int, int] | None = None
    odd: bool = False  # a frame, and an input, whose sides have no common measure
    halved: bool = False  # input and output of 16 bits, as exports on a GPU had them
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the input."""
        return (256, 416) if self.odd else (320, 320)


def models() -> dict[str, Made]:
    """All of them by name."""
    found = {
        f"{name}-detect": Made(version=name) for name in ("v5n", "v8n", "v9t", "v10n", "11n", "12n", "26n")
    }
    for version in ("v8n", "11n", "26n"):
        for task in _SUFFIXES:
            found[f"{version}-{task}"] = Made(version=version, task=task, classes=1 if task == "pose" else 5)
    for name in ("v10n-detect", "26n-detect", "26n-segment", "26n-pose", "26n-obb"):
        found[f"{name}-e2e"] = _with(found[name], options={"nms": False})
    for task in ("detect", "segment", "pose", "obb"):
        embedded = {"nms": True, "conf": CONFIDENCE, "iou": OVERLAP}
        found[f"v8n-{task}-nms"] = _with(found[f"v8n-{task}"], options=embedded)
    for name in ("v8n-detect", "v8n-segment", "v8n-pose", "v8n-obb", "v8n-classify", "26n-detect-e2e"):
        found[f"{name}-odd"] = _with(found[name], odd=True)
    found["v8n-detect-80"] = Made(version="v8n", classes=80)
    found["v8n-pose-5x2"] = Made(version="v8n", task="pose", classes=2, keypoints=(5, 2))
    found["v8n-detect-halved"] = Made(version="v8n", halved=True)
    for name in ("v8n-detect", "v8n-segment", "26n-detect-e2e"):
        options = {**found[name].options, "dynamic": True}
        found[f"{name}-dynamic"] = _with(found[name], options=options)
    found["rtdetr-topk"] = Made(version="rtdetr")
    found["rtdetr-topk-two"] = Made(version="rtdetr", classes=2)
    return found


def _with(made: Made, **changes: Any) -> Made:
    values = {name: getattr(made, name) for name in Made.__dataclass_fields__}
    return Made(**{**values, **changes})


def case_of(made: Made, path: Path) -> Case:
    """Export it to this path, and run it as the package does."""
    from ultralytics import RTDETR, YOLO

    torch.manual_seed(7)
    picture = drawn(ODD if made.odd else PLAIN, 2 if made.odd else 1)
    model = _built(made, path.parent)
    _randomize(made, model.model, picture)
    exported = Path(model.export(format="onnx", imgsz=list(made.size), verbose=False, **made.options))
    exported.replace(path)
    if made.halved:
        _halve(path)
    loaded = RTDETR(str(path)) if made.version == "rtdetr" else YOLO(str(path), task=made.task)
    return _found(made, loaded, path, picture)


def _built(made: Made, folder: Path) -> Any:
    from ultralytics import RTDETR, YOLO

    if made.version == "rtdetr":
        file = folder / "rtdetr-tiny.yaml"
        file.write_text(_TINY_DETR)
        model = RTDETR(str(file))
    else:
        model = YOLO(f"yolo{made.version}{_SUFFIXES.get(made.task, '')}.yaml", task=made.task)
    first = model.model
    layout = {**first.yaml, "nc": made.classes, **({"kpt_shape": made.keypoints} if made.keypoints else {})}
    model.model = type(first)(layout, verbose=False)
    model.model.args, model.model.task = first.args, first.task
    few = made.classes <= len(NAMES)
    model.model.names = {at: NAMES[at] if few else f"class {at}" for at in range(made.classes)}
    if made.task == "pose":
        points = made.keypoints[0] if made.keypoints else 17
        model.model.kpt_names = {0: [f"point {at}" for at in range(points)]}
    return model


def _randomize(made: Made, network: Any, picture: np.ndarray) -> None:
    if made.version != "rtdetr":  # it is trained in another way, and normalizes little
        settle(network, *made.size)
    network.eval()
    given = numbers(fitted(picture, *made.size, centered=True).rgb())
    head = network.model[-1]

    def run() -> object:
        return network(given)

    if made.task == "classify":
        head.linear.weight.data.mul_(20)
    elif made.version == "rtdetr":
        for layer in head.dec_bbox_head:
            nn.init.normal_(layer.layers[-1].weight, std=0.5)
            nn.init.normal_(layer.layers[-1].bias)
        nn.init.normal_(head.enc_bbox_head.layers[-1].weight, std=0.3)
        spread(run, [head.dec_score_head[-1]], 1.5, confident=30)
    else:
        for prefix in ("", "one2one_"):
            _randomize_branches(made, head, prefix, run)


def _randomize_branches(made: Made, head: Any, prefix: str, run: Any) -> None:
    """Boxes, scores, and what a task adds, of the head that needs NMS or of the other one."""
    boxes, scores = (getattr(head, prefix + name, None) for name in ("cv2", "cv3"))
    if boxes is None or scores is None:
        return
    network_end2end = head.end2end
    head.end2end = bool(prefix)
    if head.reg_max == 1:
        spread(run, boxes, 0.6, 3.0)  # distances from a point, in strides
    else:
        spread(run, boxes, 2.0)
    spread(run, scores, 1.5, confident=60 if made.classes < 20 else 40)
    further = getattr(head, f"{prefix}cv4_kpts", None) or getattr(head, f"{prefix}cv4", None)
    if further is not None:
        spread(run, further, 1.0)
    if made.task == "segment" and not prefix:
        # Trained masks are smooth; noise has an outline in every pixel, where rounding decides.
        head.proto.cv3 = smooth(head.proto.cv3, head.nm)
    head.end2end = network_end2end


def _halve(path: Path) -> None:
    whole = onnx.load(path)
    metadata = {each.key: each.value for each in whole.metadata_props}
    half = float16.convert_float_to_float16(whole, keep_io_types=False)
    onnx.helper.set_model_props(half, metadata)
    onnx.save(half, path)


def _found(made: Made, model: Any, path: Path, picture: np.ndarray) -> Case:
    # With `rect`, a dynamic model gets a smaller input than that of its metadata.
    options = {"imgsz": list(made.size), "conf": CONFIDENCE, "iou": OVERLAP, "max_det": MOST, "rect": False}
    result = (
        model.predict(picture, verbose=False, device="cpu", retina_masks=True, **options)[0].cpu().numpy()
    )
    given = model.predictor.preprocess([picture]).numpy()
    outputs = run_file(path, images=given.astype(np.float16) if made.halved else given)
    seen = {"picture": picture, "input": given, "outputs": outputs}
    if made.task == "classify":
        return Case(**seen, scores=result.probs.data)
    boxes = result.obb if made.task == "obb" else result.boxes
    masks = result.masks
    if made.task == "segment" and masks is None:
        raise AssertionError("expected masks, got none")
    return Case(
        **seen,
        boxes=boxes.xyxy,
        scores=boxes.conf,
        classes=boxes.cls.astype(np.int64),
        corners=boxes.xyxyxyxy if made.task == "obb" else None,
        keypoints=result.keypoints.data if made.task == "pose" else None,
        masks=None if masks is None else masks.data.astype(bool),
    )
