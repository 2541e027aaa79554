"""The few calls of the module `tensorrt` that are used. It is TensorRT 8.5 or newer, and may be missing.

Nothing else names anything of that module, so that a fake module can stand for it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MODULE = "tensorrt"
_WORKSPACE = 1024**3  # bytes of GPU memory for trials of kernels; a Jetson shares it with everything else
_MESSAGES = 5  # of TensorRT, that are kept for an error

Shape = tuple[int, ...]


class TensorRTError(RuntimeError):
    """TensorRT could not build, load or run a plan. The text has what it logged."""


def installed_version() -> str:
    """The version of TensorRT's Python module; "" without one. The first call loads it, which takes time."""
    if importlib.util.find_spec(_MODULE) is None:
        return ""
    try:
        return str(importlib.import_module(_MODULE).__version__)
    except (ImportError, OSError, AttributeError):  # a module without its libraries
        return ""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a plan."""

    name: str
    shape: Shape  # -1 for a dimension that is chosen with each run
    is_float: bool = True  # whether its numbers are float32


class TensorRT:
    """TensorRT, with a log that errors quote. Only one thread may use it at a time."""

    def __init__(self) -> None:
        self._module: Any = importlib.import_module(_MODULE)
        self._errors: list[str] = []
        self._warnings: list[str] = []  # some versions tell of a driver that fails in a warning
        self._logger = _logger(self._module, self._errors, self._warnings)

    def build(self, content: bytes, *, max_batch: int) -> bytes:
        """Compile an ONNX model for the GPU of this machine, which takes minutes. Raises: TensorRTError.

        `max_batch`: for a model whose first dimension is open; 1 for others.
        """
        module = self._module
        builder = self._create(module.Builder)
        network = builder.create_network(_explicit_batch(module))
        parser = module.OnnxParser(network, self._logger)
        if not parser.parse(content):
            errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
            raise TensorRTError("; ".join(errors) or self._said("it cannot read the model"))
        config = builder.create_builder_config()
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, _WORKSPACE)
        if has_half(module):
            config.set_flag(module.BuilderFlag.FP16)
        given = network.get_input(0)
        shape = tuple(given.shape)
        if -1 in shape:
            profile = builder.create_optimization_profile()
            sizes = [(size, *shape[1:]) for size in (1, max(1, max_batch // 2), max_batch)]
            profile.set_shape(given.name, *sizes)
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise TensorRTError(self._said("it built no plan"))
        return bytes(plan)

    def load(self, plan: bytes) -> Plan:
        """Load a plan that the same version built on the same kind of GPU. Raises: TensorRTError."""
        runtime = self._create(self._module.Runtime)
        engine = runtime.deserialize_cuda_engine(plan)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise TensorRTError(self._said("it cannot load the plan"))
        return Plan(self, runtime, engine, context)

    def _create(self, factory: Any) -> Any:
        """Create an object that needs a GPU. Raises: TensorRTError."""
        try:
            return factory(self._logger)
        except TypeError as exc:  # what its bindings make of an object that could not be created
            raise self.error("it does not start") from exc

    def is_input(self, engine: Any, name: str) -> bool:
        """Whether a tensor of an engine is an input."""
        return bool(engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT)

    def is_float(self, engine: Any, name: str) -> bool:
        """Whether the numbers of a tensor are float32."""
        return bool(engine.get_tensor_dtype(name) == self._module.float32)

    def error(self, what: str) -> TensorRTError:
        """An error with what TensorRT logged last."""
        return TensorRTError(self._said(what))

    def _said(self, what: str) -> str:
        said = "; ".join(self._errors or self._warnings)
        self._errors.clear()
        self._warnings.clear()
        return f"{what}: {said}" if said else what


class Plan:
    """A loaded plan. Only one thread may use it at a time."""

    def __init__(self, library: TensorRT, runtime: Any, engine: Any, context: Any) -> None:
        self._library = library
        self._runtime = runtime  # must outlive the engine
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        tensors = [
            Tensor(name, tuple(engine.get_tensor_shape(name)), library.is_float(engine, name))
            for name in names
        ]
        self.inputs = [each for each in tensors if library.is_input(engine, each.name)]
        self.outputs = [each for each in tensors if not library.is_input(engine, each.name)]

    def set_input_shape(self, shape: Shape) -> list[Shape]:
        """Choose the shape of the input of the next runs. Returns the outputs'. Raises: TensorRTError."""
        if not self._context.set_input_shape(self.inputs[0].name, shape):
            raise self._library.error(f"it refuses an input of {shape}")
        return [tuple(self._context.get_tensor_shape(each.name)) for each in self.outputs]

    def run(self, given: int, outputs: Sequence[int], stream: int) -> None:
        """Start a run from and to these addresses of GPU memory, on a stream. Raises: TensorRTError."""
        self._context.set_tensor_address(self.inputs[0].name, given)
        for each, address in zip(self.outputs, outputs, strict=True):
            self._context.set_tensor_address(each.name, address)
        if not self._context.execute_async_v3(stream):
            raise self._library.error("a run failed")


def has_half(module: Any) -> bool:
    """Whether this version takes the precision of a plan as an option; newer ones take it from the model."""
    return hasattr(getattr(module, "BuilderFlag", None), "FP16")


def precision() -> str:
    """The precision of plans that are built here: fp16, or that of the model."""
    return "fp16" if has_half(importlib.import_module(_MODULE)) else "own"


def _explicit_batch(module: Any) -> int:
    """The flag that TensorRT 8 needs; later versions know nothing else, and may lack it."""
    flags = getattr(module, "NetworkDefinitionCreationFlag", None)
    flag = getattr(flags, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def _logger(module: Any, errors: list[str], warnings: list[str]) -> Any:
    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps the last errors and warnings."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT."""
            kinds = module.ILogger.Severity
            if severity in (kinds.ERROR, kinds.INTERNAL_ERROR, kinds.WARNING):
                messages = warnings if severity == kinds.WARNING else errors
                messages.append(msg)
                del messages[:-_MESSAGES]

    return Logger()
