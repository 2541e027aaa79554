"""What the engine needs of a model, whatever library runs it. It runs none itself.

`onnx_session.Session` is a model in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout


class Runner(Protocol):
    """Runs a model. Only one thread may use it; several runners of one model may run at once."""

    def run(self, slots: Sequence[Slot]) -> None:
        """Infer from the pixels of 1 to `max_batch` slots into their outputs. Raises: one of `run_errors`."""
        ...


class Model(Protocol):
    """A loaded model. Any thread may call it."""

    @property
    def provider(self) -> str:
        """What runs it, in the words of ONNX Runtime: CPUExecutionProvider, CUDAExecutionProvider, …"""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU."""
        ...

    @property
    def max_batch(self) -> int:
        """The most slots of one run; 1 if the model or the choice of its provider allows no more."""
        ...

    def layout(self, count: int) -> SlotLayout:
        """The layout of `count` slots for this model."""
        ...

    def runner(self) -> Runner:
        """Create a runner, with memory of its own for the model's input."""
        ...

    def wide_runner(self, threads: int) -> Runner:
        """Create a runner whose inferences use several threads each, of a model on the CPU.

        It may load the model again. Raises: BadModel.
        """
        ...
