"""Random weights with which a model finds something: a few dozen objects of several classes and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from tests.references.pictures import drawn

NEARLY = -1.1  # the logit of a score of 0.25


def settle(model: nn.Module, height: int, width: int) -> None:
    """Give the normalizing layers the statistics of pictures, without which activations fade."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
    model.train()
    pictures = np.stack([drawn((width, height), seed) for seed in range(10, 14)])
    with torch.no_grad():
        model(numbers(np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2))))
    model.eval()


def spread(
    run: Callable[[], object],
    layers: Iterable[nn.Module],
    deviation: float,
    mean: float = 0.0,
    confident: int | None = None,
) -> None:
    """Scale the last layers of some branches so that their numbers have this deviation and mean.

    `confident`: move them so that as many places have a number above that of the score 0.25.
    """
    last = [
        [each for each in layer.modules() if isinstance(each, nn.Conv2d | nn.Linear)][-1] for layer in layers
    ]
    for layer, values in zip(last, _numbers_of(run, last), strict=True):
        if values is not None:
            _scale(layer, values, deviation, mean)
    if confident is not None:
        best = torch.cat([values.amax(1) for values in _numbers_of(run, last) if values is not None])
        shift = NEARLY - float(best.sort(descending=True).values[min(confident, len(best) - 1)])
        for layer in last:
            layer.bias.data.add_(shift)


def smooth(layer: nn.Module, channels: int) -> nn.Module:
    """A layer whose numbers change slowly from place to place, and are as often above 0 as below."""
    return nn.Sequential(layer, nn.AvgPool2d(11, 1, 5), nn.InstanceNorm2d(channels))


def _numbers_of(run: Callable[[], object], layers: list[nn.Module]) -> list[torch.Tensor | None]:
    """What each layer gives in a run: (places, channels); None if it was not run."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _module, _given, out, at=at: seen.update({at: out.detach()}))
        for at, layer in enumerate(layers)
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return [None if at not in seen else _rows(seen[at]) for at in range(len(layers))]


def _rows(values: torch.Tensor) -> torch.Tensor:
    """(places, channels) of (1, channels, height, width) or (1, places, channels)."""
    return values.flatten(2)[0].T if values.dim() == 4 else values.flatten(0, -2)


def _scale(layer: nn.Module, values: torch.Tensor, deviation: float, mean: float) -> None:
    factor = deviation / values.std(0).clamp(min=1e-6)
    layer.weight.data.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.data.copy_((layer.bias.data - values.mean(0)) * factor + mean)


def numbers(pixels: np.ndarray) -> torch.Tensor:
    """Numbers from 0 to 1 of pixels."""
    return torch.from_numpy(pixels).float() / 255


def run_file(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of a model file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs
