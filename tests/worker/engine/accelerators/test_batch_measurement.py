"""How long batches take is measured once, in a bounded time, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from streamfleet_worker.engine.accelerators import batch_measurement
from streamfleet_worker.engine.accelerators.batch_measurement import (
    MeasurementKey,
    MeasurementStore,
    measure,
    measured,
)
from streamfleet_worker.engine.batch_rules import WantedBatching, choose_batching
from streamfleet_worker.engine.interface import Runner
from streamfleet_worker.engine.turns.batching import Batching
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout

KEY = MeasurementKey(
    sha256="ab" * 32, provider="CUDAExecutionProvider", version="1.22", device="NVIDIA A2 / PCIe"
)
SECONDS = {1: 0.011, 2: 0.012, 4: 0.014, 8: 0.018}
LAYOUT = SlotLayout((1, 3, 8, 8), ((1, 7, 1),), 1)


class Accelerator:
    """A model whose batch of n frames takes a + b·n seconds of its clock, the first of a size twice that."""

    provider = "StandInExecutionProvider"
    on_cpu = False

    def __init__(self, start: float, each: float, max_batch: int = 8) -> None:
        self.start, self.each, self.max_batch = start, each, max_batch
        self.now = 0.0
        self.sizes: list[int] = []

    def layout(self, count: int) -> SlotLayout:
        return LAYOUT

    def runner(self) -> Runner:
        return self

    def wide_runner(self, threads: int) -> Runner:
        raise AssertionError("an accelerator has no use for several threads")

    def run(self, slots: Sequence[Slot]) -> None:
        slow = 1 if len(slots) in self.sizes else 2
        self.sizes.append(len(slots))
        self.now += slow * (self.start + self.each * len(slots))

    def clock(self) -> float:
        return self.now


def test_each_size_is_measured_and_the_fastest_run_counts() -> None:
    model = Accelerator(0.010, 0.001)

    seconds = measure(model, LAYOUT, largest=8, clock=model.clock)

    assert seconds == pytest.approx(SECONDS)
    assert model.sizes == [size for size in (1, 2, 4, 8) for _ in range(3)]


def test_a_measurement_of_a_slow_model_ends_in_time() -> None:
    model = Accelerator(0.0, 0.2)

    seconds = measure(model, LAYOUT, largest=8, clock=model.clock)

    assert seconds == pytest.approx({1: 0.2})
    assert model.now <= 1.0


def test_a_measurement_is_kept_and_not_made_again(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "batches")
    store.write(KEY, SECONDS)
    model = Accelerator(0.0, 0.0, max_batch=4)

    assert store.read(KEY) == SECONDS
    assert measured(model, KEY, store) == {1: 0.011, 2: 0.012, 4: 0.014}  # it runs no more than 4 by now
    assert model.sizes == []
    for other in ({"sha256": "cd" * 32}, {"provider": "TensorRT"}, {"version": "1.23"}, {"device": ""}):
        assert store.read(replace(KEY, **other)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"2": 0.1}',
        b'{"0": 0.1, "1": 0.1}',
        b'{"1": 0}',
        b'{"1": 61}',
        b'{"1": null}',
        b'{"1": 0.1}' + b" " * 4096 + b"x",
    ],
)
def test_a_damaged_measurement_is_made_again(tmp_path: Path, content: bytes) -> None:
    store = MeasurementStore(tmp_path)
    (tmp_path / KEY.name).write_bytes(content)
    model = Accelerator(0.0, 0.0)

    seconds = measured(model, KEY, store)

    if content.endswith(b"x"):  # what is beyond the limit is not read
        assert model.sizes == []
    else:
        assert model.sizes == [size for size in (1, 2, 4, 8) for _ in range(3)]
        assert store.read(KEY) == seconds


def test_a_folder_that_cannot_be_written_costs_a_measurement_at_each_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = Accelerator(0.0, 0.0)

    assert measured(model, KEY, MeasurementStore(tmp_path / "file")).keys() == {1, 2, 4, 8}


def test_only_the_newest_measurements_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_measurement, "MOST", 2)
    store = MeasurementStore(tmp_path)

    for number in range(4):
        store.write(replace(KEY, version=str(number)), SECONDS)

    assert len(list(tmp_path.iterdir())) == 2


def rules(model: Accelerator, folder: Path | None, **wanted: float) -> tuple[Batching, object]:
    chosen = choose_batching(model, WantedBatching(**wanted), key=KEY, folder=folder)  # type: ignore[arg-type]
    if chosen.stat is None:
        return chosen.batching, None
    assert (chosen.stat.max_batch, chosen.stat.max_delay) == (
        chosen.batching.max_batch,
        chosen.batching.max_delay,
    )
    return chosen.batching, (chosen.stat.max_batch_origin, chosen.stat.max_delay_origin)


def test_rules_are_given_measured_or_the_defaults(tmp_path: Path) -> None:
    MeasurementStore(tmp_path).write(KEY, {1: 0.004, 2: 0.005, 4: 0.007, 8: 0.02})
    model = Accelerator(0.0, 0.0)

    assert rules(model, None) == (Batching(8, 0.005), ("default", "default"))
    (batching, origins) = rules(model, tmp_path)
    assert (batching.max_batch, origins) == (4, ("measured", "measured"))
    (batching, origins) = rules(model, tmp_path, max_delay=0.1)
    assert (batching, origins) == (Batching(4, 0.1), ("measured", "given"))
    assert rules(model, tmp_path, max_batch=2, max_delay=0.0) == (Batching(2, 0.0), ("given", "given"))


def test_a_model_without_batches_is_not_measured(tmp_path: Path) -> None:
    single, cpu = Accelerator(0.0, 0.0, max_batch=1), Accelerator(0.0, 0.0, max_batch=1)
    cpu.on_cpu = True

    assert rules(single, tmp_path) == rules(cpu, tmp_path, max_batch=4) == (Batching(1), None)
    assert single.sizes == cpu.sizes == []
    assert not list(tmp_path.iterdir())


def test_a_model_that_fails_while_it_is_measured_runs_with_the_defaults(tmp_path: Path) -> None:
    class Failing(Accelerator):
        def run(self, slots: Sequence[Slot]) -> None:
            raise RuntimeError("out of memory")

    assert rules(Failing(0.0, 0.0), tmp_path) == (Batching(8, 0.005), ("default", "default"))
