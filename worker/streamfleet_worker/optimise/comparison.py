"""Runs models as an engine does, finds out what they find on the same pictures, and how long they take."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from streamfleet_core.models.agreement import Box
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.families.adapter import BadOutput, Outputs, check_scores
from streamfleet_worker.families.adapters import adapter_of
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import new_slot
from streamfleet_worker.optimise.pictures import ModelPicture
from streamfleet_worker.video.detection.compared_boxes import boxes_of
from streamfleet_worker.video.detection.postprocess import findings_of

ROUNDS = 9
_ROUND = 0.1  # seconds that a round of one model should take
_MOST_RUNS = 50  # in a round
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one inference, alternating between two models."""

    reference_ms: float
    ratio: float  # the median of the ratios within the rounds: what slows both down does not count


class ModelRun:
    """A loaded model with the memory of one inference."""

    def __init__(self, model: Model, manifest: Manifest) -> None:
        self._manifest = manifest
        self._runner = model.runner()
        self._slot = new_slot(model.layout(1))

    def find(self, picture: ModelPicture, rules: PostProcessing) -> list[Box]:
        """What the model finds. Raises: BadOutput, if its scores are no scores; one of `run_errors`."""
        np.copyto(self._slot.input, picture.pixels)
        self._runner.run([self._slot])
        _check(self._slot.outputs, self._manifest)
        found = findings_of(self._slot.outputs, picture.geometry, manifest=self._manifest, rules=rules)
        return boxes_of(found, self._manifest.labels, picture.geometry)

    def time(self, picture: ModelPicture, runs: int) -> float:
        """The median time of some runs, in seconds. Raises: one of `run_errors`."""
        np.copyto(self._slot.input, picture.pixels)
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            self._runner.run([self._slot])
            times.append(time.perf_counter() - began)
        return statistics.median(times)


def compare_speed(reference: ModelRun, other: ModelRun, picture: ModelPicture) -> Speed:
    """Time two models by turns: what else the machine does slows both. Raises: one of `run_errors`."""
    first = max(reference.time(picture, 1), other.time(picture, 1), 1e-6)
    runs = min(_MOST_RUNS, max(1, int(_ROUND / first)))
    rounds = [(reference.time(picture, runs), other.time(picture, runs)) for _ in range(ROUNDS)]
    return Speed(
        reference_ms=_MS * statistics.median(of for of, _ in rounds),
        ratio=statistics.median(of / max(time, 1e-9) for of, time in rounds),
    )


def _check(outputs: Outputs, manifest: Manifest) -> None:
    """Check that all scores are scores, also those below any threshold. Raises: BadOutput."""
    if not all(np.isfinite(output).all() for output in outputs):
        raise BadOutput("expected finite numbers in its outputs, got others")
    if manifest.task == "classify":
        check_scores(outputs[0])
    else:
        check_scores(adapter_of(manifest).read(outputs, manifest, 0.0).scores)
