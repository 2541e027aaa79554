"""The head of a model stays in float: what of it is INT8 loses its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.host.board import read_cpu
from streamfleet_worker.optimise.quantization import head_of, quantize, stem_of
from tests.fakes.models import write_chain


def test_the_head_ends_at_the_last_convolutions_and_the_stem_at_the_first(tmp_path: Path) -> None:
    model = onnx.load(str(write_chain(tmp_path / "m.onnx", convolutions=3)))

    assert head_of(model) == {"sigmoid", "relu2", "conv2"}
    assert head_of(model, 2) == {"sigmoid", "relu2", "conv2", "relu1", "conv1"}
    assert stem_of(model) == {"conv0"}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("keep_stem", [False, True])
def test_what_lies_before_the_head_is_int8_and_gives_nearly_the_same(
    tmp_path: Path, keep_stem: bool, opset: int
) -> None:
    source = write_chain(tmp_path / "m.onnx", convolutions=4, opset=opset)
    inputs = [np.random.default_rng(n).random((1, 3, 16, 16), np.float32) for n in range(8)]

    target = tmp_path / "int8.onnx"
    quantize(
        source,
        target,
        iter([{"images": each} for each in inputs]),
        full_range=read_cpu().adds_without_overflow,  # else the products of this processor overflow
        keep_stem=keep_stem,
    )

    made = onnx.load(str(target))
    weights = {
        each.name: each.data_type for each in made.graph.initializer if each.name.endswith("_quantized")
    }
    assert sum(kind == TensorProto.INT8 for kind in weights.values()) == (2 if keep_stem else 3)
    runs = [
        onnx_runtime()
        .InferenceSession(str(path), providers=["CPUExecutionProvider"])
        .run(None, {"images": inputs[0]})
        for path in (source, target)
    ]
    assert np.abs(runs[0][0] - runs[1][0]).max() < 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx", "m.onnx"]


def test_a_model_that_is_all_head_cannot_be_quantized(tmp_path: Path) -> None:
    source = write_chain(tmp_path / "m.onnx", convolutions=1)

    with pytest.raises(ValueError, match="expected convolutions before the head, got none"):
        quantize(source, tmp_path / "int8.onnx", iter([]), full_range=True)

    assert not (tmp_path / "int8.onnx").exists()
