"""YOLOX, and YOLOv5 of its own repository: neither has a package, so their outputs come from a small network.

Their decoding is written down here once more, with torch, as the papers and repositories describe it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from tests.references.case import CONFIDENCE, MOST, OVERLAP, Case
from tests.references.pictures import ODD, PLAIN, Fitted, drawn, fitted
from tests.references.random_weights import run_file, smooth, spread

LABELS = ("bolt", "nut", "washer", "gear", "pin")
_STRIDES = (8, 16, 32)
_ANCHORS = (  # width and height in pixels, three for each stride
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grids:
    """Which of them."""

    family: str  # yolox, yolox-decoded or yolov5
    masks: int = 0  # prototypes
    odd: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the input."""
        return (256, 416) if self.odd else (320, 320)


def case_of(made: Grids, path: Path) -> Case:
    """Export it to this path, and run it."""
    torch.manual_seed(11)
    picture = drawn(ODD if made.odd else PLAIN, 2 if made.odd else 1)
    place = fitted(picture, *made.size, centered=made.family == "yolov5")
    given = place.rgb() / np.float32(255) if made.family == "yolov5" else place.bgr().astype(np.float32)
    network = _Network(made)
    _randomize(network, torch.from_numpy(given))
    torch.onnx.export(
        network,
        (torch.from_numpy(given),),
        str(path),
        opset_version=17,
        input_names=["images"],
        output_names=["output0", "output1"] if made.masks else ["output0"],
        dynamo=False,
    )
    if made.family == "yolov5":
        file = onnx.load(path)
        onnx.helper.set_model_props(file, {"stride": "32", "names": str(dict(enumerate(LABELS)))})
        onnx.save(file, path)
    return _found(made, place, picture, given, run_file(path, images=given))


class _Network(nn.Module):
    """Rows of a box, an objectness, a score for each class and maybe coefficients, for three grids."""

    def __init__(self, made: Grids) -> None:
        super().__init__()
        self.made, self.anchors = made, 3 if made.family == "yolov5" else 1
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), nn.SiLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.SiLU())
        self.down = nn.ModuleList(nn.Conv2d(24, 24, 3, 2, 1) for _ in _STRIDES[1:])
        self.boxes, self.objects, self.classes, self.coefficients = (
            nn.ModuleList(nn.Conv2d(24, self.anchors * count, 1) for _ in _STRIDES)
            for count in (4, 1, len(LABELS), max(1, made.masks))
        )
        self.prototypes = nn.Sequential(
            nn.Upsample(scale_factor=2), smooth(nn.Conv2d(24, max(1, made.masks), 1), max(1, made.masks))
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        first = features = self.stem(images if self.made.family == "yolov5" else images / 255)
        rows = []
        for at, stride in enumerate(_STRIDES):
            features = self.down[at - 1](features) if at else features
            parts = [
                self._decoded(self._flat(self.boxes[at](features)), at, stride),
                self._flat(self.objects[at](features)).sigmoid(),
                self._flat(self.classes[at](features)).sigmoid(),
            ]
            if self.made.masks:
                parts.append(self._flat(self.coefficients[at](features)))
            rows.append(torch.cat(parts, -1).flatten(1, 2))
        output = torch.cat(rows, 1)
        return (output, self.prototypes(first)) if self.made.masks else output

    def _flat(self, values: torch.Tensor) -> torch.Tensor:
        """(1, anchors, places, numbers)."""
        return values.view(1, self.anchors, values.shape[1] // self.anchors, -1).transpose(2, 3)

    def _decoded(self, boxes: torch.Tensor, at: int, stride: int) -> torch.Tensor:
        points = grid(self.made.size, stride)
        if self.made.family == "yolov5":
            boxes = boxes.sigmoid()
            sizes = torch.tensor(_ANCHORS[at]).float().view(1, 3, 1, 2)
            centers = (boxes[..., :2] * 2 - 0.5 + points) * stride
            return torch.cat([centers, (boxes[..., 2:] * 2) ** 2 * sizes], -1)
        if self.made.family == "yolox-decoded":
            return torch.cat([(boxes[..., :2] + points) * stride, boxes[..., 2:].exp() * stride], -1)
        return boxes


def grid(size: tuple[int, int], stride: int) -> torch.Tensor:
    """The points (n, 2) of a grid: column, row."""
    rows, columns = torch.meshgrid(
        torch.arange(size[0] // stride), torch.arange(size[1] // stride), indexing="ij"
    )
    return torch.stack([columns, rows], -1).reshape(-1, 2).float()


def _randomize(network: _Network, given: torch.Tensor) -> None:
    def run() -> object:
        return network(given)

    network.eval()
    spread(run, network.boxes, 0.8, 0.0 if network.made.family == "yolov5" else 0.6)
    spread(run, network.classes, 1.5)
    spread(run, network.objects, 1.5, confident=120)
    spread(run, network.coefficients, 1.0)


def _found(
    made: Grids, place: Fitted, picture: np.ndarray, given: np.ndarray, outputs: list[np.ndarray]
) -> Case:
    from torchvision.ops import batched_nms

    rows = torch.from_numpy(outputs[0])[0].clone()
    if made.family == "yolox":
        points = torch.cat([grid(made.size, stride) for stride in _STRIDES])
        strides = torch.cat([torch.full((len(grid(made.size, each)), 1), float(each)) for each in _STRIDES])
        rows[:, :2] = (rows[:, :2] + points) * strides
        rows[:, 2:4] = rows[:, 2:4].exp() * strides
    end = 5 + len(LABELS)
    scores, classes = (rows[:, 5:end] * rows[:, 4:5]).max(1)
    chosen = scores > CONFIDENCE
    rows, scores, classes = rows[chosen], scores[chosen], classes[chosen]
    boxes = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    kept = batched_nms(boxes, scores, classes, OVERLAP)[:MOST]
    in_frame = (boxes[kept] - torch.tensor([place.left, place.top] * 2)) / place.scale
    height, width = picture.shape[:2]
    in_frame = in_frame.clamp(min=0).minimum(torch.tensor([width, height] * 2).float())
    masks = None
    if made.masks:
        from ultralytics.utils.ops import process_mask_native

        prototypes = torch.from_numpy(outputs[1])[0]
        masks = process_mask_native(prototypes, rows[kept, end:], in_frame, (height, width)).numpy() > 0
    return Case(
        picture=picture,
        input=given,
        outputs=outputs,
        boxes=in_frame.numpy(),
        scores=scores[kept].numpy(),
        classes=classes[kept].numpy(),
        masks=masks,
        family="" if made.family == "yolov5" else made.family,
        labels=() if made.family == "yolov5" else LABELS,
    )
