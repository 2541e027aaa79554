"""A model runs on the best accelerator that works. One that does not work is named."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine import loading, onnx_session
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, Offer, Wanted
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.loading import Loaded, load, offered
from streamfleet_worker.engine.onnx_session import BadModel
from streamfleet_worker.host.machine import Machine
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.ipc.child_messages import AcceleratorUse
from tests.fakes.accelerators import Failure, FakeRuntime, jetson, machine_with_gpu
from tests.fakes.models import manifest_of, write_squares_model


@pytest.fixture
def squares(tmp_path: Path) -> tuple[Path, Manifest]:
    path = tmp_path / "model.onnx"
    return path, write_squares_model(path, batch="batch")


@pytest.fixture
def gpu(tmp_path: Path) -> Machine:
    return machine_with_gpu(tmp_path / "machine").read()


def use(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime) -> None:
    monkeypatch.setattr(onnx_session, "onnx_runtime", runtime)
    monkeypatch.setattr(loading, "onnx_runtime", runtime)


def load_on(machine: Machine, model: tuple[Path, Manifest], accelerator: AcceleratorUse) -> Loaded:
    path, manifest = model
    return load(str(path), manifest, wanted=Wanted(accelerator), machine=machine, offer=offered(machine))


def test_a_gpu_that_works_runs_the_model_in_batches(
    monkeypatch: pytest.MonkeyPatch, squares: tuple[Path, Manifest], gpu: Machine
) -> None:
    use(monkeypatch, FakeRuntime())

    loaded = load_on(gpu, squares, "prefer")

    assert (loaded.model.provider, loaded.missing) == (CUDA, None)
    assert loaded.model.max_batch == 8
    assert not loaded.model.on_cpu


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("open", "the installed ONNX Runtime has no kernels for this GPU: CUDA failure 209: no kernel image"),
        ("run", "the installed ONNX Runtime has no kernels for this GPU: CUDA failure 209: no kernel image"),
        ("silently", "a library of the accelerator is missing: "),
    ],
)
def test_a_gpu_that_fails_is_named_and_the_cpu_runs_the_model(
    monkeypatch: pytest.MonkeyPatch,
    squares: tuple[Path, Manifest],
    gpu: Machine,
    fails: Failure,
    reason: str,
) -> None:
    use(monkeypatch, FakeRuntime(fails))

    loaded = load_on(gpu, squares, "prefer")

    assert loaded.model.provider == CPU
    assert loaded.missing is not None
    assert loaded.missing.reason.startswith(reason)


@pytest.mark.parametrize("fails", ["open", "run", "silently"])
def test_a_required_gpu_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, squares: tuple[Path, Manifest], gpu: Machine, fails: Failure
) -> None:
    use(monkeypatch, FakeRuntime(fails))

    with pytest.raises(AcceleratorUnusable):
        load_on(gpu, squares, "require")


def test_a_gpu_for_which_no_software_is_installed_is_named(
    squares: tuple[Path, Manifest], gpu: Machine
) -> None:
    loaded = load_on(gpu, squares, "prefer")

    assert loaded.model.provider == CPU
    assert loaded.missing is not None
    assert "onnxruntime has no CUDA" in loaded.missing.reason


@pytest.mark.parametrize("accelerator", ["prefer", "cpu"])
def test_a_machine_without_a_gpu_lacks_nothing(
    tmp_path: Path, squares: tuple[Path, Manifest], accelerator: AcceleratorUse
) -> None:
    loaded = load_on(MachineProbe(tmp_path, "x86_64").read(), squares, accelerator)

    assert (loaded.model.provider, loaded.missing) == (CPU, None)


def test_an_accelerator_that_is_required_and_not_there_is_an_error(
    tmp_path: Path, squares: tuple[Path, Manifest]
) -> None:
    with pytest.raises(AcceleratorUnusable, match="no accelerator was found on this machine; --accelerator"):
        load_on(MachineProbe(tmp_path, "x86_64").read(), squares, "require")


def test_a_bad_model_is_not_blamed_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, squares: tuple[Path, Manifest], gpu: Machine
) -> None:
    path, _ = squares
    model = onnx.load(path)
    model.graph.node[0].op_type = "Convolve"
    path.write_bytes(model.SerializeToString())
    use(monkeypatch, FakeRuntime())

    with pytest.raises(BadModel, match="Convolve"):
        load_on(gpu, (path, manifest_of(path)), "prefer")


def test_an_error_of_a_run_that_is_the_models_is_not_blamed_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, squares: tuple[Path, Manifest], gpu: Machine
) -> None:
    use(monkeypatch, FakeRuntime("run", "the input tensor cannot be reshaped"))

    with pytest.raises(BadModel, match="cannot be reshaped"):
        load_on(gpu, squares, "prefer")


def test_a_program_without_a_folder_for_plans_is_told_that_tensorrt_needs_a_worker(
    tmp_path: Path, squares: tuple[Path, Manifest]
) -> None:
    path, manifest = squares
    offer = Offer(providers=(CPU,), tensorrt="10.3.0")
    machine = jetson(tmp_path / "machine").read()

    loaded = load(str(path), manifest, wanted=Wanted(), machine=machine, offer=offer)

    assert loaded.model.provider == CPU
    assert loaded.missing is not None
    assert loaded.missing.reason == "TensorRT runs models in a worker only, which keeps their plans"
