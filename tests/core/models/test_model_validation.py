"""What a model file must be, and that a refusal says what was expected and what came."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamfleet_api.local.demo import demo_model
from streamfleet_core.models import model_folder as cache
from streamfleet_core.models.class_names import keypoint_names, labels_in
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.values import Family, Manifest, Weights

SHA = "ab" * 32
NAMES = {"task": "detect", "names": "{0: 'cat', 1: \"dog's\"}", "stride": "32", "imgsz": "[64, 96]"}


def save(
    path: Path,
    output: tuple[Any, ...] = (1, 6, 100),
    *,
    image: tuple[Any, ...] = (1, 3, 64, 96),
    dtype: int = TensorProto.FLOAT,
    inputs: int = 1,
    metadata: dict[str, str] | None = None,
    ir_version: int = 9,
    opset: int = 17,
) -> Path:
    """A tiny ONNX file with these shapes that finds nothing; text is an open dimension."""
    given = [size if isinstance(size, int) else 1 for size in output]
    weights = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        numpy_helper.from_array(np.zeros(given, np.float32), "nothing"),
    ]
    names = [f"images{i or ''}" for i in range(inputs)]
    ports = [helper.make_tensor_value_info(name, dtype, image) for name in names]
    found = helper.make_tensor_value_info("output0", TensorProto.FLOAT, output)
    nodes = [
        helper.make_node("ReduceMean", [names[0] if names else "zero"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["still"]),
        helper.make_node("Add", ["nothing", "still"], ["output0"]),
    ]
    graph = helper.make_graph(nodes, "g", ports, [found], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, NAMES if metadata is None else metadata)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a model goes."""
    return tmp_path / "model.onnx"


def test_an_ultralytics_export_says_everything_itself(file: Path) -> None:
    save(file)

    manifest = validate_model(file, SHA)

    weights = Weights(SHA, file.stat().st_size)
    assert manifest == Manifest(
        family="ultralytics", labels=("cat", "dog's"), input_width=96, input_height=64, weights=weights
    )


def test_an_open_input_size_comes_from_the_metadata(file: Path) -> None:
    save(file, image=("batch", 3, "height", "width"), output=("batch", 6, "boxes"))

    manifest = validate_model(file, SHA)

    assert (manifest.input_width, manifest.input_height) == (96, 64)


def test_a_shape_alone_is_enough_with_labels(file: Path) -> None:
    save(file, metadata={})

    assert validate_model(file, SHA, labels=("a", "b")).family == "ultralytics"


def test_given_labels_go_before_those_of_the_file(file: Path) -> None:
    save(file)

    assert validate_model(file, SHA, labels=("a", "b")).labels == ("a", "b")


def test_a_yolox_export_is_one_only_when_somebody_says_so(file: Path) -> None:
    boxes = 8 * 12 + 4 * 6 + 2 * 3
    save(file, (1, boxes, 7), metadata={})

    with pytest.raises(BadModel, match="--family yolox"):
        validate_model(file, SHA, labels=("a", "b"))

    assert validate_model(file, SHA, family="yolox", labels=("a", "b")).family == "yolox"


V5 = {"names": "{0: 'cat', 1: 'dog'}", "stride": "32"}
ONE = {"names": "{0: 'cat'}", "stride": "32"}


@pytest.mark.parametrize(
    ("output", "metadata", "labels", "family"),
    [
        ((1, 300, 6), {**NAMES, "end2end": "True"}, None, "end2end"),
        ((1, 5, 6), {**ONE, "end2end": "True"}, None, "end2end"),
        ((1, 300, 6), {**NAMES, "end2end": "False", "args": "{'batch': 1, 'nms': True}"}, None, "end2end"),
        ((1, 300, 6), NAMES, None, "end2end"),  # of YOLOv10, which says no more
        ((1, 300, 6), {}, ("a", "b", "c"), "end2end"),
        (("batch", "boxes", 6), NAMES, None, "end2end"),
        (("batch", None, None), {**NAMES, "end2end": "True"}, None, "end2end"),
        ((1, 6, 126), {**NAMES, "end2end": "True"}, None, "ultralytics"),
        ((1, 6, 126), NAMES, None, "ultralytics"),  # a head of two classes
        ((1, 6, 5), NAMES, None, "ultralytics"),  # of fewer boxes than rows, as for a very small input
        ((1, 6, 126), {}, ("a", "b"), "ultralytics"),
        (("batch", 6, "anchors"), {}, ("a", "b"), "ultralytics"),
        ((1, 378, 7), V5, None, "yolov5"),
        (("batch", "boxes", 7), V5, None, "yolov5"),
        ((1, 378, 6), ONE, None, "yolov5"),  # one class, and no end-to-end export
    ],
)
def test_an_export_shows_its_family(
    file: Path,
    output: tuple[Any, ...],
    metadata: dict[str, str],
    labels: tuple[str, ...] | None,
    family: str,
) -> None:
    save(file, output, metadata=metadata)

    assert validate_model(file, SHA, labels=labels).family == family


