"""`make gpu-check` without a GPU: what concerns CPUs is run, and the rest says what it expects.

What it says of a GPU is tested with made-up findings. Its steps themselves use real processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamfleet_core.runtime.finding import ok as fine
from streamfleet_core.runtime.finding import warning
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, TENSORRT
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.host.machine_probe import MachineProbe
from tests import check_gpu
from tests.fakes.accelerators import engine_with_tensorrt
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.gpu import child, engines, fleet, machine
from tests.gpu.inference import compare, cuda, difference, nodes_by_provider, rates_of
from tests.gpu.outcome import Outcome, failed, ok, skipped
from tests.gpu.setting import Setting, small_model

WITHOUT_GPU = pytest.mark.skipif(machine.has_gpu(MachineProbe().read()), reason="this machine has a GPU")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """The setting of a step on a machine without a GPU."""
    deadline = time.monotonic() + 3 * PATIENCE
    return Setting(tmp_path, gpu=False, model=small_model(tmp_path), quick=True, deadline=deadline)


@WITHOUT_GPU
@pytest.mark.timeout(10 * PATIENCE)
def test_without_a_gpu_it_says_what_it_expects_and_checks_what_concerns_cpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.check_gpu", "--python", sys.executable, "--quick"]
    command += ["--output", str(tmp_path), "--steps", "driver,doctor,cuda,prefer"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=9 * PATIENCE, check=False
    )

    assert done.returncode == check_gpu.NO_GPU, done.stdout + done.stderr
    assert "no GPU: expected a machine with an NVIDIA GPU or a Jetson, and its driver, got" in done.stdout
    document = json.loads((tmp_path / "gpu-check.json").read_text())
    verdicts = {name: step["verdict"] for name, step in document["steps"].items()}
    assert verdicts == {"driver": "FAILED", "doctor": "ok", "cuda": "skipped", "prefer": "ok"}
    assert document["steps"]["doctor"]["found"] == CPU


@WITHOUT_GPU
def test_a_required_accelerator_is_refused_where_it_is_hidden(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))

    with short_folder() as folder:
        outcome = engines.require(replace(setting, folder=folder))

    assert outcome.verdict == "ok"
    assert outcome.found.startswith("refused: an accelerator is required: ")


def test_a_plan_is_built_beside_an_engine_and_used_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "main", engine_with_tensorrt)
    monkeypatch.setattr(engines, "installed_version", lambda: "10.3.0")

    with short_folder() as folder:
        outcome = engines.plan(replace(setting, folder=folder, gpu=True))

    assert outcome.verdict == "ok", outcome
    assert outcome.figures["meanwhile on"] == CPU


def test_a_plan_that_cannot_be_built_is_a_failure(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "main", engine_with_tensorrt)
    monkeypatch.setattr(engines, "installed_version", lambda: "10.3.0")

    with short_folder() as folder:
        (folder / "fail").touch()
        outcome = engines.plan(replace(setting, folder=folder, gpu=True))

    assert outcome.verdict == "FAILED"


# the numbers ----------------------------------------------------------------------------------------------


def test_a_provider_is_compared_with_the_cpu_and_runs_the_nodes(setting: Setting) -> None:
    outcome = compare(setting, CPU)

    assert outcome.verdict == "ok", outcome
    assert outcome.figures[f"nodes on {CPU}"] == sum(
        nodes_by_provider(setting.model, CPU, setting.folder).values()
    )


def test_outputs_that_differ_by_more_than_rounding_are_said() -> None:
    ours = np.zeros((2, 7, 3), np.float32)
    theirs = ours.copy()
    theirs[0, 1, 2], theirs[1, 5, 0] = 2.0, 0.5

    found = difference(ours, theirs)

    assert (found.pixels, found.score, found.detections, found.is_small) == (2.0, 0.5, 1, False)
    assert difference(ours, ours).is_small


def test_what_is_no_number_is_no_small_difference() -> None:
    ours = np.zeros((1, 7, 3), np.float32)

    assert not difference(ours, ours * np.nan).is_small


def test_batches_of_each_size_are_measured(setting: Setting) -> None:
    model = Session(str(setting.model.path), setting.model.manifest, max_batch=4)

    rates = rates_of(model, setting.pictures(8), seconds=0)

    assert list(rates) == [1, 2, 4]
    assert min(rates.values()) > 0


def test_cuda_is_skipped_without_a_gpu_and_without_its_provider(setting: Setting) -> None:
    assert cuda(setting) == skipped("no GPU")
    assert CUDA in cuda(replace(setting, gpu=True)).found


# what is found on a GPU -----------------------------------------------------------------------------------


def test_a_doctor_that_finds_a_model_on_the_cpu_beside_a_gpu_is_a_failure() -> None:
    findings = [warning("provider", f"{CPU}: no kernels", "install"), fine("inference", "10 ms")]

    outcome = machine.judged(findings, gpu=True)

    assert outcome.verdict == "FAILED"
    assert outcome.found == f"expected a model on {CUDA} or {TENSORRT}, got {CPU}: no kernels"
    assert outcome.figures["warning, provider"] == f"{CPU}: no kernels → install"


def test_a_doctor_that_finds_a_model_on_the_gpu_is_as_expected() -> None:
    findings = [fine("provider", CUDA), fine("inference", "1 ms")]

    assert machine.judged(findings, gpu=True) == ok(CUDA, {"inference": "1 ms"})
    assert machine.judged(findings[:1], gpu=True).verdict == "FAILED"


def test_a_doctor_that_warns_of_a_missing_driver_is_as_expected_without_a_gpu() -> None:
    findings = [warning("provider", f"{CPU}: no driver", "install"), fine("inference", "1 ms")]

    assert machine.judged(findings, gpu=False).verdict == "ok"


@pytest.mark.parametrize(
    ("provider", "load", "verdict"), [(CUDA, 0.4, "ok"), (CPU, 0.4, "FAILED"), (CUDA, None, "FAILED")]
)
def test_a_fleet_beside_a_gpu_runs_models_on_it_and_tells_of_it(
    provider: str, load: float | None, verdict: str
) -> None:
    engine: dict[str, Any] = {"provider": provider, "missing_accelerator": None}

    assert fleet.judged(engine, {"gpu_load": load}, {}, gpu=True).verdict == verdict


# the check itself -----------------------------------------------------------------------------------------


def test_a_step_that_hangs_is_ended(tmp_path: Path) -> None:
    ended = child.run(["sleep", "1000"], log=tmp_path / "log", seconds=0.1)

    assert ended == child.Ended(None, "it said nothing")


def test_nothing_that_a_step_has_started_runs_afterwards(tmp_path: Path) -> None:
    program = "import subprocess\nprint(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid)"

    ended = child.run([sys.executable, "-c", program], log=tmp_path / "log", seconds=PATIENCE)

    assert ended.code == 0
    assert not _runs(int(ended.last))


def test_a_process_that_dies_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Segmentation fault >&2\nexit 139\n")
    python.chmod(0o755)

    outcome = check_gpu.checked(check_gpu.Step("cuda", 60), python, tmp_path, seconds=PATIENCE, quick=True)

    assert outcome == failed("its process ended with 139: Segmentation fault")


def test_a_missing_wheel_is_said_and_what_needs_it_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(check_gpu, "LOCKS", (os.path.relpath(lock.with_suffix(""), ROOT / "compose/locks"),))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("UV_OFFLINE", "PIP_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    options = ["--output", str(tmp_path), "--environment", str(tmp_path / "venv"), "--steps", "cuda"]
    monkeypatch.setattr(sys, "argv", ["check_gpu", *options])

    code = check_gpu.main()

    steps = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]
    assert code == 1
    assert "no-such-package" in steps["environment"]["found"]
    assert steps["cuda"] == {
        "verdict": "skipped",
        "found": "there is no environment to run it",
        "figures": {},
    }
    assert "no-such-package" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({"driver": "ok", "cuda": "ok"}, 0),
        ({"driver": "ok", "cuda": "FAILED"}, 1),
        ({"driver": "FAILED", "cuda": "skipped"}, check_gpu.NO_GPU),
        ({"driver": "FAILED", "prefer": "FAILED"}, 1),
    ],
)
def test_the_exit_code_tells_a_failure_from_a_missing_gpu(verdicts: dict[str, Any], code: int) -> None:
    assert check_gpu.code({name: Outcome(verdict, "") for name, verdict in verdicts.items()}) == code


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
