"""A machine with a GPU, and an ONNX Runtime whose CUDA works or fails: what test machines lack.

Sessions are real ones on the CPU. Only what ONNX Runtime says of CUDA is made up.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import pytest

from streamfleet_worker.engine import loading, onnx_session, process
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.engine.tensorrt import plan_loading
from streamfleet_worker.engine.tensorrt.cuda import Cuda
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.ipc.child_messages import EngineConfig

NO_KERNELS = "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0"

# When CUDA fails: never, while a session is made, while it runs; or ONNX Runtime leaves it out in silence.
Failure = Literal["never", "open", "run", "silently"]


class FakeRuntime:
    """The module `onnxruntime`, with a provider CUDA."""

    def __init__(self, fails: Failure = "never", text: str = NO_KERNELS) -> None:
        self._real = onnx_runtime()
        self._fails, self._text = fails, text

    def __call__(self) -> FakeRuntime:
        """Stand for the function `onnx_runtime`."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def InferenceSession(  # noqa: N802 - its name in onnxruntime
        self, content: bytes, options: Any, providers: Sequence[str], **more: Any
    ) -> Any:
        session = self._real.InferenceSession(content, options, providers=[CPU], **more)
        if providers[0] != CUDA or self._fails == "silently":
            return session
        if self._fails == "open":
            if more.get("enable_fallback", 1):
                return session  # as it does, after it has printed why
            raise RuntimeError(self._text)
        return FakeSession(session, self._text if self._fails == "run" else "")


class FakeSession:
    """A session that says that it runs on CUDA. `failure`: what each run raises."""

    def __init__(self, session: Any, failure: str) -> None:
        self._session = session
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run(self, *arguments: Any) -> Any:
        if self._failure:
            raise RuntimeError(self._failure)
        return self._session.run(*arguments)


def machine_with_gpu(root: Path) -> MachineProbe:
    """A machine with an NVIDIA GPU and its driver, in this folder."""
    device = root / "dev/nvidia0"
    device.parent.mkdir(parents=True, exist_ok=True)
    device.touch()
    return MachineProbe(root, "x86_64")


def engine_with_cuda(config: EngineConfig, connection: Connection) -> None:
    """An engine on a machine whose CUDA works."""
    _engine(config, connection, FakeRuntime())


def engine_without_kernels(config: EngineConfig, connection: Connection) -> None:
    """An engine on a machine whose CUDA lacks the kernels for its GPU."""
    _engine(config, connection, FakeRuntime("run"))


def _engine(config: EngineConfig, connection: Connection, runtime: FakeRuntime) -> None:
    for module in (onnx_session, loading):
        setattr(module, "onnx_runtime", runtime)  # noqa: B010 - it imports it
    process.main(config, connection, machine_with_gpu(Path(config.socket_path + ".machine")))


# TensorRT ---------------------------------------------------------------------------------------------------

TENSORRT = Path(__file__).parent / "tensorrt_module"  # the folder of the fake module


class FakeCudaLibrary:
    """The library libcudart, on a machine without a GPU: its memory is the memory of this process.

    `fails`: the number of the error that each call returns; 0: none.
    """

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self._memory: list[Any] = []

    def cudaGetDevice(self, device: Any) -> int:  # noqa: N802
        device._obj.value = 0
        return self.fails

    def cudaDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return self.fails

    def cudaStreamCreate(self, stream: Any) -> int:  # noqa: N802
        stream._obj.value = 1
        return self.fails

    def cudaMalloc(self, address: Any, size: Any) -> int:  # noqa: N802
        self._memory.append(ctypes.create_string_buffer(size.value))
        address._obj.value = ctypes.addressof(self._memory[-1])
        return self.fails

    def cudaMemcpyAsync(self, to: Any, origin: Any, size: Any, kind: int, stream: Any) -> int:  # noqa: N802
        ctypes.memmove(to, origin, size.value)
        return self.fails

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        return self.fails

    def cudaGetErrorString(self, code: int) -> bytes:  # noqa: N802
        return b"no CUDA-capable device is detected"


def offer_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import tensorrt` find the fake module until the test ends."""
    monkeypatch.syspath_prepend(str(TENSORRT))
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # so that the end of the test removes what is loaded
    del sys.modules["tensorrt"]


def jetson(root: Path) -> MachineProbe:
    """A Jetson Orin, in this folder."""
    for name, content in {"dev/nvhost-gpu": b"", "proc/device-tree/compatible": b"nvidia,tegra234\0"}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return MachineProbe(root, "aarch64")


def engine_with_tensorrt(config: EngineConfig, connection: Connection) -> None:
    """An engine on a Jetson with JetPack's TensorRT, and with an ONNX Runtime for CPUs."""
    sys.path.insert(0, str(TENSORRT))
    os.environ["PYTHONPATH"] = str(TENSORRT)  # of the process that builds plans
    os.environ["FAKE_TENSORRT"] = str(Path(config.plans_path).parent)
    setattr(plan_loading, "Cuda", lambda: Cuda(FakeCudaLibrary()))  # noqa: B010 - it imports it
    process.main(config, connection, jetson(Path(config.socket_path + ".machine")))