@pytest.mark.parametrize("family", ["yolov5", "yolox", "yolox-decoded", "end2end", "ultralytics"])
def test_a_family_that_is_said_goes_before_what_a_file_shows(file: Path, family: Family) -> None:
    outputs = {"end2end": (1, 126, 6), "ultralytics": (1, 6, 126)}
    save(file, outputs.get(family, (1, 126, 7)))

    assert validate_model(file, SHA, family=family).family == family


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        (
            {"image": (1, 3, 64)},
            {},
            r"or UINT8 \(1, 3, height, width\), got 'images' FLOAT \(1, 3, 64\)",
        ),
        ({"image": (1, 64, 96, 3)}, {}, r"got 'images' FLOAT \(1, 64, 96, 3\)"),
        ({"image": (4, 3, 64, 96)}, {}, r"got 'images' FLOAT \(4, 3, 64, 96\)"),
        ({"image": (1, 3, 9000, 96)}, {}, "at most 8192 pixels"),
        ({"dtype": TensorProto.DOUBLE}, {}, "got 'images' DOUBLE"),
        ({"inputs": 2}, {}, "expected one input, got 2: 'images' .*, 'images1'"),
        ({"inputs": 0}, {}, "expected one input, got 0: none"),
        ({"output": (1, 6)}, {}, r"output FLOAT of rank 3 with a batch of 1, got 'output0' FLOAT \(1, 6\)"),
        ({"output": (2, 6, 100)}, {}, r"got 'output0' FLOAT \(2, 6, 100\)"),
        (
            {"output": (1, 300, 6), "metadata": {**NAMES, "end2end": "False"}},
            {},
            r"or \(1, boxes, 6\) with NMS in it .*, got 'output0' FLOAT \(1, 300, 6\)",
        ),
        ({"output": (1, 300, 7)}, {"family": "end2end"}, r"expected an output \(1, boxes, 6\)"),
        ({"output": (1, 4, 100)}, {}, "at least one class"),
        ({"output": (1, 8, 100)}, {}, r"expected 4 class names .*, got 2"),
        ({"metadata": {}}, {}, r"expected class names \(2 of them\), the file has none: .* --labels"),
        ({"metadata": {**NAMES, "task": "segment"}}, {}, "prototypes of masks .*, got none"),
        (
            {"metadata": {**NAMES, "task": "depth"}},
            {},
            "obb, pose, classify, got 'depth'",
        ),
        ({"metadata": {**NAMES, "task": "pose"}}, {}, "the metadata 'kpt_shape' as .*, got ''"),
        ({"metadata": {**NAMES, "task": "obb"}}, {}, r"expected 1 class names .*, got 2"),
        ({"metadata": {**NAMES, "task": "classify"}}, {}, r"an output \(1, classes\) of a model"),
        ({"metadata": {**NAMES, "names": "cat, dog"}}, {}, "the metadata 'names' as"),
        ({"metadata": {**NAMES, "names": "{0: 'a', 2: 'b'}"}}, {}, "count from 0 without gaps"),
        ({"metadata": {**NAMES, "names": "{0: [[[['a']]]]}"}}, {}, "the metadata 'names' as"),
        ({"metadata": {**NAMES, "names": "{0: '\\xZZ'}"}}, {}, "a class name in quotes"),
        ({}, {"labels": ("a",)}, "expected 2 class names .*, got 1"),
        ({}, {"labels": ("a", "b" * 129)}, "1 to 128 characters"),
        ({}, {"labels": ("a", "b\n2026 ERROR forged")}, "without control characters, got 'b"),
        ({"metadata": {**NAMES, "names": "{0: 'a', 1: '\\ud800'}"}}, {}, "without control characters"),
        ({"output": ("b", "n", 6), "metadata": ONE}, {}, "--family yolox --labels FILE"),
        ({"ir_version": 99}, {}, "IR version of at most 13, .* got 99"),
        ({"opset": 99}, {}, "opset of at most 26, .* got 99"),
        ({"image": (1, 3, "h", "w"), "metadata": {**NAMES, "imgsz": "[0, 0]"}}, {}, "export it with a fixed"),
        ({"output": (1, 99, 7)}, {"family": "yolox"}, r"expected an output \(1, 126, 5 \+ classes\)"),
        ({"output": (1, 126, 7), "image": (1, 3, 63, 96)}, {"family": "yolox"}, "multiples of 32"),
        ({"output": (1, 126, 5)}, {"family": "yolox"}, "at least one class"),
    ],
)
def test_a_model_that_no_device_could_run_is_refused(
    file: Path, changes: dict[str, Any], options: dict[str, Any], expected: str
) -> None:
    save(file, **changes)

    with pytest.raises(BadModel, match=expected):
        validate_model(file, SHA, **options)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no model\n" * 100,
        random.Random(1).randbytes(5000),
        demo_model()[:-200],
        demo_model()[:300],
        b"\x08\x08",
        b'{"ir_version": 8}',
        b"<html><title>404</title></html>",
    ],
)
def test_what_is_no_onnx_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    with pytest.raises(BadModel, match="expected an ONNX file"):
        validate_model(file, SHA)


