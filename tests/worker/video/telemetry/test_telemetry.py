"""What runs the models tells nobody about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamfleet_api.local.demo import conveyor_model
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT

_EVALUATE = ROOT / "demo/evaluate.py"

_LOADS = """
import sys, time
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
onnx_runtime().InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""
_TOLD = (
    "CI",
    "ORT_DISABLE_TELEMETRY",
    "ORT_RUNNING_UNIT_TESTS",
    "XDG_CACHE_HOME",
)  # any of these would be silence


@pytest.mark.parametrize(
    "module", ["streamfleet_worker.engine.onnx_session", "streamfleet_worker", "benchmarks.bare"]
)
def test_a_model_is_loaded_without_a_trace_in_the_home_directory(tmp_path: Path, module: str) -> None:
    assert left_at_home(tmp_path, "-c", f"import {module}\n{_LOADS}") == []


def test_a_model_is_evaluated_without_a_trace_in_the_home_directory(tmp_path: Path) -> None:
    assert left_at_home(tmp_path, str(_EVALUATE), "--frames", "1", "--scenes", "1") == []


def left_at_home(folder: Path, *program: str) -> list[str]:
    """What Python leaves in the home directory after this program, which is given a model."""
    model, home = folder / "conveyor.onnx", folder / "home"
    model.write_bytes(conveyor_model())
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in _TOLD}

    done = subprocess.run(
        [sys.executable, *program, str(model)],
        cwd=ROOT,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )

    assert done.returncode == 0, done.stderr
    return [path.name for path in home.rglob("*")]
