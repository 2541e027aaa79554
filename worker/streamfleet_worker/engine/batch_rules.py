"""Chooses the rules of batches of a loaded model: given by the owner, measured, or the defaults."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from streamfleet_core.protocol.status import BatchingOrigin, BatchingStat
from streamfleet_worker.engine.accelerators.batch_measurement import (
    MeasurementKey,
    MeasurementStore,
    measured,
)
from streamfleet_worker.engine.accelerators.choice import TENSORRT
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.onnx_runtime import onnx_runtime, run_errors
from streamfleet_worker.engine.turns.batching import MAX_DELAY, Batching, measured_rules

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedBatching:
    """What the owner of the device asked for. None: as it is measured."""

    max_batch: int | None = None
    max_delay: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class BatchRules:
    """The rules, and where they come from."""

    batching: Batching
    stat: BatchingStat | None  # None: there are no batches


def choose_batching(
    model: Model, wanted: WantedBatching, *, key: MeasurementKey, folder: Path | None
) -> BatchRules:
    """Choose the rules of a model. `folder`: of measurements; None: nothing is measured."""
    if model.on_cpu or model.max_batch == 1:
        return BatchRules(Batching(model.max_batch), None)
    found = Batching(model.max_batch, MAX_DELAY)
    origin: BatchingOrigin = "default"
    if folder is not None and None in (wanted.max_batch, wanted.max_delay):
        try:
            found = measured_rules(measured(model, key, MeasurementStore(folder)))
            origin = "measured"
        except run_errors() as exc:
            logger.warning("cannot measure batches of %s: %s", key.sha256[:12], exc)
    batching = Batching(
        min(model.max_batch, wanted.max_batch or found.max_batch),
        found.max_delay if wanted.max_delay is None else wanted.max_delay,
    )
    stat = BatchingStat(
        max_batch=batching.max_batch,
        max_delay=batching.max_delay,
        max_batch_origin=origin if wanted.max_batch is None else "given",
        max_delay_origin=origin if wanted.max_delay is None else "given",
    )
    return BatchRules(batching, stat)


def measurement_key(model: Model, sha256: str, *, tensorrt: str, device: str) -> MeasurementKey:
    """What a measurement of this model depends on. `tensorrt`: its version. `device`: the accelerator."""
    version = tensorrt if model.provider == TENSORRT else str(onnx_runtime().__version__)
    return MeasurementKey(sha256=sha256, provider=model.provider, version=version, device=device)
