"""A model is loaded only if it is what its manifest says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamfleet_worker.camera.letterbox import Letterbox
from streamfleet_worker.camera.testpattern import draw, truth
from streamfleet_worker.engine.session import BadModel, Session
from streamfleet_worker.engine.slots import create_memory, map_slots
from tests.worker.models import SIDE, manifest_of, write_constant_model, write_squares_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_it_infers_from_and_into_shared_memory(path: Path) -> None:
    manifest = write_squares_model(path)
    session = Session(str(path), manifest)
    layout = session.layout(2)
    memory = create_memory(layout)
    (_, slot), (_, same) = map_slots(memory, layout), map_slots(memory, layout)

    Letterbox(manifest).write(draw(1), slot.input)
    session.run(session.prepare(slot))

    best = same.output[0, 4:].argmax(axis=1)
    found = same.output[0, :2, best] * 6 - np.array([0, 70 * 6])
    expected = (truth(1)[:, :2] + truth(1)[:, 2:]) / 2
    np.testing.assert_allclose(found, expected, atol=1)
    assert same.output[0, 4:].max(axis=1) == pytest.approx(1, abs=0.01)


def test_an_open_batch_dimension_is_read_as_one(path: Path) -> None:
    write_constant_model(path, np.zeros((1, 7, 5)), batch="batch")

    session = Session(str(path), manifest_of(path, width=64, height=64))

    assert session.layout(1).input_shape == (1, 3, 64, 64)
    assert session.layout(1).output_shape == (1, 7, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_width": 64}, "expected an input of (1, 3, 320, 64), the model takes (1, 3, 320, 320)"),
        ({"labels": ("one",)}, "expected an output of (1, 5, N) for the family ultralytics and 1 labels"),
        ({"family": "yolox"}, "expected an output of (1, 2100, 8) for the family yolox and 3 labels"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(path: Path, change: dict[str, object], reason: str) -> None:
    manifest = replace(write_squares_model(path), **change)

    with pytest.raises(BadModel) as caught:
        Session(str(path), manifest)

    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk" * 100, bytes(10_000)])
def test_what_is_no_model_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content or b" ")
    manifest = manifest_of(path)
    path.write_bytes(content)

    with pytest.raises(BadModel, match="ONNX Runtime refuses the model"):
        Session(str(path), manifest)


def test_a_model_file_that_is_gone_is_named_as_such(path: Path) -> None:
    manifest = write_squares_model(path)
    path.unlink()

    with pytest.raises(BadModel, match="cannot be read: No such file"):
        Session(str(path), manifest)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname"])
def test_weights_in_other_files_are_never_read(
    path: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_squares_model(path)
    model = onnx.load(path)
    constant = next(one for one in model.graph.initializer if one.name == "boxes")
    (path.parent / "weights.bin").write_bytes(constant.raw_data)
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    entry = constant.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(path.parent)

    with pytest.raises(BadModel, match="keeps weights in other files"):
        Session(str(path), manifest_of(path))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([("images", TensorProto.FLOAT16, [1, 3, SIDE, SIDE])], "expected an input of float32"),
        (
            [("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE]), ("more", TensorProto.FLOAT, [1])],
            "expected one input, the model has 2",
        ),
        ([("images", TensorProto.FLOAT, [3, SIDE, SIDE])], "expected an input of (1, 3, 320, 320)"),
    ],
)
def test_an_input_that_no_camera_can_fill_is_refused(
    path: Path, inputs: list[tuple[str, int, list[int]]], reason: str
) -> None:
    _write_passing(path, inputs, np.zeros((1, 7, 2), np.float32))

    with pytest.raises(BadModel) as caught:
        Session(str(path), manifest_of(path))

    assert reason in str(caught.value)


@pytest.mark.parametrize("output", [np.zeros((1, 7, 2), np.float64), np.zeros((7, 2), np.float32)])
def test_an_output_that_no_camera_can_read_is_refused(path: Path, output: np.ndarray) -> None:
    _write_passing(path, [("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])], output)

    with pytest.raises(BadModel, match="expected an output of three dimensions in float32"):
        Session(str(path), manifest_of(path))


def _write_passing(path: Path, inputs: list[tuple[str, int, list[int]]], output: np.ndarray) -> None:
    """A model that takes these inputs and gives this output whatever they are."""
    kind = helper.np_dtype_to_tensor_dtype(output.dtype)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["constant"], ["output"])],
        "test",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("output", kind, output.shape)],
        [numpy_helper.from_array(output, "constant")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
