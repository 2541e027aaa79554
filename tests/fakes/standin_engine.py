"""A stand-in for an accelerator, in a real engine process: a batch of n frames takes a + b·n seconds.

The file of its model holds the figures. Its runs are written to a log, one line each: when it began and
ended, and the middle pixel of each frame, which says whose it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine import process
from streamfleet_worker.engine.interface import Runner
from streamfleet_worker.engine.loading import Loaded
from streamfleet_worker.ipc.child_messages import EngineConfig
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout
from tests.fakes.models import manifest_of

SIDE = 32  # pixels of the model's input


@dataclass(frozen=True, slots=True)
class StandInRun:
    """One run."""

    began: float  # monotonic seconds
    ended: float
    pixels: tuple[int, ...]  # the middle one of each frame


@dataclass(frozen=True, slots=True, kw_only=True)
class StandInFigures:
    """What the accelerator does."""

    start: float = 0.0  # seconds of a batch: a
    each: float = 0.0  # seconds of each of its frames: b
    max_batch: int = 8
    lock: str = ""  # a file: engines with the same one share the accelerator, one run at a time

    def write(self, path: Path) -> Manifest:
        """Write a model with these figures. Returns its manifest."""
        path.write_text(json.dumps(asdict(self)))
        return manifest_of(path, width=SIDE, height=SIDE)


def runs_of(model: Path) -> list[StandInRun]:
    """The runs that have ended."""
    return list(_read(model.with_suffix(".log")))


def _read(log: Path) -> Iterator[StandInRun]:
    text = log.read_text() if log.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            began, ended, pixels = json.loads(line)
            yield StandInRun(began, ended, tuple(pixels))


class StandInModel:
    """A model on the accelerator. It finds nothing in any picture."""

    provider = "StandInExecutionProvider"
    on_cpu = False

    def __init__(self, path: Path) -> None:
        self._figures = StandInFigures(**json.loads(path.read_text()))
        self._log = path.with_suffix(".log")
        self.max_batch = self._figures.max_batch

    def layout(self, count: int) -> SlotLayout:
        return SlotLayout((1, 3, SIDE, SIDE), ((1, 7, 1),), count)

    def runner(self) -> Runner:
        return self

    def wide_runner(self, threads: int) -> Runner:
        raise AssertionError("an accelerator has no use for several threads")

    def run(self, slots: Sequence[Slot]) -> None:
        pixels = [int(slot.input[0, 0, SIDE // 2, SIDE // 2]) for slot in slots]
        with Path(self._figures.lock or os.devnull).open("ab") as lock:
            if self._figures.lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
            began = time.monotonic()
            time.sleep(self._figures.start + self._figures.each * len(slots))
            ended = time.monotonic()
        for slot in slots:
            slot.outputs[0][:] = 0
        with self._log.open("a") as log:
            log.write(json.dumps([began, ended, pixels]) + "\n")


def standin_engine(config: EngineConfig, connection: Connection) -> None:
    """An engine whose accelerator is the stand-in. The path of its weights is that of the figures."""

    def load(weights_path: str, _manifest: Manifest, **_: Any) -> Loaded:
        return Loaded(StandInModel(Path(weights_path)), None)

    replacement: Callable[..., Loaded] = load
    setattr(process, "load", replacement)  # noqa: B010 - it imports it
    process.main(config, connection)
