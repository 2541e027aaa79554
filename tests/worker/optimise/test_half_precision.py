"""FP16 before the head, which stays in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.optimise.half_precision import halve
from tests.fakes.models import write_chain


def test_weights_before_the_head_are_fp16_and_inputs_and_outputs_keep_their_types(tmp_path: Path) -> None:
    source, target = write_chain(tmp_path / "m.onnx", convolutions=4), tmp_path / "fp16.onnx"

    halve(source, target)

    made = onnx.load(str(target))
    kinds = {each.name.split()[0]: each.data_type for each in made.graph.initializer}
    assert kinds == {**dict.fromkeys(("w0", "w1", "w2"), TensorProto.FLOAT16), "w3": TensorProto.FLOAT}
    ports = [*made.graph.input, *made.graph.output]
    assert {each.type.tensor_type.elem_type for each in ports} == {TensorProto.FLOAT}
    picture = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    runs = [
        onnx_runtime()
        .InferenceSession(str(path), providers=["CPUExecutionProvider"])
        .run(None, {"images": picture})
        for path in (source, target)
    ]
    assert 0 < np.abs(runs[0][0] - runs[1][0]).max() < 0.01


def test_a_model_that_is_nothing_but_a_head_is_refused(tmp_path: Path) -> None:
    source, target = write_chain(tmp_path / "m.onnx", convolutions=1), tmp_path / "fp16.onnx"

    with pytest.raises(ValueError, match="expected weights of float32 before the head"):
        halve(source, target)

    assert not target.exists()
