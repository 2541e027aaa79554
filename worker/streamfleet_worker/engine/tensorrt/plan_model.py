"""A model in TensorRT. Runs take turns on one stream: a GPU runs one at a time anyway.

It only infers: camera processes write the inputs and decode the outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.accelerators.batch_trial import largest_batch
from streamfleet_worker.engine.accelerators.choice import TENSORRT
from streamfleet_worker.engine.interface import Runner
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.engine.tensorrt.cuda import Cuda
from streamfleet_worker.engine.tensorrt.library import TensorRT, TensorRTError
from streamfleet_worker.ipc.shared_memory import FloatArray, Slot, SlotLayout

_FLOAT = 4  # bytes

# Checks an output (1, rows, columns), and returns its shape. Raises: BadModel.
CheckOutput = Callable[[FloatArray], tuple[int, int, int]]


class PlanModel:
    """A loaded plan. Any thread may call it."""

    def __init__(
        self,
        plan: bytes,
        manifest: Manifest,
        *,
        library: TensorRT,
        cuda: Cuda,
        check: CheckOutput,
        max_batch: int,
    ) -> None:
        """Load a plan, and run it once on noise. Raises: BadModel, and what `Plan` and `Cuda` raise."""
        self._family = manifest.family
        self._cuda = cuda
        self._plan = library.load(plan)
        self._input_shape = (1, 3, manifest.input_height, manifest.input_width)
        counts = len(self._plan.inputs), len(self._plan.outputs)
        if counts[0] != 1 or counts[1] < 1:
            raise TensorRTError(f"expected a plan of one input and an output, got {counts}")
        output_shape = self._plan.set_input_shape(self._input_shape)
        if len(output_shape) != 3 or -1 in output_shape:
            raise TensorRTError(f"expected an output of three known dimensions, got {output_shape}")
        self._output_shape = (output_shape[0], output_shape[1], output_shape[2])
        self._stream = cuda.stream()
        self._lock = threading.Lock()  # guards the plan and the stream
        self._given = cuda.allocate(max_batch * int(np.prod(self._input_shape)) * _FLOAT)
        self._output = cuda.allocate(max_batch * int(np.prod(self._output_shape)) * _FLOAT)
        pixels = np.random.default_rng(0).integers(0, 256, self._input_shape, np.uint8)
        first = Slot(pixels, np.empty(self._output_shape, np.float32))
        PlanRunner(self, 1).run([first])
        self._output_shape = check(first.output)
        is_open = -1 in self._plan.inputs[0].shape
        self._max_batch = largest_batch(
            lambda size: PlanRunner(self, size),
            self.layout(1),
            self._family,
            wanted=max_batch if is_open else 1,
        )

    @property
    def provider(self) -> str:
        """TensorRT, as it is no provider of ONNX Runtime."""
        return TENSORRT

    @property
    def on_cpu(self) -> bool:
        """It never runs on the CPU."""
        return False

    @property
    def max_batch(self) -> int:
        """The most slots of one run."""
        return self._max_batch

    def layout(self, count: int) -> SlotLayout:
        """The layout of `count` slots for this model."""
        return SlotLayout(self._input_shape, self._output_shape, count)

    def runner(self) -> Runner:
        """Create a runner, with memory of its own for the model's input."""
        return PlanRunner(self, self._max_batch)

    def wide_runner(self, threads: int) -> Runner:
        """Create a runner as any other: a GPU has no threads to choose."""
        return self.runner()

    def normalize(self, slot: Slot, into: FloatArray) -> None:
        """Write the pixels of a slot as the numbers (1, 3, height, width) that the model expects."""
        normalize(slot.input, self._family, into)

    def infer(self, numbers: FloatArray, output: FloatArray) -> None:
        """Infer from (count, 3, height, width) into (count, rows, columns). Raises: RuntimeError."""
        with self._lock:
            shape = self._plan.set_input_shape(numbers.shape)
            if shape != output.shape:
                raise TensorRTError(f"expected an output of {output.shape}, got {shape}")
            self._cuda.upload(numbers, self._given, self._stream)
            self._plan.run(self._given, self._output, self._stream)
            self._cuda.download(self._output, output, self._stream)
            self._cuda.wait(self._stream)


class PlanRunner:
    """Runs a plan. Only one thread may use it."""

    def __init__(self, model: PlanModel, max_batch: int) -> None:
        self._model = model
        layout = model.layout(1)
        self._input = np.zeros((max_batch, *layout.input_shape[1:]), np.float32)
        self._output = np.empty((max_batch, *layout.output_shape[1:]), np.float32)

    def run(self, slots: Sequence[Slot]) -> None:
        """Infer from the pixels of 1 to `max_batch` slots into their outputs. Raises: one of `run_errors`."""
        count = len(slots)
        if not 1 <= count <= len(self._input):
            raise ValueError(f"expected 1 to {len(self._input)} slots, got {count}")
        for index, slot in enumerate(slots):
            self._model.normalize(slot, self._input[index : index + 1])
        self._model.infer(self._input[:count], self._output[:count])
        for index, slot in enumerate(slots):
            np.copyto(slot.output[0], self._output[index])
