"""One ONNX model in ONNX Runtime, checked against its manifest. One session serves any number of threads.

It only infers: camera processes write the inputs and decode the outputs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamfleet_core.models import onnx_file, onnx_graph
from streamfleet_core.models.family_recognition import SIZES_INPUT
from streamfleet_core.models.onnx_graph import LOAD_TIME, LONG_RUN_TIME, RUN_TIME
from streamfleet_core.protocol.limits import MAX_BATCHED
from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.accelerators.batch_trial import Within, largest_batch
from streamfleet_worker.engine.accelerators.choice import CPU
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable, unusable
from streamfleet_worker.engine.normalize import normalize
from streamfleet_worker.engine.onnx_runtime import (
    load_libraries_of,
    onnx_runtime,
    run_errors,
    why_provider_is_missing,
)
from streamfleet_worker.engine.onnxruntime_errors import reason_in
from streamfleet_worker.families.adapter import BadOutput
from streamfleet_worker.families.adapters import adapter_of, input_format_of
from streamfleet_worker.ipc.shared_memory import FloatArray, Slot, SlotLayout

if TYPE_CHECKING:
    import onnxruntime as ort

# A folder that never exists, so that ONNX Runtime refuses models with weights in other files. (S21)
_NO_FOLDER = "/proc/streamfleet-no-external-data"

ACCELERATED_BATCH = MAX_BATCHED  # slots of one run on an accelerator

Shape = tuple[int, ...]

_INPUT_TYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_OUTPUT_TYPES = (np.float32, np.float16, np.int64, np.int32)
_MAX_BOXES = 300  # taken from a model whose number of boxes varies with the picture
_LEAST_OUTPUT = 4 * 1024**2  # numbers allowed in any output
_OF_INPUT = 32  # times the input size allowed for an output; heads with a thousand classes need eight


class BadModel(onnx_graph.BadModel):
    """A model that does not match its manifest, or that ONNX Runtime refuses. The text says why."""


class DamagedModel(BadModel):
    """A model file whose content does not match its digest."""


class Session:
    """A loaded model. Any thread may call it."""

    def __init__(
        self,
        weights_path: str,
        manifest: Manifest,
        *,
        within: Within = lambda _: contextlib.nullcontext(),
        on_trial: bool = False,
        provider: str = CPU,
        max_batch: int | None = None,
    ) -> None:
        """Load and check the model. Raises: BadModel; AcceleratorUnusable, if `provider` is one.

        `within`: limits the processor time of a step, in seconds.
        `provider`: what runs it, as ONNX Runtime names it. Nothing else does, apart from operators that an
        accelerator lacks.
        `on_trial`: only test whether it runs, on the CPU, for devices that may be faster.
        `max_batch`: the most slots of one run, if the model allows it; None: 1 on a CPU, where frames run
        side by side, and more on an accelerator.
        """
        self._weights_path, self._manifest, self._provider = weights_path, manifest, provider
        content, loops = _content(weights_path, manifest)
        with within(LOAD_TIME):
            self._session = _open(content, provider)
        del content  # it may be large, and ONNX Runtime has its own copy
        self._input_shape = _check_input(self._session, manifest)
        self._outputs = _outputs_of(self._session, manifest)
        # With NMS inside, the number of boxes may vary with the picture.
        self._varies = manifest.family == "end2end" and not _is_fixed(self._outputs[0].shape)
        with within(LONG_RUN_TIME if on_trial and not loops else RUN_TIME):
            self._output_shapes = self._warm_up()
        if max_batch is None:
            max_batch = 1 if self.on_cpu else ACCELERATED_BATCH
        self._max_batch = self._largest_batch(max_batch, within)

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs it."""
        return self._provider

    @property
    def varies(self) -> bool:
        """Whether the number of boxes in the output varies with the picture."""
        return self._varies

    @property
    def max_batch(self) -> int:
        """The most slots of one run."""
        return self._max_batch

    def layout(self, count: int) -> SlotLayout:
        """The layout of `count` slots for this model."""
        return SlotLayout(self._input_shape, self._output_shapes, count)

    def runner(self) -> Runner:
        """Create a runner, with memory of its own for the model's input."""
        return self._runner_of(self._session, max_batch=self._max_batch)

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU."""
        return self._provider == CPU

    def wide_runner(self, threads: int) -> Runner:
        """Load the model again, for a runner whose inferences use several threads each. Raises: BadModel."""
        content, _ = _content(self._weights_path, self._manifest)
        return self._runner_of(_open(content, CPU, threads=threads), max_batch=1)

    def _runner_of(self, session: ort.InferenceSession, *, max_batch: int) -> Runner:
        return Runner(session, self._manifest, self.layout(1), varies=self._varies, max_batch=max_batch)

    def _warm_up(self) -> tuple[Shape, ...]:
        """Run once on noise, to check the real shapes and the scores of the outputs.

        It also moves the cost of the first run away from the first camera.
        """
        pixels = np.random.default_rng(0).integers(0, 256, self._input_shape, np.uint8)
        noise = np.empty(self._input_shape, _input_type(self._session))
        normalize(pixels, input_format_of(self._manifest).scale, noise)
        names = [each.name for each in self._outputs]
        try:
            outputs = self._session.run(names, _feed(self._session, noise))
        except run_errors() as exc:
            self._blame_accelerator(exc)
            raise BadModel(f"the model cannot run: {_reason(exc)}") from exc
        first, *others = check_outputs(outputs, self._manifest)
        return ((1, _MAX_BOXES, first[2]) if self._varies else first, *others)

    def _blame_accelerator(self, error: Exception) -> None:
        """Raise AcceleratorUnusable if the accelerator is the cause of an error."""
        cause = None if self.on_cpu else unusable(str(error))
        if cause is not None:
            raise AcceleratorUnusable(cause) from error

    def _largest_batch(self, wanted: int, within: Within) -> int:
        if self._varies or isinstance(_picture_input(self._session).shape[0], int):
            return 1
        return largest_batch(
            lambda size: self._runner_of(self._session, max_batch=size),
            self.layout(1),
            adapter_of(self._manifest),
            wanted=wanted,
            within=within,
        )


class Runner:
    """Runs a model in ONNX Runtime. Only one thread may use it.

    Batches have 1, 2, 4, … slots, filled up with pictures of earlier ones: an accelerator prepares itself
    for each size, which takes seconds.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        layout: SlotLayout,
        *,
        varies: bool,
        max_batch: int,
    ) -> None:
        """Create its memory. `varies`: the number of boxes in the first output varies with the picture."""
        self._session, self._varies, self._max_batch = session, varies, max_batch
        self._scale = input_format_of(manifest).scale
        kind = _input_type(session)
        self._input = np.zeros((max_batch, *layout.input_shape[1:]), kind)
        outputs = _outputs_of(session, manifest)
        self._names = [each.name for each in outputs]
        self._input_name = _picture_input(session).name
        # ONNX Runtime writes into the slots, unless the model has other kinds of numbers or further inputs.
        are_floats = kind == np.float32 and all(each.type == "tensor(float)" for each in outputs)
        self._is_bound = are_floats and not varies and len(session.get_inputs()) == 1
        # A single slot gets its outputs from the model directly.
        count = max_batch if self._is_bound and max_batch > 1 else 0
        self._outputs = [np.empty((count, *shape[1:]), np.float32) for shape in layout.output_shapes]
        self._binding = session.io_binding()

    def run(self, slots: Sequence[Slot]) -> None:
        """Infer from the pixels of 1 to `max_batch` slots into their outputs.

        Raises: one of `run_errors`.
        """
        if not 1 <= len(slots) <= self._max_batch:
            raise ValueError(f"expected 1 to {self._max_batch} slots, got {len(slots)}")
        for index, slot in enumerate(slots):
            normalize(slot.input, self._scale, self._input[index : index + 1])
        size = 1 << (len(slots) - 1).bit_length()
        if not self._is_bound:
            self._copy(self._session.run(self._names, _feed(self._session, self._input[:size])), slots)
        elif len(slots) == 1:
            self._run_bound(self._input[:1], slots[0].outputs)
        else:
            outputs = [output[:size] for output in self._outputs]
            self._run_bound(self._input[:size], outputs)
            self._copy(outputs, slots)

    def _copy(self, outputs: Sequence[Any], slots: Sequence[Slot]) -> None:
        """Copy the outputs of a run into the slots. Raises: RuntimeError."""
        for number, output in enumerate(outputs):
            for index, slot in enumerate(slots):
                own, into = output[index : index + 1], slot.outputs[number]
                if self._varies and number == 0:
                    _copy_boxes(own, into)
                elif own.shape == into.shape:
                    np.copyto(into, own, casting="unsafe")
                else:
                    raise RuntimeError(f"expected an output of {_text(into.shape)}, got {_text(own.shape)}")

    def _run_bound(self, numbers: FloatArray, outputs: Sequence[FloatArray]) -> None:
        """Run from one array into others, without a copy in between."""
        self._binding.bind_input(self._input_name, "cpu", 0, np.float32, numbers.shape, numbers.ctypes.data)
        for name, output in zip(self._names, outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, np.float32, output.shape, output.ctypes.data)
        self._session.run_with_iobinding(self._binding)


