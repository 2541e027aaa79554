"""Finds out whether a model can run batches: an open batch dimension is no promise.

Exporters write it into graphs that only work with one picture, or that mix the pictures of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from streamfleet_core.models.onnx_graph import RUN_TIME
from streamfleet_core.protocol.values import Family
from streamfleet_worker.engine.interface import Runner
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.ipc.shared_memory import FloatArray, Slot, SlotLayout

_SAME = 0.01  # largest difference between a run alone and in a batch, of the largest number in the output

Within = Callable[[int], contextlib.AbstractContextManager[None]]


def largest_batch(
    runner_of: Callable[[int], Runner],
    layout: SlotLayout,
    family: Family,
    *,
    wanted: int,
    within: Within = lambda _: contextlib.nullcontext(),
) -> int:
    """Run batches of 2, 4, … up to `wanted`. Returns the largest whose outputs are those of single runs.

    `runner_of` creates a runner for batches of a size. `within` limits the processor time of each.
    """
    largest = 1
    while 2 * largest <= wanted:
        with within(RUN_TIME):
            if not _runs_batch(runner_of(2 * largest), layout, family, 2 * largest):
                break
        largest *= 2
    return largest


def _runs_batch(runner: Runner, layout: SlotLayout, family: Family, size: int) -> bool:
    alone = [_noisy_slot(layout, number) for number in range(size)]
    together = [Slot(slot.input, np.empty_like(slot.output)) for slot in alone]
    try:
        runner.run(together)
        for slot in alone:
            runner.run([slot])
    except run_errors():
        return False
    return all(_is_same(one.output, other.output, family) for one, other in zip(alone, together, strict=True))


def _noisy_slot(layout: SlotLayout, number: int) -> Slot:
    brightest = 255 >> number  # so that pictures of a batch differ in more than their noise
    pixels = np.random.default_rng(number).integers(0, brightest + 1, layout.input_shape, np.uint8)
    return Slot(pixels, np.empty(layout.output_shape, np.float32))


def _is_same(alone: FloatArray, together: FloatArray, family: Family) -> bool:
    """Whether two outputs (1, rows, columns) are those of the same picture, apart from rounding."""
    if family == "end2end":  # its rows are sorted, and equal scores may change places
        alone, together = np.sort(alone[0, :, 4]), np.sort(together[0, :, 4])
    return bool(np.abs(alone - together).max(initial=0.0) <= _SAME * max(1.0, np.abs(alone).max(initial=0.0)))
