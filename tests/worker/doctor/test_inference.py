"""One real inference, and what is told if there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_worker.doctor.inference import Failure, Inference, attempt, check, run
from streamfleet_worker.engine.tensorrt import plan_loading
from streamfleet_worker.engine.tensorrt.cuda import Cuda
from tests.fakes.accelerators import FakeCudaLibrary, jetson, offer_tensorrt
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT

MODEL = ROOT / "api/streamfleet_api/local/conveyor.onnx"


def test_the_model_of_the_demo_runs_here() -> None:
    found = attempt(MODEL, timeout=PATIENCE)

    assert isinstance(found, Inference)
    assert (found.provider, found.missing) == ("CPUExecutionProvider", None)
    assert found.run_time > 0
    assert [(each.name, each.severity) for each in check(found)] == [("provider", "ok"), ("inference", "ok")]


def test_a_model_that_does_not_run_is_told_with_the_last_line_of_its_process(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"no model")

    found = attempt(model, timeout=PATIENCE)

    assert isinstance(found, Failure)
    assert "BadModel" in found.reason
    assert [each.severity for each in check(found)] == ["error"]


def test_a_model_that_hangs_is_ended(tmp_path: Path) -> None:
    found = attempt(tmp_path / "none.onnx", timeout=0.01)

    assert found == Failure("it did not end within 0 s")


def test_on_a_jetson_a_worker_builds_a_plan_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_tensorrt(monkeypatch)
    monkeypatch.setenv("FAKE_TENSORRT", str(tmp_path))
    monkeypatch.setattr(plan_loading, "Cuda", lambda: Cuda(FakeCudaLibrary()))

    found = run(MODEL, jetson(tmp_path))
    provider, _ = check(found)

    assert (found.provider, found.awaits_plan) == ("CPUExecutionProvider", True)
    assert (provider.severity, provider.remedy) == ("ok", "")
    assert provider.found.startswith("TensorRT, for which a worker first builds a plan")


@pytest.mark.parametrize("run_time", [0.0, 0.02])
def test_an_accelerator_that_is_missing_is_a_warning(run_time: float) -> None:
    missing = MissingAccelerator("the driver is too old", "update the driver")
    found = Inference(provider="CPUExecutionProvider", load_time=1.0, run_time=run_time, missing=missing)

    provider, inference = check(found)

    assert (provider.severity, provider.remedy) == ("warning", "update the driver")
    assert provider.found == "CPUExecutionProvider: the driver is too old"
    assert inference.severity == "ok"
