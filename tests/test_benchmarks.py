"""The benchmarks run to their end. What they measure is no test's business: it depends on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.bare import rate
from benchmarks.commands import constant, serving
from benchmarks.report import Bars, Check, Column, Report, Row, Series, Table, as_json, draw, text
from benchmarks.throughput import best_arrangement, key, ratio
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT


@pytest.mark.timeout(4 * PATIENCE)
def test_a_quick_benchmark_gives_a_table_a_chart_and_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), "start"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "warm, UDP" in done.stdout
    assert (tmp_path / "start.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "start.json").read_text())
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["commit"]
    assert all(len(figures) == found["sizes"]["rounds"] for figures in found["rounds"].values())


def test_the_bare_app_that_commands_are_compared_with_answers() -> None:
    with serving(constant) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/list_pipelines", timeout=PATIENCE)

    assert answer.json() == {"status": "success"}


def test_a_limit_that_is_not_kept_is_said(tmp_path: Path) -> None:
    kept = Check("ratio", 0.97, 0.95, "", at_least=True)
    broken = Check("start", 2.0, 1.5, "s")
    report = Report(
        name="example",
        title="An example",
        sizes={},
        tables=(Table("what", (Column("a", "s", 2), Column("b")), (Row("one", (1.234, None)),)),),
        charts=(Bars("a chart", "s", ("g", "h"), (Series("x", (1.0, None)),), limit=2.0),),
        checks=(kept, broken),
        rounds={"x": [1.0, 3.0, 2.0]},
    )

    shown = text(report, judged=True)
    draw(report, tmp_path / "example.png", caption="somewhere")

    assert "1.23  -" in shown
    assert "at least 0.95, kept" in shown
    assert "at most 1.5, NOT KEPT" in shown
    assert json.loads(as_json(report, {}))["medians"] == {"x": 2.0}


def test_a_rate_counts_only_what_came_while_all_videos_played() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]
    late = [2.0, 3.0, 4.0, 5.0, 6.0]

    assert rate([early, late], seconds=10) == 2.0
    assert rate([early, late], seconds=1) == 2.0


def test_the_ratio_is_taken_within_each_round_to_the_best_arrangement() -> None:
    rounds = {
        key("all threads", 1): [50.0, 50.0, 50.0],
        key("side by side", 1): [100.0, 200.0, 100.0],
        key("a process each", 1): [90.0, 90.0, 300.0],
        key("fleet", 1): [90.0, 100.0, 95.0],
    }

    best = best_arrangement(rounds, 1)

    assert best == "side by side"
    assert ratio(rounds, 1, best) == 0.9
