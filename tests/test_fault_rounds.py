"""The benchmark of faults goes on where its last run ended, and judges all rounds together."""

from __future__ import annotations

from pathlib import Path

from benchmarks import faults
from benchmarks.faults.catalogue import FAULTS, QUICK
from tests.test_benchmarks import setting_of


def test_rounds_are_remembered_until_they_are_to_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"

    faults.Memory(path).note("F1", {"ready": 1.5})
    faults.Memory(path).note("F2", {"lost": 10.2})

    assert faults.Memory(path).rounds == {"F1": [{"ready": 1.5}], "F2": [{"lost": 10.2}]}
    assert faults.Memory(path, forget=["F1"]).rounds == {"F2": [{"lost": 10.2}]}
    assert faults.Memory(path).rounds.keys() == {"F2"}


def test_a_round_without_an_end_is_told_until_it_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    chosen = [each for each in FAULTS if each.name in ("F8", "F26")]

    faults.Memory(path).note("F8", {"API answers": 1.5, "other answers": 0.0, "doubles": 0.0})
    faults.Memory(path).note_failure("F26", "not within 120 s: edge-1 quarantined")
    told = faults.report(setting_of("a model"), chosen, faults.Memory(path))
    again = faults.report(setting_of("a model"), chosen, faults.Memory(path, forget=["F26"]))

    assert [row.cells[0] for row in told.tables[0].rows] == ["1 of 1"] * 3 + ["0 of 1"]
    assert [check.what for check in told.checks if not check.kept] == [
        "F26, rounds without an end (the last one: not within 120 s: edge-1 quarantined)"
    ]
    assert all(check.kept for check in again.checks)


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
