"""Runs a model once before pipelines can use it, in a separate process with resource limits.

Without ONNX Runtime beside the API, the devices are the first to run the model, with the same checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from streamfleet_core.models.onnx_graph import LONG_RUN_TIME, TOO_LONG, BadModel
from streamfleet_core.protocol.values import Manifest

_DEADLINE = 90.0  # seconds; the process limits its own processor time
_PROGRAM = "streamfleet_worker.engine.trial"
_ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH")  # no secret is among them (S9)


async def try_model(weights: Path, manifest: Manifest) -> None:
    """Raises: BadModel, OSError."""
    if find_spec("onnxruntime") is None:
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _PROGRAM, str(weights)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(manifest.encode()), _DEADLINE)
    except asyncio.TimeoutError as exc:
        raise BadModel(f"a trial of the model did not end within {_DEADLINE:g} s") from exc
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    reason = said.decode("utf-8", "replace") or _how_it_ended(process.returncode or 0)
    if reason:
        raise BadModel(reason)


def _how_it_ended(code: int) -> str:
    if code == 0:
        return ""
    if code == -signal.SIGXCPU:
        return f"in a trial {TOO_LONG} or in a model without loops ({LONG_RUN_TIME} s)"
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return f"a trial of the model, loading it and one inference, ended with {how}"