def _picture_input(session: ort.InferenceSession) -> Any:
    return next(each for each in session.get_inputs() if each.name != SIZES_INPUT)


def _input_type(session: ort.InferenceSession) -> npt.DTypeLike:
    return _INPUT_TYPES[_picture_input(session).type]


def _feed(session: ort.InferenceSession, numbers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The inputs of a run: the pictures, and their sizes if the model scales its boxes itself."""
    feed = {_picture_input(session).name: numbers}
    if any(each.name == SIZES_INPUT for each in session.get_inputs()):
        count, _, height, width = numbers.shape
        feed[SIZES_INPUT] = np.tile(np.array([[width, height]], np.int64), (count, 1))
    return feed


def _outputs_of(session: ort.InferenceSession, manifest: Manifest) -> list[Any]:
    """The outputs that the family reads, in its order. Raises: BadModel."""
    outputs = {each.name: each for each in session.get_outputs()}
    names = manifest.outputs or tuple(outputs)[:1]
    if not all(name in outputs for name in names):
        raise BadModel(f"expected the outputs {', '.join(names)}, got {', '.join(list(outputs)[:8])}")
    return [outputs[name] for name in names]


def _content(weights_path: str, manifest: Manifest) -> tuple[bytes, bool]:
    """Read and verify the file. Returns its content, and whether its graph has loops. Raises: BadModel."""
    try:
        content = Path(weights_path).read_bytes()
    except OSError as exc:
        raise BadModel(f"the model file cannot be read: {exc.strerror}") from exc
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.weights.sha256:
        raise DamagedModel(f"expected a model file of sha256 {manifest.weights.sha256}, got {digest}")
    try:
        loops = onnx_file.read_graph(content).loops
    except onnx_graph.BadModel as exc:
        raise BadModel(str(exc)) from exc
    return content, loops


def _open(content: bytes, provider: str, *, threads: int = 1) -> ort.InferenceSession:
    """Create the session. Raises: BadModel, AcceleratorUnusable.

    `threads`: of one inference. With one, cores are used by running several frames in parallel.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # The threads of one inference wait for each other in a loop: else they would sleep at each of its steps.
    # The loop ends with the inference, or it would take the cores from everything else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and logged by us
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    try:
        load_libraries_of(provider)
        # Without its own fallback, which would run the model on the CPU and only print why.
        session = runtime.InferenceSession(
            content, options, providers=list(dict.fromkeys((provider, CPU))), enable_fallback=0
        )
    except run_errors() as exc:
        cause = None if provider == CPU else unusable(str(exc))
        if cause is not None:
            raise AcceleratorUnusable(cause) from exc
        raise BadModel(f"ONNX Runtime refuses the model: {_reason(exc)}") from exc
    if session.get_providers()[0] != provider:  # it leaves a provider out whose library cannot be loaded
        raise AcceleratorUnusable(_left_out(provider))
    return session


def _left_out(provider: str) -> MissingAccelerator:
    said = why_provider_is_missing(provider)
    return unusable(said) or MissingAccelerator(
        shown_reason(f"ONNX Runtime cannot load its {provider}" + (f": {said}" if said else "")),
        "its libraries must fit the driver and each other; ONNX Runtime prints more into the engine's log",
    )


def _check_input(session: ort.InferenceSession, manifest: Manifest) -> tuple[int, int, int, int]:
    inputs = [each for each in session.get_inputs() if each.name != SIZES_INPUT]
    if len(inputs) != 1:
        raise BadModel(f"expected one input, got {len(inputs)}")
    (given,) = inputs
    if given.type not in _INPUT_TYPES:
        raise BadModel(f"expected an input of float32, float16 or uint8, got {given.type}")
    expected = (1, 3, manifest.input_height, manifest.input_width)
    # A dynamic dimension has a name or None instead of a number.
    fits = len(given.shape) == 4 and all(
        have == need or not isinstance(have, int) for have, need in zip(given.shape, expected, strict=True)
    )
    if not fits:
        raise BadModel(f"expected an input of {_text(expected)}, got {_text(given.shape)}")
    return expected


def check_outputs(outputs: Sequence[Any], manifest: Manifest) -> tuple[Shape, ...]:
    """Check the outputs of a run on noise, and return their shapes. Raises: BadModel."""
    most = max(_LEAST_OUTPUT, _OF_INPUT * 3 * manifest.input_width * manifest.input_height)
    for output in outputs:
        if not isinstance(output, np.ndarray) or output.dtype not in _OUTPUT_TYPES or output.ndim > 4:
            got = f"{output.dtype} {_text(output.shape)}" if isinstance(output, np.ndarray) else type(output)
            raise BadModel(f"expected outputs of numbers of at most four dimensions, got {got}")
    if sum(output.size for output in outputs) > most:  # each camera allocates several
        what = "an output" if len(outputs) == 1 else "outputs together"
        shapes_seen = ", ".join(_text(output.shape) for output in outputs)
        raise BadModel(f"expected {what} of at most {most} numbers, got {shapes_seen}")
    shapes = tuple(output.shape for output in outputs)
    numbers = [np.asarray(output, np.float32) for output in outputs]
    adapter = adapter_of(manifest)
    try:
        adapter.check_shapes(shapes, manifest)
        adapter.check_values(numbers, manifest)
    except BadOutput as exc:
        raise BadModel(str(exc)) from exc
    return shapes


def _is_fixed(shape: Any) -> bool:
    return len(shape) == 3 and isinstance(shape[1], int)


def _copy_boxes(output: Any, into: FloatArray) -> None:
    """Copy the most confident boxes of a run that fit. Raises: RuntimeError."""
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != into.shape[2]:
        raise RuntimeError(f"expected an output of (1, N, {into.shape[2]}), got {_text(output.shape)}")
    boxes = output[0]
    if len(boxes) > into.shape[1]:
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")[: into.shape[1]]]
    into[0, : len(boxes)] = boxes
    into[0, len(boxes) :] = 0


def _reason(exc: Exception) -> str:
    reason = reason_in(exc)
    if isinstance(exc, MemoryError) or "allocate memory" in reason or "bad_alloc" in reason:
        return f"it needs more memory than a model of its size may take ({reason})"
    return reason


def _text(shape: Any) -> str:
    with contextlib.suppress(TypeError):
        return "(" + ", ".join(str(dimension) for dimension in shape) + ")"
    return str(shape)
