"""Which variants are worth building, by what runs models on a board. Pure.

A middle of which only some layers are in INT8 is not among them: ONNX Runtime 1.31 optimises such a graph
of YOLOX-nano to one that agrees to 0.38; without its optimisation (0.92) it is slower than the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, OPENVINO, TENSORRT

Method = Literal["int8", "fp16"]


class NothingToBuild(Exception):
    """No variant is faster there. The text says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant. The head always stays in float."""

    precision: str
    method: Method = "int8"
    keep_stem: bool = False  # the first convolutions stay in float, too: they have few channels to gain from


_INT8 = (Candidate("int8"), Candidate("int8-stem", keep_stem=True))
_FP16 = Candidate("fp16", "fp16")

# ONNX Runtime computes a graph in QDQ on CUDA with operators that are slower than those of float. OpenVINO
# computes in BF16 by itself where the processor can: that needs no file of its own.
_BY_PROVIDER = {CPU: (*_INT8, _FP16), OPENVINO: (*_INT8, _FP16), CUDA: (_FP16,)}


def candidates(provider: str) -> tuple[Candidate, ...]:
    """The variants to build. Raises: NothingToBuild."""
    if provider == TENSORRT:
        raise NothingToBuild("models run on TensorRT here, for which each device builds a plan of its own")
    if provider not in _BY_PROVIDER:
        raise NothingToBuild(f"expected one of {', '.join(_BY_PROVIDER)}, and models run on {provider} here")
    return _BY_PROVIDER[provider]
