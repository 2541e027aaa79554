"""Train the detector of the demo on generated scenes, and export it in the layout of an Ultralytics export.

The frames are drawn with the worker's code; no other data is used. PyTorch is required, which is not a
dependency of the project: README.md in this folder describes how to run it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from streamfleet_worker.video.synthetic.conveyor import HEIGHT, WIDTH, Scene
from streamfleet_worker.video.synthetic.parts import LABELS

SIDE = 320  # pixels of the square input
STRIDE = 8  # pixels of the input per cell
PAD = 114 / 255  # the colour of the worker's letterbox
FIRST_NUMBER = 1000  # of the training scenes; scenes below are held out
MAX_PARTS = 32  # per frame; more than any scene has

_SCALE = SIDE / WIDTH
_HEIGHT = round(HEIGHT * _SCALE)  # pixels of the input that the picture covers
_TOP = (SIDE - _HEIGHT) // 2
_MARGIN = 8  # rows of padding on each side in training; more would cost time without effect


# the network ----------------------------------------------------------------------------------------------


class Convolution(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """A bottleneck with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = Convolution(channels, channels // 2, 1)
        self.widen = Convolution(channels // 2, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        return features + self.widen(self.squeeze(features))


class Detector(nn.Module):
    """Sums features of strides 8 and 16 at stride 8, where each cell predicts one class and one box."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            Convolution(3, 16, stride=2),
            Convolution(16, 32, stride=2),
            Convolution(32, 64, stride=2),
            Residual(64),
            Residual(64),
        )
        self.coarse = nn.Sequential(
            Convolution(64, 80, stride=2), Residual(80), Residual(80), Convolution(80, 64, 1)
        )
        self.lateral = Convolution(64, 64, 1)
        self.head = Convolution(64, 48)
        self.out = nn.Conv2d(48, 4 + len(LABELS), 1)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.out.bias[:4] = 2.0  # initial boxes of about four cells
            self.out.bias[4:] = -math.log(99)  # few cells have a part

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) RGB 0…1 to (n, 7, h / 8, w / 8): left, top, right, bottom; class logits."""
        fine = self.fine(images)
        coarse = functional.interpolate(self.coarse(fine), scale_factor=2.0, mode="nearest")
        return self.out(self.head(self.lateral(fine) + coarse))


# the frames -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frames:
    """Pictures at the size of the input without padding, and their parts."""

    images: torch.Tensor  # (n, 3, 240, 320) uint8 RGB
    boxes: torch.Tensor  # (n, MAX_PARTS, 4) float32 xyxy, pixels of the picture
    classes: torch.Tensor  # (n, MAX_PARTS) int64, -1: no part


def draw_frames(scenes: int, frames: int, seed: int) -> Frames:
    """Draw `frames` random frames of each of `scenes` scenes."""
    rng = np.random.default_rng(seed)
    images = np.empty((scenes * frames, 3, _HEIGHT, SIDE), np.uint8)
    boxes = np.zeros((scenes * frames, MAX_PARTS, 4), np.float32)
    classes = np.full((scenes * frames, MAX_PARTS), -1, np.int64)
    row = 0
    for number in range(FIRST_NUMBER, FIRST_NUMBER + scenes):
        scene = Scene(number)
        for frame_id in rng.integers(1, 100_000, size=frames):
            small = cv2.resize(scene.draw(int(frame_id)), (SIDE, _HEIGHT), interpolation=cv2.INTER_LINEAR)
            images[row] = small[..., ::-1].transpose(2, 0, 1)
            xyxy, class_id = scene.truth(int(frame_id))
            boxes[row, : len(xyxy)] = xyxy * _SCALE
            classes[row, : len(xyxy)] = class_id
            row += 1
    return Frames(torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(classes))


def batch_of(
    frames: Frames, rows: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return padded images, boxes and classes, with random mirroring and light."""
    images, boxes = frames.images[rows].float() / 255, frames.boxes[rows].clone()
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(3)
        boxes[..., [0, 2]] = SIDE - boxes[..., [2, 0]]
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(2)
        boxes[..., [1, 3]] = _HEIGHT - boxes[..., [3, 1]]
    count = len(rows)
    tint = 1 + 0.3 * (torch.rand((count, 3, 1, 1), generator=generator) - 0.5)
    gain = 1 + 0.5 * (torch.rand((count, 1, 1, 1), generator=generator) - 0.5)
    shift = 0.12 * (torch.rand((count, 1, 1, 1), generator=generator) - 0.5)
    images = (images * tint * gain + shift).clamp(0, 1)
    boxes[..., [1, 3]] += _MARGIN
    images = functional.pad(images, (0, 0, _MARGIN, _MARGIN), value=PAD)
    return images.contiguous(memory_format=torch.channels_last), boxes, frames.classes[rows]


# the loss -------------------------------------------------------------------------------------------------


def cells_of(height: int, width: int) -> torch.Tensor:
    """(height * width, 2) centres of the cells, in pixels of the input."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2).float() + 0.5) * STRIDE


def loss_of(output: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the loss.

    The cells near the centre of a part learn it, with the IoU of their box as the target of the confidence.
    """
    count, _, height, width = output.shape
    cells = cells_of(height, width)
    flat = output.float().flatten(2).transpose(1, 2)  # (n, cells, 7)
    part, is_positive = assign(cells, boxes, classes)
    image, cell = is_positive.nonzero(as_tuple=True)
    chosen = part[image, cell]
    target = boxes[image, chosen]
    found = to_xyxy(cells[cell], flat[image, cell, :4])
    overlap, generalised = overlaps(found, target)
    targets = torch.zeros((count, len(cells), len(LABELS)))
    targets[image, cell, classes[image, chosen]] = overlap.detach().clamp(min=0.2)
    logits = flat[..., 4:]
    weights = torch.where(targets > 0, 1.0, 0.75 * logits.detach().sigmoid() ** 2)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((entropy * weights).sum() + 2.0 * (1 - generalised).sum()) / max(1, len(image))


def assign(
    cells: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each cell (n, cells), return the part with the nearest centre, and whether the cell learns it."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2  # (n, parts, 2)
    away = (cells[None, :, None] - centres[:, None]).abs().amax(dim=-1)  # (n, cells, parts)
    inside = (cells[None, :, None] > boxes[:, None, :, :2]) & (cells[None, :, None] < boxes[:, None, :, 2:])
    # A part that contains no centre of a cell belongs to the cell that contains it.
    fits = (away < 1.5 * STRIDE) & (inside.all(dim=-1) | (away <= 0.5 * STRIDE)) & (classes >= 0)[:, None]
    distance = torch.where(fits, away, torch.inf)
    nearest, part = distance.min(dim=-1)
    return part, nearest.isfinite()


def to_xyxy(cells: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Convert the raw distances (n, 4) of these cells (n, 2) to boxes (n, 4)."""
    reach = functional.softplus(distances) * STRIDE
    return torch.cat([cells - reach[:, :2], cells + reach[:, 2:]], dim=1)


def overlaps(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return IoU and generalised IoU (Rezatofighi et al. 2019) of boxes, row by row."""
    common = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0)
    around = torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])
    both = common.prod(dim=1)
    union = (one[:, 2:] - one[:, :2]).prod(dim=1) + (other[:, 2:] - other[:, :2]).prod(dim=1) - both
    iou, hull = both / union.clamp(min=1e-6), around.prod(dim=1).clamp(min=1e-6)
    return iou, iou - (hull - union) / hull


# the training ---------------------------------------------------------------------------------------------


def train(frames: Frames, epochs: int, batch: int, seed: int) -> tuple[Detector, float]:
    """Return a detector with averaged weights, which beat the last ones, and the loss of the last epoch."""
    generator = torch.Generator().manual_seed(seed)
    detector = Detector().to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        detector, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    steps = epochs * (len(frames.images) // batch)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    begin, losses = time.monotonic(), [math.nan]
    for epoch in range(epochs):
        losses.clear()
        order = torch.randperm(len(frames.images), generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            images, boxes, classes = batch_of(frames, rows, generator)
            with torch.autocast("cpu", torch.bfloat16):
                output = detector(images)
            loss = loss_of(output, boxes, classes)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(detector)
            losses.append(loss.item())
            if len(losses) % 50 == 0:
                mean = sum(losses[-50:]) / 50
                print(
                    f"epoch {epoch} step {len(losses)}: {mean:.3f}, {time.monotonic() - begin:.0f} s",
                    flush=True,
                )
    return average.module.eval(), sum(losses) / len(losses)


# the file -------------------------------------------------------------------------------------------------


def export(detector: Detector, about: dict[str, str]) -> bytes:
    """Return an ONNX file with the input, the output and the metadata of an Ultralytics export."""
    graph = _Graph()
    _trace(graph, detector)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "conveyor",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 4 + len(LABELS), graph.cells])],
            graph.constants,
        ),
        producer_name="streamfleet",
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    names = ", ".join(f"{index}: {label!r}" for index, label in enumerate(LABELS))
    properties = {
        "task": "detect",
        "names": f"{{{names}}}",
        "stride": "16",
        "imgsz": f"[{SIDE}, {SIDE}]",
        **about,
    }
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Graph:
    """The nodes and constants of an ONNX graph."""

    cells = (SIDE // STRIDE) ** 2

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def convolution(self, source: str, layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> str:
        """Add a convolution with the normalisation folded into its weights."""
        weight = layer.weight.detach().float()
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        if norm is not None:
            scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
            weight, bias = weight * scale[:, None, None, None], norm.bias.detach() - norm.running_mean * scale
        pads = [layer.padding[0]] * 4
        names = (self.constant(weight.contiguous().numpy()), self.constant(bias.numpy()))
        return self.add("Conv", source, *names, pads=pads, strides=list(layer.stride))


def _trace(graph: _Graph, detector: Detector) -> None:
    fine = _through(graph, "images", detector.fine)
    coarse = _through(graph, fine, detector.coarse)
    sizes = graph.constant(np.array([1, 1, 2, 2], np.float32))
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    large = graph.add("Resize", coarse, "", sizes, **attributes)
    both = graph.add("Add", _through(graph, fine, detector.lateral), large)
    raw = graph.convolution(_through(graph, both, detector.head), detector.out, None)
    shape = graph.constant(np.array([1, 4 + len(LABELS), graph.cells], np.int64))
    flat = graph.add("Reshape", raw, shape)
    splits = graph.constant(np.array([2, 2, len(LABELS)], np.int64))
    before, after, logits = "before", "after", "logits"
    graph.nodes.append(helper.make_node("Split", [flat, splits], [before, after, logits], axis=1))
    stride = graph.constant(np.array(STRIDE, np.float32))
    before = graph.add("Mul", graph.add("Softplus", before), stride)
    after = graph.add("Mul", graph.add("Softplus", after), stride)
    cells = graph.constant(cells_of(SIDE // STRIDE, SIDE // STRIDE).numpy().T[None])
    half = graph.add("Mul", graph.add("Sub", after, before), graph.constant(np.array(0.5, np.float32)))
    centre, size = graph.add("Add", cells, half), graph.add("Add", before, after)
    graph.add("Concat", centre, size, graph.add("Sigmoid", logits), output="output0", axis=1)


def _through(graph: _Graph, source: str, module: nn.Module) -> str:
    match module:
        case Convolution():
            return graph.add("Relu", graph.convolution(source, module[0], module[1]))
        case Residual():
            return graph.add(
                "Add", source, _through(graph, _through(graph, source, module.squeeze), module.widen)
            )
        case nn.Sequential():
            for layer in module:
                source = _through(graph, source, layer)
            return source
    raise TypeError(f"expected a layer of this detector, got {module!r}")


def main() -> None:
    """Train the detector and write the ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the ONNX file to write")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--frames", type=int, default=22, help="frames per scene")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    begin = time.monotonic()
    frames = draw_frames(options.scenes, options.frames, options.seed)
    drawn = time.monotonic()
    print(f"{len(frames.images)} frames drawn in {drawn - begin:.0f} s", flush=True)
    detector, loss = train(frames, options.epochs, options.batch, options.seed)
    seconds = time.monotonic() - drawn
    content = export(
        detector, {"description": "The detector of the Streamfleet demo", "license": "Apache-2.0"}
    )
    options.out.write_bytes(content)
    parameters = sum(each.numel() for each in detector.parameters())
    figures = {
        "parameters": parameters,
        "bytes": len(content),
        "loss": round(loss, 3),
        "seconds": round(seconds),
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
