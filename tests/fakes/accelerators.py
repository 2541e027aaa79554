"""A machine with a GPU, and an ONNX Runtime whose CUDA works or fails: what test machines lack.

Sessions are real ones on the CPU. Only what ONNX Runtime says of CUDA is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from streamfleet_worker.engine import loading, onnx_session, process
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
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
