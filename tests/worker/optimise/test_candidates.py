"""Variants are built only where they can be faster."""

from __future__ import annotations

import pytest

from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, OPENVINO, TENSORRT
from streamfleet_worker.optimise.candidates import NothingToBuild, candidates


@pytest.mark.parametrize(
    ("provider", "precisions"),
    [
        (CPU, ["int8", "int8-stem", "fp16"]),
        (OPENVINO, ["int8", "int8-stem", "fp16"]),
        (CUDA, ["fp16"]),
    ],
)
def test_each_provider_gets_what_may_be_faster_there(provider: str, precisions: list[str]) -> None:
    assert [each.precision for each in candidates(provider)] == precisions


@pytest.mark.parametrize(("provider", "why"), [(TENSORRT, "a plan of its own"), ("Other", "run on Other")])
def test_what_gains_nothing_is_told(provider: str, why: str) -> None:
    with pytest.raises(NothingToBuild, match=why):
        candidates(provider)
