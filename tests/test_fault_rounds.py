"""The benchmark of faults goes on where its last run ended, and judges all rounds together."""

from __future__ import annotations

from pathlib import Path

from benchmarks import faults
from benchmarks.faults.catalogue import FAULTS, QUICK


def test_rounds_are_remembered_until_they_are_to_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"

    faults.Memory(path).note("F1", {"ready": 1.5})
    faults.Memory(path).note("F2", {"lost": 10.2})

    assert faults.Memory(path).rounds == {"F1": [{"ready": 1.5}], "F2": [{"lost": 10.2}]}
    assert faults.Memory(path, forget=["F1"]).rounds == {"F2": [{"lost": 10.2}]}
    assert faults.Memory(path).rounds.keys() == {"F2"}


def test_what_has_a_limit_is_told_first_and_everything_else_too() -> None:
    fault = next(each for each in FAULTS if each.name == "F6-writes")

    found = faults.measured(
        fault, [{"writes/s before": 100.0, "writes lost": 0.0, "answers among writes": 1.5}]
    )

    assert list(found) == ["answers among writes", "writes lost", "writes/s before"]


def test_each_fault_has_a_name_of_its_own_and_a_limit() -> None:
    names = [each.name for each in FAULTS]

    assert len(set(names)) == len(names)
    assert all(each.limits for each in FAULTS)
    assert set(QUICK) <= set(names)
