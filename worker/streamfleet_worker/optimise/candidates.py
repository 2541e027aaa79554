"""Which variants are worth building, by what runs models on a board. Pure.

A middle of which only some layers are in INT8 is not among them: ONNX Runtime 1.31 optimises such a graph
of YOLOX-nano to one that agrees to 0.38; without its optimisation (0.92) it is slower than the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_worker.engine.accelerators.choice import CPU, TENSORRT


class NothingToBuild(Exception):
    """No variant is faster there. The text says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant in INT8. The head always stays in float."""

    precision: str
    keep_stem: bool = False  # the first convolutions stay in float, too: they have few channels to gain from


def candidates(provider: str) -> tuple[Candidate, ...]:
    """The variants to build. Raises: NothingToBuild."""
    if provider == CPU:
        return Candidate("int8"), Candidate("int8-stem", keep_stem=True)
    if provider == TENSORRT:
        raise NothingToBuild("models run on TensorRT here, for which each device builds a plan of its own")
    raise NothingToBuild(f"variants are built for {CPU}, and models run on {provider} here")
