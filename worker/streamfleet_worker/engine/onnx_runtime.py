"""Loads ONNX Runtime at the first call, with its telemetry disabled.

Since 1.29 its wheels send telemetry and store an id of the device in the home directory, unless the variable
is set before it is loaded. A device sends no data that its owner did not request.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
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


def run_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which have no common base."""
    own = sys.modules.get(_ERRORS)  # if it is not loaded, it cannot have raised any
    names = _ERROR_NAMES if own is not None else ()
    return (*(getattr(own, name) for name in names), MemoryError, RuntimeError, ValueError)
