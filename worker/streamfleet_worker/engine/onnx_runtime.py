"""Loads ONNX Runtime at the first call, with its telemetry disabled.

Since 1.29 its wheels send telemetry and store an id of the device in the home directory, unless the variable
is set before it is loaded. A device sends no data that its owner did not request.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from pathlib import Path
from types import ModuleType

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_CUDA = "CUDAExecutionProvider"
_LIBRARIES = {
    _CUDA: "libonnxruntime_providers_cuda.so",
    "OpenVINOExecutionProvider": "libonnxruntime_providers_openvino.so",
}
_SHARED = "libonnxruntime_providers_shared.so"  # which the others need
_ERRORS = "onnxruntime.capi.onnxruntime_pybind11_state"
_ERROR_NAMES = (
    *("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile"),
    *("NotImplemented", "EPFail", "EngineError", "RuntimeException"),
)


def onnx_runtime() -> ModuleType:
    """Return the module `onnxruntime`. The first call takes some tenths of a second."""
    os.environ.setdefault(_TELEMETRY, "1")
    import onnxruntime

    runtime: ModuleType = onnxruntime
    return runtime


def load_libraries_of(provider: str) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, if they are installed; otherwise the system's are found."""
    runtime = onnx_runtime()
    if provider == _CUDA and hasattr(runtime, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, needed or not
            runtime.preload_dlls()


def why_provider_is_missing(provider: str) -> str:
    """Why the library of a provider cannot be loaded, which ONNX Runtime only prints; "" if it can be."""
    folder = Path(str(onnx_runtime().__file__)).parent / "capi"
    library = _LIBRARIES.get(provider)
    if library is None:
        return ""
    try:
        ctypes.CDLL(str(folder / _SHARED), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / library))
    except OSError as exc:
        return str(exc)
    return ""


def run_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which have no common base."""
    own = sys.modules.get(_ERRORS)  # if it is not loaded, it cannot have raised any
    names = _ERROR_NAMES if own is not None else ()
    return (*(getattr(own, name) for name in names), MemoryError, RuntimeError, ValueError)