@pytest.mark.parametrize("place", ["initializer", "attribute", "nested graph", "function", "sparse"])
def test_external_data_is_refused_wherever_it_hides(file: Path, place: str) -> None:
    save(file)
    model = onnx.load(file)
    outside = onnx.TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[1])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/passwd")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    if place == "initializer":
        model.graph.initializer.append(outside)
    elif place == "attribute":
        model.graph.node.append(constant)
    elif place == "nested graph":
        inner = helper.make_graph([constant], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))
    elif place == "function":
        opset = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("d", "f", [], ["c"], [constant], opset))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(outside)
    file.write_bytes(model.SerializeToString())

    with pytest.raises(BadModel, match=r"'stolen' is in another one \(external data\)"):
        validate_model(file, SHA)


def test_external_data_as_onnx_writes_it_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(demo_model())
    model.graph.initializer[0].raw_data = np.zeros(2000, np.float32).tobytes()
    model.graph.initializer[0].ClearField("float_data")
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    with pytest.raises(BadModel, match="external data"):
        validate_model(path, SHA)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0: 'a'}", ("a",)),
        ("{0: 'a', 1: \"b's\",}", ("a", "b's")),
        ("{1: 'b', 0: 'a'}", ("a", "b")),
        (r"{0: 'caf\xe9'}", ("café",)),
        ("['a', \"b's, too\"]", ("a", "b's, too")),  # of YOLOv5 before 7.0
        ("", None),
    ],
)
def test_class_names_are_read_as_ultralytics_writes_them(text: str, expected: tuple[str, ...] | None) -> None:
    assert labels_in({"names": text}) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("{" + "(" * 100_000 + "}", "{0: " + "-" * 100_000 + "1}", "{0: __import__('os')}"),
        *("['a' 'b']", "['a', 3]", "['a'" + " " * 100_000 + "x]"),
    ],
)
def test_class_names_are_data_and_never_run(text: str) -> None:
    with pytest.raises(BadModel):
        labels_in({"names": text})


# the model cache ------------------------------------------------------------------------------------------


def test_the_cache_holds_weights_and_class_names(tmp_path: Path) -> None:
    folder = tmp_path / "parts/1"
    folder.mkdir(parents=True)
    save(folder / "weights.onnx")
    save(folder / "other.onnx")
    (folder / "class_names.txt").write_text("a\n\nb \n")
    (folder / "manifest.json").write_text('{"family": "ultralytics"}')

    found = cache.find(tmp_path, "parts/1")

    assert found == cache.FoundModel(folder / "weights.onnx", "ultralytics", ("a", "b"))
    assert cache.find(tmp_path, "parts/2") is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "got none"),
        ({"a.onnx": "", "b.onnx": ""}, "got a.onnx, b.onnx"),
        ({f"{number}.onnx": "" for number in range(9)}, r"got 0.onnx, .*, 4.onnx and 4 more"),
        ({"a.onnx": "", "manifest.json": "{"}, "manifest.json"),
        ({"a.onnx": "", "manifest.json": '{"family": "resnet"}'}, r"\$\.family"),
        ({"a.onnx": "", "labels.txt": "\n"}, "got none"),
    ],
)
def test_a_folder_of_the_cache_that_cannot_be_read_says_why(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    folder = tmp_path / "parts/1"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)

    with pytest.raises(BadModel, match=expected):
        cache.find(tmp_path, "parts/1")


def test_names_of_key_points_in_quotes_that_never_end_are_read_once() -> None:
    # If each of the quotes were searched to the end, this would take minutes, and stop the API meanwhile.
    metadata = {"kpt_names": "\\'" * 100_000}

    assert keypoint_names(metadata, 3) == ("0", "1", "2")


def test_no_more_names_are_read_than_a_model_may_have() -> None:
    names = ", ".join(f"{number}: 'a'" for number in range(20_001))

    with pytest.raises(BadModel, match="at most 20000 class names"):
        labels_in({"names": f"{{{names}}}"})


def test_a_name_of_megabytes_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadModel, match="of 1 to 128 characters"):
        labels_in({"names": "['" + "\\N{LATIN SMALL LETTER A}" * 100_000 + "']"})
