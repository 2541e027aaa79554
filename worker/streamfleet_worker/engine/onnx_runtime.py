"""ONNX Runtime, loaded at the first call. It is told before not to report to its makers.

Its own wheels do so since 1.29, and leave an id of the device below the home directory, unless the variable
is set when it is loaded. Nothing leaves a device that nobody asked for.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

_SILENCE = "ORT_DISABLE_TELEMETRY"
_ERRORS = "onnxruntime.capi.onnxruntime_pybind11_state"
_ERROR_NAMES = (
    *("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile"),
    *("NotImplemented", "EPFail", "EngineError", "RuntimeException"),
)


def onnx_runtime() -> ModuleType:
    """The module `onnxruntime`. The first call takes some tenths of a second."""
    os.environ.setdefault(_SILENCE, "1")
    import onnxruntime

    runtime: ModuleType = onnxruntime
    return runtime


def run_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its exceptions have no base of their own."""
    own = sys.modules.get(_ERRORS)  # while it is not loaded, it has raised nothing
    names = _ERROR_NAMES if own is not None else ()
    return (*(getattr(own, name) for name in names), MemoryError, RuntimeError, ValueError)
