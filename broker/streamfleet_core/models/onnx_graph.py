"""The parts of a model file that matter here, and the limits of what a device runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_FILE = 2 * 1024**3  # bytes: the limit of a protobuf message
MAX_IR_VERSION = 13  # the highest that ONNX Runtime 1.31 loads
MAX_OPSET = 26  # the same
LOAD_TIME = 20  # seconds of processor time to load a model
RUN_TIME = 10  # seconds of processor time for the first inference
LONG_RUN_TIME = 30  # the same in the API, for a graph without loops: devices may be faster
TOO_LONG = (
    f"it took too long: loading may take {LOAD_TIME} s of processor time, an inference {RUN_TIME} s, "
    "three times as long with a GPU"
)
Shape = tuple[int | None, ...]  # None for a dynamic dimension


class BadModel(Exception):
    """A file that no device can run."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph."""

    name: str
    dtype: str  # in ONNX's spelling, as FLOAT
    shape: Shape

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name!r} {self.dtype} ({dims})"


def fit_together(expected: Sequence[Port], got: Sequence[Port]) -> bool:
    """Whether ports have the same names and types, and sizes that can be the same."""
    return len(expected) == len(got) and all(
        one.name == other.name
        and one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(None in pair or pair[0] == pair[1] for pair in zip(one.shape, other.shape, strict=True))
        for one, other in zip(expected, got, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The parts of a model file that matter here."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: dict[str, str]
    ir_version: int = 0
    opset: int = 0  # version of ONNX's own operators
    loops: bool = False  # with loops, the run time does not follow from the size
