"""Measures how long batches take on an accelerator, in about a second at most, and keeps the result."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from streamfleet_worker.engine.interface import Model, Runner
from streamfleet_worker.ipc.shared_memory import SlotLayout, new_slot

logger = logging.getLogger(__name__)

MOST = 64  # measurements that are kept
_LONGEST = 1.0  # seconds of a measurement
_RUNS = 3  # of each size; the fastest counts, as others may use the accelerator
_MAX_SIZE = 64  # frames of a batch
_MAX_FILE = 4096  # bytes
_SUFFIX = ".json"
_UNSAFE = re.compile(r"[^\w.-]")

Seconds = Annotated[
    dict[Annotated[int, Meta(ge=1, le=_MAX_SIZE)], Annotated[float, Meta(gt=0, le=60)]],
    Meta(min_length=1, max_length=_MAX_SIZE),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementKey:
    """All that a measurement depends on."""

    sha256: str  # of the model's file
    provider: str  # what runs it, in the words of ONNX Runtime
    version: str  # of the provider's software
    device: str  # the name of the accelerator; "" if it is unknown

    @property
    def name(self) -> str:
        """The name of its file."""
        parts = (self.sha256, self.provider, self.version, self.device or "unknown")
        return _UNSAFE.sub("_", "-".join(parts))[:200] + _SUFFIX


def measure(
    runner: Runner, layout: SlotLayout, *, largest: int, clock: Callable[[], float] = time.monotonic
) -> dict[int, float]:
    """Run batches of 1, 2, 4, … up to `largest` frames. Returns the seconds of each size.

    A size that would take too long is left out. `clock`: monotonic seconds. Raises: one of `run_errors`.
    """
    until = clock() + _LONGEST
    seconds: dict[int, float] = {}
    size, expected = 1, 0.0
    while size <= largest and (size == 1 or clock() + expected < until):
        slots = [new_slot(layout) for _ in range(size)]
        for _ in range(_RUNS):
            began = clock()
            runner.run(slots)
            taken = max(clock() - began, 1e-6)
            seconds[size] = min(taken, seconds.get(size, taken))
            if clock() + taken >= until:
                break
        size, expected = 2 * size, 2 * seconds[size]
    return seconds


class MeasurementStore:
    """The measurements of a device, a file each. The oldest ones are removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: MeasurementKey) -> dict[int, float] | None:
        """Read a measurement; None if there is no valid one."""
        path = self._folder / key.name
        try:
            with path.open("rb") as file:
                seconds = msgspec.json.decode(file.read(_MAX_FILE), type=Seconds)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as exc:
            logger.warning("%s: expected a measurement of batches, and it is made again: %s", path, exc)
            return None
        return seconds if 1 in seconds else None

    def write(self, key: MeasurementKey, seconds: dict[int, float]) -> None:
        """Keep a measurement. If the disk refuses it, it is made again at the next start."""
        draft = self._folder / f"{key.name}.{os.getpid()}.draft"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(seconds))
            draft.replace(self._folder / key.name)
            self._tidy()
        except OSError as exc:
            logger.warning("%s: cannot keep a measurement of batches: %s", draft, exc.strerror)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def _tidy(self) -> None:
        kept = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: -path.stat().st_mtime)
        for path in kept[MOST:]:
            path.unlink(missing_ok=True)


def measured(model: Model, key: MeasurementKey, store: MeasurementStore) -> dict[int, float]:
    """The seconds of batches of a model, as they were measured before or are now. Raises: `run_errors`."""
    seconds = store.read(key)
    if seconds is None:
        seconds = measure(model.runner(), model.layout(1), largest=model.max_batch)
        logger.info("model %s: seconds of batches, by their size: %s", key.sha256[:12], seconds)
        store.write(key, seconds)
    return {size: taken for size, taken in seconds.items() if size <= model.max_batch}
