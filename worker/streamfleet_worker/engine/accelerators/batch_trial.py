"""Finds out whether a model can run batches: an open batch dimension is no promise.

Exporters write it into graphs that only work with one picture, or that mix the pictures of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from streamfleet_core.models.onnx_graph import RUN_TIME
from streamfleet_worker.engine.interface import Runner
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.families.adapter import Adapter
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout

_SAME = 0.01  # largest difference between a run alone and in a batch, of the largest number in the output

Within = Callable[[int], contextlib.AbstractContextManager[None]]


def largest_batch(
    runner_of: Callable[[int], Runner],
    layout: SlotLayout,
    adapter: Adapter,
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
            if not _runs_batch(runner_of(2 * largest), layout, adapter, 2 * largest):
                break
        largest *= 2
    return largest


def _runs_batch(runner: Runner, layout: SlotLayout, adapter: Adapter, size: int) -> bool:
    alone = [_noisy_slot(layout, number) for number in range(size)]
    together = [Slot(slot.input, tuple(map(np.empty_like, slot.outputs))) for slot in alone]
    try:
        runner.run(together)
        for slot in alone:
            runner.run([slot])
    except run_errors():
        return False
    return all(_is_same(one, other, adapter) for one, other in zip(alone, together, strict=True))


def _noisy_slot(layout: SlotLayout, number: int) -> Slot:
    brightest = 255 >> number  # so that pictures of a batch differ in more than their noise
    pixels = np.random.default_rng(number).integers(0, brightest + 1, layout.input_shape, np.uint8)
    return Slot(pixels, tuple(np.empty(shape, np.float32) for shape in layout.output_shapes))


def _is_same(alone: Slot, together: Slot, adapter: Adapter) -> bool:
    """Whether two slots have the outputs of the same picture, apart from rounding."""
    pairs = zip(adapter.comparable(alone.outputs), adapter.comparable(together.outputs), strict=True)
    return all(
        np.abs(one - other).max(initial=0.0) <= _SAME * max(1.0, np.abs(one).max(initial=0.0))
        for one, other in pairs
    )
