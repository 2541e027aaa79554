"""One ONNX model in ONNX Runtime, checked against its manifest. One session serves any number of run threads.

Only inference happens here: pixels are made and outputs are read by the camera processes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from streamfleet_broker.protocol.values import Manifest
from streamfleet_worker.engine.slots import Slot, SlotLayout

# In order of preference. TensorRT is not among them: it builds for minutes at each start.
_PROVIDERS = ("CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider")

# A folder that never exists: ONNX Runtime then refuses every model that keeps weights in other files. (S21)
_NO_FOLDER = "/proc/streamfleet-no-external-data"
# Before 1.24 it follows absolute paths all the same. What points to another file is an entry of this name.
_POINTER = b"\x0a\x08location"

_STRIDES = (8, 16, 32)  # pixels an anchor point, of YOLOX

# ONNX Runtime's exceptions have no base of their own.
RunError: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


class BadModel(Exception):
    """A model that cannot serve its manifest; the text says why."""


class Session:
    """A loaded model. Any thread may call it; a prepared run belongs to one thread at a time."""

    def __init__(self, weights_path: str, manifest: Manifest) -> None:
        """Raises: BadModel."""
        self._session = open_session(weights_path)
        self._input_name, self._input_shape = _check_input(self._session, manifest)
        self._output_name = self._session.get_outputs()[0].name
        self._output_shape = self._warm_up(manifest)
        self.provider: str = self._session.get_providers()[0]

    def layout(self, count: int) -> SlotLayout:
        """The memory of so many slots for this model."""
        return SlotLayout(self._input_shape, self._output_shape, count)

    def prepare(self, slot: Slot) -> ort.IOBinding:
        """A run that reads and writes the slot where it lies."""
        binding = self._session.io_binding()
        binding.bind_input(self._input_name, "cpu", 0, np.float32, slot.input.shape, slot.input.ctypes.data)
        binding.bind_output(
            self._output_name, "cpu", 0, np.float32, slot.output.shape, slot.output.ctypes.data
        )
        return binding

    def run(self, binding: ort.IOBinding) -> None:
        """Infer once. Raises: one of `RunError`."""
        self._session.run_with_iobinding(binding)

    def _warm_up(self, manifest: Manifest) -> tuple[int, int, int]:
        """Run once on black: it shows the output's true shape, and the first camera is not the one to pay."""
        black = np.zeros(self._input_shape, np.float32)
        try:
            (output,) = self._session.run([self._output_name], {self._input_name: black})
        except RunError as exc:
            raise BadModel(f"the model cannot run: {_first_line(exc)}") from exc
        return _check_output(output, manifest)


def open_session(weights_path: str, *, to_run: bool = True) -> ort.InferenceSession:
    """A model file in ONNX Runtime; only to look into it takes less time. Raises: BadModel."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # cores are shared out by running frames side by side
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    providers = ["CPUExecutionProvider"]
    if to_run:
        offered = ort.get_available_providers()
        providers = [name for name in _PROVIDERS if name in offered]
    else:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        content = Path(weights_path).read_bytes()
    except OSError as exc:
        raise BadModel(f"the model file cannot be read: {exc.strerror}") from exc
    if _POINTER in content:
        raise BadModel("the model keeps weights in other files (external data); export it as one file")
    try:
        return ort.InferenceSession(content, options, providers=providers)
    except RunError as exc:
        raise BadModel(f"ONNX Runtime refuses the model: {_first_line(exc)}") from exc


def _check_input(session: ort.InferenceSession, manifest: Manifest) -> tuple[str, tuple[int, int, int, int]]:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise BadModel(f"expected one input, the model has {len(inputs)}")
    (given,) = inputs
    if given.type != "tensor(float)":
        raise BadModel(f"expected an input of float32, the model takes {given.type}")
    expected = (1, 3, manifest.input_height, manifest.input_width)
    # A dimension that the model leaves open has a name, or nothing, in the place of a number.
    fits = len(given.shape) == 4 and all(
        have == want or not isinstance(have, int) for have, want in zip(given.shape, expected, strict=True)
    )
    if not fits:
        raise BadModel(f"expected an input of {_text(expected)}, the model takes {_text(given.shape)}")
    return given.name, expected


def _check_output(output: Any, manifest: Manifest) -> tuple[int, int, int]:
    classes = len(manifest.labels)
    if not isinstance(output, np.ndarray) or output.dtype != np.float32 or output.ndim != 3:
        came = (
            f"{output.dtype} {_text(output.shape)}"
            if isinstance(output, np.ndarray)
            else type(output).__name__
        )
        raise BadModel(f"expected an output of three dimensions in float32, the model gives {came}")
    batch, rows, columns = output.shape
    if manifest.family == "yolox":
        points = sum(
            (manifest.input_height // stride) * (manifest.input_width // stride) for stride in _STRIDES
        )
        fits, expected = (batch, rows, columns) == (1, points, 5 + classes), f"(1, {points}, {5 + classes})"
    else:
        fits, expected = (batch, rows) == (1, 4 + classes), f"(1, {4 + classes}, N)"
    if not fits:
        raise BadModel(
            f"expected an output of {expected} for the family {manifest.family} and {classes} labels, "
            f"the model gives {_text(output.shape)}"
        )
    return batch, rows, columns


def _text(shape: Any) -> str:
    with contextlib.suppress(TypeError):
        return "(" + ", ".join(str(dimension) for dimension in shape) + ")"
    return str(shape)


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]
