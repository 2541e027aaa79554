"""`make simulate` remembers what ran, and names the seeds that broke a promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import simulate
from tests.fakes import simulation


def test_seeds_that_ran_are_remembered_for_the_same_code(tmp_path: Path) -> None:
    memory = simulate.Memory(tmp_path / "simulated", "abc")

    memory.note(simulate.Outcome((0, 1, 2), ((1, "Violation: I2"),)))
    memory.note(simulate.Outcome((3,), ()))

    assert simulate.Memory(tmp_path / "simulated", "abc").ran() == {0, 2, 3}
    assert simulate.Memory(tmp_path / "simulated", "def").ran() == set()


def test_a_change_of_the_code_begins_anew(tmp_path: Path) -> None:
    for name in simulate.SIMULATED:
        path = tmp_path / name if name.endswith(".py") else tmp_path / name / "module.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    before = simulate.code_digest(tmp_path)

    (tmp_path / "broker/streamfleet_broker/fleet/module.py").write_text("x = 2\n")

    assert simulate.code_digest(tmp_path) != before


def test_a_broken_promise_is_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulated(seed: int) -> None:
        if seed == 5:
            raise simulation.Violation("1.00: I2, door runs on a and b")

    monkeypatch.setattr(simulation, "simulate_mixed", simulated)

    assert simulate.run((4, 5, 6)).broken == ((5, "Violation: 1.00: I2, door runs on a and b"),)


@pytest.mark.parametrize(("text", "seeds"), [("3", range(3)), ("5:8", range(5, 8))])
def test_seeds_are_a_number_or_a_range(text: str, seeds: range) -> None:
    assert simulate.parse([text]).seeds == seeds


@pytest.mark.parametrize("text", ["0", "x", "8:5", "-1:3"])
def test_other_seeds_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        simulate.parse(["--", text])

    assert "expected a number of seeds or FROM:TO" in capsys.readouterr().err
