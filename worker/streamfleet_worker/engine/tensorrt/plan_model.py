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
from streamfleet_worker.engine.tensorrt.library import Plan, TensorRT, TensorRTError
from streamfleet_worker.families.adapters import adapter_of, input_format_of
from streamfleet_worker.ipc.shared_memory import FloatArray, Slot, SlotLayout, new_slot

_FLOAT = 4  # bytes

# Checks the outputs of a frame, and returns their shapes. Raises: BadModel.
CheckOutputs = Callable[[Sequence[FloatArray]], tuple[tuple[int, ...], ...]]


class PlanModel:
    """A loaded plan. Any thread may call it."""

    def __init__(
        self,
        plan: bytes,
        manifest: Manifest,
        *,
        library: TensorRT,
        cuda: Cuda,
        check: CheckOutputs,
        max_batch: int,
    ) -> None:
        """Load a plan, and run it once on noise. Raises: BadModel, and what `Plan` and `Cuda` raise."""
        self._scale = input_format_of(manifest).scale
        self._cuda = cuda
        self._plan = library.load(plan)
        self._input_shape = (1, 3, manifest.input_height, manifest.input_width)
        self._read = _read_outputs(self._plan, manifest)
        shapes = self._plan.set_input_shape(self._input_shape)
        if any(not shape or len(shape) > 4 or -1 in shape for shape in shapes):
            raise TensorRTError(f"expected outputs of at most four known dimensions, got {shapes}")
        self._output_shapes = tuple(shapes[number] for number in self._read)
        self._stream = cuda.stream()
        self._lock = threading.Lock()  # guards the plan and the stream
        self._given = cuda.allocate(max_batch * int(np.prod(self._input_shape)) * _FLOAT)
        # All outputs need memory, also those that are not read, whose numbers have at most eight bytes.
        self._outputs = [cuda.allocate(max_batch * int(np.prod(shape)) * 2 * _FLOAT) for shape in shapes]
        first = new_slot(self.layout(1))
        np.copyto(first.input, np.random.default_rng(0).integers(0, 256, self._input_shape, np.uint8))
        PlanRunner(self, 1).run([first])
        self._output_shapes = check(first.outputs)
        is_open = -1 in self._plan.inputs[0].shape
        self._max_batch = largest_batch(
            lambda size: PlanRunner(self, size),
            self.layout(1),
            adapter_of(manifest),
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
        return SlotLayout(self._input_shape, self._output_shapes, count)

    def runner(self) -> Runner:
        """Create a runner, with memory of its own for the model's input."""
        return PlanRunner(self, self._max_batch)

    def wide_runner(self, threads: int) -> Runner:
        """Create a runner as any other: a GPU has no threads to choose."""
        return self.runner()

    def normalize(self, slot: Slot, into: FloatArray) -> None:
        """Write the pixels of a slot as the numbers (1, 3, height, width) that the model expects."""
        normalize(slot.input, self._scale, into)

    def infer(self, numbers: FloatArray, outputs: Sequence[FloatArray]) -> None:
        """Infer from (count, 3, height, width) into the outputs, (count, …) each. Raises: RuntimeError."""
        with self._lock:
            shapes = self._plan.set_input_shape(numbers.shape)
            for number, output in zip(self._read, outputs, strict=True):
                if shapes[number] != output.shape:
                    raise TensorRTError(f"expected an output of {output.shape}, got {shapes[number]}")
            self._cuda.upload(numbers, self._given, self._stream)
            self._plan.run(self._given, self._outputs, self._stream)
            for number, output in zip(self._read, outputs, strict=True):
                self._cuda.download(self._outputs[number], output, self._stream)
            self._cuda.wait(self._stream)


class PlanRunner:
    """Runs a plan. Only one thread may use it."""

    def __init__(self, model: PlanModel, max_batch: int) -> None:
        self._model = model
        layout = model.layout(1)
        self._input = np.zeros((max_batch, *layout.input_shape[1:]), np.float32)
        self._outputs = [np.empty((max_batch, *shape[1:]), np.float32) for shape in layout.output_shapes]

    def run(self, slots: Sequence[Slot]) -> None:
        """Infer from the pixels of 1 to `max_batch` slots into their outputs. Raises: one of `run_errors`."""
        count = len(slots)
        if not 1 <= count <= len(self._input):
            raise ValueError(f"expected 1 to {len(self._input)} slots, got {count}")
        for index, slot in enumerate(slots):
            self._model.normalize(slot, self._input[index : index + 1])
        self._model.infer(self._input[:count], [output[:count] for output in self._outputs])
        for index, slot in enumerate(slots):
            for into, output in zip(slot.outputs, self._outputs, strict=True):
                np.copyto(into[0], output[index])


def _read_outputs(plan: Plan, manifest: Manifest) -> list[int]:
    """The numbers of the outputs that the family reads, in its order. Raises: TensorRTError."""
    counts = len(plan.inputs), len(plan.outputs)
    if counts[0] != 1 or counts[1] < 1:
        raise TensorRTError(f"expected a plan of one input and an output, got {counts}")
    names = [each.name for each in plan.outputs]
    if not all(name in names for name in manifest.outputs):
        raise TensorRTError(f"expected a plan with the outputs {manifest.outputs}, got {names}")
    read = [names.index(name) for name in manifest.outputs] or [0]
    if not all(plan.outputs[number].is_float for number in read):
        raise TensorRTError("expected outputs of float32, got others")
    return read
