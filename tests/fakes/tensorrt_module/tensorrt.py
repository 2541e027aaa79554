"""A TensorRT without a GPU: the calls that are used of the real module, with plans that ONNX Runtime runs.

It stands for the system's module where its folder is on the path. A plan is the model, after the version.
`FAKE_TENSORRT` is a folder: its file `version` has the version; each build adds a line to its file `builds`,
fails if there is a file `fail`, and lasts until there is a file `go` if there is one `wait`.
"""

from __future__ import annotations

import ctypes
import enum
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_FOLDER = Path(os.environ.get("FAKE_TENSORRT", "/proc/none"))
__version__ = (_FOLDER / "version").read_text() if (_FOLDER / "version").exists() else "10.3.0"


float32 = "tensor(float)"


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    FP16 = 0


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def _session(content: bytes) -> Any:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _dims(shape: list[Any]) -> tuple[int, ...]:
    return tuple(each if isinstance(each, int) else -1 for each in shape)


class _Input:
    def __init__(self, given: Any) -> None:
        self.name, self.shape = given.name, _dims(given.shape)


class _Network:
    content = b""

    def get_input(self, number: int) -> _Input:
        return _Input(_session(self.content).get_inputs()[number])


class _Error:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network = network
        self._errors: list[_Error] = []

    def parse(self, content: bytes) -> bool:
        self._network.content = content
        try:
            _session(content)
        except Exception as exc:
            self._errors.append(_Error(str(exc)))
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, number: int) -> _Error:
        return self._errors[number]


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert len(shapes) == 3
        self.shapes[name] = shapes


class _Config:
    def __init__(self) -> None:
        self.profiles: list[_Profile] = []
        self.flags: set[BuilderFlag] = set()

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert size > 0

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return 0


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> _Network:
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        if -1 in network.get_input(0).shape and not config.profiles:
            self._logger.log(
                ILogger.Severity.ERROR, "a network with dynamic inputs needs an optimization profile"
            )
            return None
        if _FOLDER.is_dir():
            with (_FOLDER / "builds").open("a") as file:
                file.write(f"{__version__}\n")
        while (_FOLDER / "wait").exists() and not (_FOLDER / "go").exists():
            time.sleep(0.01)
        if (_FOLDER / "fail").exists():
            self._logger.log(ILogger.Severity.ERROR, "Could not find any implementation for node Conv_0")
            return None
        return f"{__version__}\n".encode() + network.content


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        version, _, content = plan.partition(b"\n")
        if version.decode(errors="replace") != __version__:
            self._logger.log(ILogger.Severity.ERROR, "the plan was built by another version of TensorRT")
            return None
        return _Engine(_session(content))


class _Engine:
    def __init__(self, session: Any) -> None:
        self.session = session
        self._tensors = [*session.get_inputs(), *session.get_outputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, number: int) -> str:
        return str(self._tensors[number].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        given = name in [each.name for each in self.session.get_inputs()]
        return TensorIOMode.INPUT if given else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _dims(next(each.shape for each in self._tensors if each.name == name))

    def get_tensor_dtype(self, name: str) -> str:
        return str(next(each.type for each in self._tensors if each.name == name))

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        known = self._engine.get_tensor_shape(name)
        self._shape = shape
        return all(have in (-1, need) for have, need in zip(known, shape, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shape[0] if each == -1 else each for each in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        (given,), outputs = self._engine.session.get_inputs(), self._engine.session.get_outputs()
        size = int(np.prod(self._shape))
        memory = ctypes.string_at(self._addresses[given.name], 4 * size)
        numbers = np.frombuffer(memory, np.float32).reshape(self._shape)
        names = [output.name for output in outputs]
        for name, result in zip(names, self._engine.session.run(names, {given.name: numbers}), strict=True):
            result = np.ascontiguousarray(result, np.float32)
            ctypes.memmove(self._addresses[name], result.ctypes.data, result.nbytes)
        return True
