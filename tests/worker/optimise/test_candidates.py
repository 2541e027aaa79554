"""Variants are built only where they can be faster."""

from __future__ import annotations

import pytest

from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, TENSORRT
from streamfleet_worker.optimise.candidates import NothingToBuild, candidates


def test_a_processor_gets_int8() -> None:
    assert [each.precision for each in candidates(CPU)] == ["int8", "int8-stem"]


@pytest.mark.parametrize(("provider", "why"), [(TENSORRT, "a plan of its own"), (CUDA, CUDA)])
def test_what_gains_nothing_is_told(provider: str, why: str) -> None:
    with pytest.raises(NothingToBuild, match=why):
        candidates(provider)
