"""A model is loaded only if it is what its manifest says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamfleet_core.protocol.values import Family, Manifest, Weights
from streamfleet_worker.engine.onnx_session import BadModel, DamagedModel, Session, check_outputs
from streamfleet_worker.ipc.shared_memory import create_memory, map_slots
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.synthetic.test_pattern import draw, truth
from tests.fakes.models import SIDE, manifest_of, write, write_constant_model, write_squares_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_it_infers_from_and_into_shared_memory(path: Path) -> None:
    manifest = write_squares_model(path)
    session = Session(str(path), manifest)
    layout = session.layout(2)
    memory = create_memory(layout)
    (_, slot), (_, same) = map_slots(memory, layout), map_slots(memory, layout)

    Letterbox(manifest).write(ArrayPicture(draw(1)), slot.input)
    session.runner().run([slot])

    best = same.outputs[0][0, 4:].argmax(axis=1)
    found = same.outputs[0][0, :2, best] * 6 - np.array([0, 70 * 6])
    expected = (truth(1)[:, :2] + truth(1)[:, 2:]) / 2
    np.testing.assert_allclose(found, expected, atol=1)
    assert same.outputs[0][0, 4:].max(axis=1) == pytest.approx(1, abs=0.01)


def test_an_open_batch_dimension_is_read_as_one(path: Path) -> None:
    write_constant_model(path, np.zeros((1, 7, 5)), batch="batch")

    session = Session(str(path), manifest_of(path, width=64, height=64))

    assert session.layout(1).input_shape == (1, 3, 64, 64)
    assert session.layout(1).output_shapes == ((1, 7, 5),)


def test_a_batch_gives_each_slot_what_a_run_alone_gives_it(path: Path) -> None:
    manifest = write_squares_model(path, batch="batch")
    session = Session(str(path), manifest, max_batch=4)
    layout = session.layout(6)
    slots = map_slots(create_memory(layout), layout)
    for number, slot in enumerate(slots):
        Letterbox(manifest).write(ArrayPicture(draw(number % 3)), slot.input)
    runner = session.runner()

    for slot in slots[:3]:
        runner.run([slot])
    runner.run(slots[3:])  # three slots run as a batch of four

    assert session.max_batch == 4
    for alone, together in zip(slots[:3], slots[3:], strict=True):
        np.testing.assert_allclose(together.outputs[0], alone.outputs[0], atol=1e-5)
    assert not np.allclose(slots[3].outputs[0], slots[4].outputs[0])


def test_an_inference_on_several_threads_gives_what_one_thread_gives(path: Path) -> None:
    manifest = write_squares_model(path)
    session = Session(str(path), manifest)
    layout = session.layout(2)
    slots = map_slots(create_memory(layout), layout)
    for slot in slots:
        Letterbox(manifest).write(ArrayPicture(draw(1)), slot.input)

    session.runner().run(slots[:1])
    session.wide_runner(2).run(slots[1:])

    np.testing.assert_allclose(slots[1].outputs[0], slots[0].outputs[0], atol=1e-5)


def test_a_cpu_runs_one_slot_at_a_time_unless_it_is_told_otherwise(path: Path) -> None:
    manifest = write_squares_model(path, batch="batch")

    assert Session(str(path), manifest).max_batch == 1


def test_a_model_of_a_fixed_batch_runs_one_slot_at_a_time(path: Path) -> None:
    session = Session(str(path), write_squares_model(path), max_batch=8)
    layout = session.layout(2)

    assert session.max_batch == 1
    with pytest.raises(ValueError, match="expected 1 to 1 slots, got 2"):
        session.runner().run(map_slots(create_memory(layout), layout))


def test_a_model_that_can_only_run_one_picture_of_its_open_batch_runs_one_slot_at_a_time(path: Path) -> None:
    write_constant_model(path, np.zeros((1, 7, 5)), batch="batch")  # its output has one row, whatever comes

    session = Session(str(path), manifest_of(path, width=64, height=64), max_batch=8)

    assert session.max_batch == 1


def write_mixing_model(path: Path) -> None:
    """Adds up the brightness of the pictures of a batch, and raises nothing."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["brightness"], axes=[2, 3], keepdims=0),
        helper.make_node("CumSum", ["brightness", "first axis"], ["sums"]),
        helper.make_node("Pad", ["sums", "four more"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "last axis"], ["output"]),
    ]
    constants = {
        "first axis": np.array(0, np.int64),
        "four more": np.array([0, 0, 0, 4], np.int64),
        "last axis": np.array([2], np.int64),
    }
    write(path, nodes, constants, ["batch", 3, 64, 64], ["batch", 7, 1])


