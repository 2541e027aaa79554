"""A plan runs a model as ONNX Runtime does. The module `tensorrt` and the GPU are fakes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable, unusable
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.onnx_session import BadModel, Session
from streamfleet_worker.engine.tensorrt import plan_loading
from streamfleet_worker.engine.tensorrt.cuda import Cuda
from streamfleet_worker.engine.tensorrt.library import TensorRT, TensorRTError, installed_version
from streamfleet_worker.engine.tensorrt.plan_loading import PlanMissing, load_plan
from streamfleet_worker.engine.tensorrt.plan_store import PlanStore
from streamfleet_worker.ipc.shared_memory import Slot, create_memory, map_slots
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.synthetic.test_pattern import draw
from tests.fakes.accelerators import FakeCudaLibrary, offer_tensorrt
from tests.fakes.models import manifest_of, write_constant_model, write_squares_model

VERSION = "10.3.0"


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCudaLibrary:
    """A Jetson's TensorRT and CUDA."""
    library = FakeCudaLibrary()
    offer_tensorrt(monkeypatch)
    monkeypatch.setattr(plan_loading, "Cuda", lambda: Cuda(library))
    return library


def load(path: Path, manifest: Manifest, folder: Path) -> Model:
    """Build the plan, and load it."""
    with pytest.raises(PlanMissing) as caught:
        load_plan(str(path), manifest, folder, VERSION)
    request = caught.value.request
    PlanStore(folder).write(request.name, TensorRT().build(path.read_bytes(), max_batch=request.max_batch))
    return load_plan(str(path), manifest, folder, VERSION)


def slots_of(model: Model, manifest: Manifest, count: int) -> list[Slot]:
    layout = model.layout(count)
    slots = map_slots(create_memory(layout), layout)
    for number, slot in enumerate(slots):
        Letterbox(manifest).write(ArrayPicture(draw(number)), slot.input)
    return slots


@pytest.mark.parametrize(("batch", "largest"), [("batch", 8), (1, 1)])
def test_a_plan_gives_what_onnx_runtime_gives(tmp_path: Path, batch: int | str, largest: int) -> None:
    path = tmp_path / "model.onnx"
    manifest = write_squares_model(path, batch=batch)
    session = Session(str(path), manifest)
    expected = slots_of(session, manifest, 3)
    for slot in expected:
        session.runner().run([slot])

    model = load(path, manifest, tmp_path / "plans")
    slots = slots_of(model, manifest, 3)
    runner = model.runner()
    for some in [slots] if largest > 1 else [[slot] for slot in slots]:
        runner.run(some)

    assert (model.provider, model.on_cpu, model.max_batch) == ("TensorRT", False, largest)
    assert model.layout(1) == session.layout(1)
    for slot, other in zip(slots, expected, strict=True):
        np.testing.assert_allclose(slot.outputs[0], other.outputs[0], atol=1e-5)


def test_more_slots_than_a_batch_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    manifest = write_squares_model(path)
    model = load(path, manifest, tmp_path / "plans")

    with pytest.raises(ValueError, match="expected 1 to 1 slots, got 2"):
        model.runner().run(slots_of(model, manifest, 2))


def test_a_plan_that_gives_wrong_numbers_is_not_used_and_the_model_not_blamed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_constant_model(path, np.full((1, 7, 5), np.nan))

    with pytest.raises(
        AcceleratorUnusable, match="its plan gives wrong numbers: expected scores from 0 to 1"
    ):
        load(path, manifest_of(path, width=64, height=64), tmp_path / "plans")


def test_a_plan_that_cannot_be_loaded_is_removed_and_built_again(tmp_path: Path) -> None:
    path, folder = tmp_path / "model.onnx", tmp_path / "plans"
    manifest = write_squares_model(path)
    load(path, manifest, folder)
    (plan,) = folder.glob("*.plan")
    plan.write_bytes(b"10.2.0\n" + path.read_bytes())

    with pytest.raises(
        AcceleratorUnusable, match="cannot load the plan: the plan was built by another version"
    ):
        load_plan(str(path), manifest, folder, VERSION)
    with pytest.raises(PlanMissing):
        load_plan(str(path), manifest, folder, VERSION)


def test_a_gpu_that_fails_keeps_the_plan(tmp_path: Path, gpu: FakeCudaLibrary) -> None:
    path, folder = tmp_path / "model.onnx", tmp_path / "plans"
    manifest = write_squares_model(path)
    load(path, manifest, folder)
    gpu.fails = 100

    with pytest.raises(AcceleratorUnusable, match="NVIDIA's driver finds no GPU"):
        load_plan(str(path), manifest, folder, VERSION)

    assert list(folder.glob("*.plan"))


def test_a_model_that_tensorrt_cannot_read_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(TensorRTError, match="INVALID_PROTOBUF"):
        TensorRT().build(b"junk" * 100, max_batch=1)


@pytest.mark.parametrize("name", ["Builder", "Runtime"])
def test_a_tensorrt_that_does_not_start_is_an_error_with_what_it_logged(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    library = TensorRT()
    module = sys.modules["tensorrt"]

    def fail(logger: Any) -> None:
        text = "CUDA initialization failure with error: 35. Please check your CUDA installation"
        logger.log(module.ILogger.Severity.WARNING, text)
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(module, name, fail)

    with pytest.raises(TensorRTError, match="it does not start: CUDA initialization failure") as caught:
        library.build(b"", max_batch=1) if name == "Builder" else library.load(b"")
    missing = unusable(str(caught.value))
    assert missing is not None
    assert missing.reason.startswith(
        "NVIDIA's driver is missing, or too old for the installed CUDA: CUDA fail"
    )


def test_the_version_of_the_module_is_known_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed_version()
    monkeypatch.undo()

    assert (found, installed_version()) == (VERSION, "")


@pytest.mark.parametrize(
    ("kind", "extra", "got"),
    [(TensorProto.FLOAT16, 0, "'images' FLOAT16"), (TensorProto.FLOAT, 1, "2 inputs")],
)
def test_no_plan_is_built_for_numbers_that_plans_do_not_take(
    tmp_path: Path, kind: int, extra: int, got: str
) -> None:
    path = tmp_path / "model.onnx"
    write_squares_model(path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.input.extend(
        helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2]) for _ in range(extra)
    )
    path.write_bytes(model.SerializeToString())

    with pytest.raises(AcceleratorUnusable, match="one input, with numbers of float32") as caught:
        load_plan(str(path), manifest_of(path), tmp_path / "plans", VERSION)

    assert got in caught.value.missing.reason


def test_weights_in_other_files_are_never_given_to_tensorrt(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_squares_model(path)
    model = onnx.load(path)
    constant = next(one for one in model.graph.initializer if one.name == "boxes")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    entry = constant.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(BadModel, match="external data"):
        load_plan(str(path), manifest_of(path), tmp_path / "plans", VERSION)
