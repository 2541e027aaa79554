"""The benchmark of complete predictions runs to its end. It mostly waits: so it has a file of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT


@pytest.mark.timeout(8 * PATIENCE)
def test_a_quick_benchmark_of_complete_predictions_accounts_for_each(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), "complete"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=7 * PATIENCE, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "complete.json").read_text())
    pipelines, faults = ({row["name"]: row["cells"] for row in table["rows"]} for table in found["tables"])
    assert len(pipelines) == 4
    assert all(
        made > 0 and made == sum(became) for made, *became in (cells[:8] for cells in pipelines.values())
    )
    assert [cells[8:11] for cells in pipelines.values()] == [[0, 0, 0]] * 4, found["notes"]
    assert faults["messages lost on the way"][0] > 0
    assert faults["kills of the subscriber"] == [2]