def test_a_model_that_mixes_the_pictures_of_a_batch_runs_one_slot_at_a_time(path: Path) -> None:
    write_mixing_model(path)

    session = Session(str(path), manifest_of(path, width=64, height=64), max_batch=8)

    assert session.max_batch == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_width": 64}, "expected an input of (1, 3, 320, 64), got (1, 3, 320, 320)"),
        ({"labels": ("one",)}, "expected an output of (1, 5, N) for the family ultralytics and 1 labels"),
        ({"family": "yolox"}, "expected an output of (1, 2100, 8) for the family yolox and 3 labels"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(path: Path, change: dict[str, Any], reason: str) -> None:
    manifest = replace(write_squares_model(path), **change)

    with pytest.raises(BadModel) as caught:
        Session(str(path), manifest)

    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk" * 100, bytes(10_000)])
def test_what_is_no_model_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    weights = Weights(hashlib.sha256(content).hexdigest(), 1)

    with pytest.raises(BadModel, match="expected an ONNX file"):
        Session(
            str(path),
            Manifest(family="ultralytics", labels=("a",), input_width=64, input_height=64, weights=weights),
        )


def test_a_file_that_was_damaged_is_told_from_a_bad_model(path: Path) -> None:
    manifest = write_squares_model(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)

    with pytest.raises(DamagedModel, match=f"expected a model file of sha256 {manifest.weights.sha256}, got"):
        Session(str(path), manifest)


def test_what_the_runtime_refuses_is_told_by_its_reason_alone(path: Path) -> None:
    write_squares_model(path)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Convolve"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(BadModel) as caught:
        Session(str(path), manifest_of(path))

    assert str(caught.value).startswith("ONNX Runtime refuses the model: ")
    assert "Convolve" in str(caught.value)
    assert "::Model(" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)


def test_a_tensor_may_have_any_name(path: Path) -> None:
    write_squares_model(path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["location" if name == "pure" else name for name in node.input]
        node.output[:] = ["location" if name == "pure" else name for name in node.output]
    path.write_bytes(model.SerializeToString())

    assert Session(str(path), manifest_of(path)).provider


def rows(*boxes: tuple[float, ...], count: int = 8) -> np.ndarray:
    """An output (1, count, columns) whose first rows are these."""
    output = np.zeros((1, count, len(boxes[0])))
    output[0, : len(boxes)] = boxes
    return output


@pytest.mark.parametrize(
    ("family", "output", "reason"),
    [
        ("ultralytics", np.zeros((1, 7, 600_000)), "an output of at most 4194304 numbers, got"),
        ("ultralytics", np.full((1, 7, 5), -3.0), "expected scores from 0 to 1, got -3 to 0"),
        ("ultralytics", np.full((1, 7, 5), 1.5), "got 0 to 1.5"),
        ("ultralytics", np.full((1, 7, 5), np.nan), "got nan"),
        ("end2end", rows((1, 1, 9, 9, 7.5, 0)), "got 0 to 7.5"),
        ("end2end", rows((1, 1, 9, 9, 0.9, 3)), "expected class numbers from 0 to 2"),
        ("end2end", rows((1, 1, 9, 9, 0.9, 0.5)), "got 0.5"),
        ("end2end", np.zeros((1, 8, 7)), "expected an output of (1, N, 6)"),
        ("yolov5", rows((1, 1, 9, 9, 0.9, 0.1, 2.0, 0)), "got 0 to 2"),
        ("yolov5", np.zeros((1, 8, 7)), "expected an output of (1, N, 8)"),
        ("yolox", rows((60, 1, 9, 9, 0.9, 1, 0, 0), count=84), "add it with --family yolox-decoded"),
        ("yolov5", rows((0.5, 1, 2, 2, 0.9, 1, 0, 0), count=84), "add it with --family yolox"),
        ("yolox-decoded", rows((0.5, 1, 2, 2, 0.9, 1, 0, 0), count=84), "add it with --family yolox"),
    ],
)
def test_an_output_whose_values_are_not_its_familys_is_refused(
    path: Path, family: Family, output: np.ndarray, reason: str
) -> None:
    write_constant_model(path, output)

    with pytest.raises(BadModel) as caught:
        Session(str(path), manifest_of(path, family=family, width=64, height=64))

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        # Each would be allowed alone, and each camera has all of them in each of its slots.
        (((1, 300, 38), (1, 32, 400, 400)), "expected outputs together of at most 4194304 numbers, got"),
        # There is nothing to enlarge to the size of an object: each frame would end the camera.
        (((1, 300, 10), (1, 4, 0, 5)), "expected prototypes of masks (1, count, height, width)"),
        (((1, 300, 6), (1, 0, 5, 5)), "at most as large as the input, 64 x 64, got (1, 0, 5, 5)"),
        # It would be read for each object.
        (((1, 300, 7), (1, 1, 1000, 4000)), "at most as large as the input, 64 x 64, got (1, 1, 1000, 4000)"),
    ],
)
def test_outputs_of_masks_that_no_camera_can_take_are_refused(
    shapes: tuple[tuple[int, ...], ...], reason: str
) -> None:
    manifest = Manifest(
        family="end2end",
        labels=("a",),
        input_width=64,
        input_height=64,
        weights=Weights("0" * 64, 1),
        task="segment",
    )

    with pytest.raises(BadModel) as caught:
        check_outputs([np.zeros(shape, np.float32) for shape in shapes], manifest)

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("family", "output"),
    [
        ("end2end", rows((1, 1, 9, 9, 1.004, 2), (0, 0, 0, 0, 0, -1))),
        ("yolov5", rows((30, 30, 9, 9, 0.9, 0.1, 1, 0))),
        ("yolox", rows((0.5, 0.5, 2, 2, 0.9, 0.1, 1, 0), count=84)),
        ("yolox-decoded", rows((60, 30, 9, 9, 0.9, 0.1, 1, 0), count=84)),
    ],
)
def test_every_family_runs(path: Path, family: Family, output: np.ndarray) -> None:
    write_constant_model(path, output)

    session = Session(str(path), manifest_of(path, family=family, width=64, height=64))

    assert session.layout(1).output_shapes == (output.shape,)


def write_counting_model(path: Path) -> None:
    """An end-to-end model that gives two boxes for each step of the first pixel of its first channel."""
    nodes = [
        helper.make_node("Slice", ["images", "first", "second"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "flat"], ["number"]),
        helper.make_node("Mul", ["number", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["count"], to=TensorProto.INT64),
        helper.make_node("Concat", ["one", "count", "one"], ["repeats"], axis=0),
        helper.make_node("Tile", ["box", "repeats"], ["output"]),
    ]
    constants: dict[str, np.ndarray] = {
        "scale": np.array(2 * 255, np.float32),
        "first": np.zeros(4, np.int64),
        "second": np.ones(4, np.int64),
        "flat": np.array([1], np.int64),
        "one": np.array([1], np.int64),
        "box": np.array([[[1, 2, 3, 4, 0.5, 1]]], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "counting",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, "boxes", 6])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def test_a_model_may_give_another_number_of_boxes_each_time(path: Path) -> None:
    write_counting_model(path)
    session = Session(str(path), manifest_of(path, family="end2end", width=64, height=64))
    layout = session.layout(1)
    (slot,) = map_slots(create_memory(layout), layout)
    runner = session.runner()

    found = []
    for steps in (3, 0, 2, 200):
        slot.input[0, 0, 0, 0] = steps
        runner.run([slot])
        found.append(int((slot.outputs[0][0, :, 4] > 0).sum()))

    assert found == [6, 0, 4, 300]


@pytest.mark.parametrize(("kind", "scale"), [(TensorProto.FLOAT16, 1.0), (TensorProto.UINT8, 1 / 255)])
def test_an_input_of_other_numbers_gives_the_same(path: Path, kind: int, scale: float) -> None:
    plain = Session(str(path), write_squares_model(path))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = kind
    for node in model.graph.node:
        node.input[:] = ["numbers" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT))
    model.graph.node.insert(1, helper.make_node("Mul", ["floats", "scale"], ["numbers"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    other_path = path.with_name("other.onnx")
    other_path.write_bytes(model.SerializeToString())
    manifest = manifest_of(other_path)
    other = Session(str(other_path), manifest)
    layout = plain.layout(2)
    slots = map_slots(create_memory(layout), layout)
    for slot in slots:
        Letterbox(manifest).write(ArrayPicture(draw(1)), slot.input)

    plain.runner().run(slots[:1])
    other.runner().run(slots[1:])

    assert other.layout(1) == plain.layout(1)
    np.testing.assert_allclose(slots[1].outputs[0], slots[0].outputs[0], atol=5e-3)


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

    with pytest.raises(BadModel, match=r"'boxes' is in another one \(external data\)"):
        Session(str(path), manifest_of(path))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (
            [("images", TensorProto.DOUBLE, [1, 3, SIDE, SIDE])],
            "expected an input of float32, float16 or uint8",
        ),
        (
            [("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE]), ("more", TensorProto.FLOAT, [1])],
            "expected one input, got 2",
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


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            np.zeros((1, 7, 2), np.float64),
            "at most four dimensions, got float64",
        ),
        (np.zeros((1, 7, 1, 1, 2), np.float32), "expected outputs of numbers of at most four dimensions"),
        (np.zeros((7, 2), np.float32), "expected an output of (1, 7, N) for the family ultralytics"),
    ],
)
def test_an_output_that_no_camera_can_read_is_refused(path: Path, output: np.ndarray, reason: str) -> None:
    _write_passing(path, [("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])], output)

    with pytest.raises(BadModel) as caught:
        Session(str(path), manifest_of(path))

    assert reason in str(caught.value)


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
