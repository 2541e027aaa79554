"""What a drill showed, its report, and the hours in which drills are allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import time

import pytest

from streamfleet_api.cli.drills.hours import Hours
from streamfleet_api.cli.drills.outcome import (
    Arrival,
    DrillOutcome,
    PipelineOutcome,
    Targets,
    percentile,
    pipeline_outcome,
)
from streamfleet_api.cli.drills.report import as_json, as_markdown
from tests.api.conftest import Command

HERE, THERE = 1, 2  # short ids of devices
GOOD = PipelineOutcome(pipeline_id="door", first=11.0, interruption=3.0, lost=0, doubled=0, moved=True)
OUTCOME = DrillOutcome(
    fault="isolate",
    device="edge-1",
    at="2026-01-01T23:00:00+01:00",
    detected=9.5,
    targets=Targets.of("isolate"),
    pipelines=(GOOD,),
)


def arrivals(*each: tuple[float, tuple[int, int, int], int]) -> list[Arrival]:
    return [Arrival(*values) for values in each]


def test_the_first_prediction_of_another_device_ends_the_fault() -> None:
    came = arrivals(
        (99.0, (1, 1, 0), HERE),
        (100.5, (1, 1, 1), HERE),
        (107.9, (1, 1, 2), HERE),
        (111.0, (2, 1, 0), THERE),
        (112.0, (2, 1, 1), THERE),
    )

    found = pipeline_outcome("door", came, 100.0, 112.1, elsewhere=True)

    assert (found.first, found.interruption, found.moved) == (11.0, 7.4, True)
    assert (found.lost, found.doubled) == (0, 0)


def test_what_an_old_run_sends_after_the_new_one_is_doubled() -> None:
    came = arrivals((99.0, (1, 1, 0), HERE), (111.0, (2, 1, 0), THERE), (111.1, (1, 1, 1), HERE))

    assert pipeline_outcome("door", came, 100.0, 112.0, elsewhere=True).doubled == 1


def test_numbers_that_are_missing_within_a_process_are_lost() -> None:
    came = arrivals((99.0, (1, 1, 0), HERE), (101.0, (1, 1, 4), HERE), (102.0, (1, 2, 9), HERE))

    assert pipeline_outcome("door", came, 100.0, 102.1, elsewhere=False).lost == 3


@pytest.mark.parametrize(
    ("at", "until", "first"),
    [
        ((99.8, 99.9, 100.1, 103.0, 103.1), 103.2, 3.0),  # an interruption that ended
        ((99.8, 99.9, 100.1, 100.2, 100.3), 100.4, 0.1),  # there was none
        ((99.8, 99.9, 100.1, 100.2), 109.0, None),  # it lasts
        ((90.0, 95.0, 100.1, 105.1), 106.0, 0.1),  # it is always so slow
        ((99.8, 99.9, 102.0, 102.1, 109.0), 109.1, 2.0),  # the first one counts
    ],
)
def test_after_the_death_of_a_process_the_end_of_the_first_interruption_counts(
    at: tuple[float, ...], until: float, first: float | None
) -> None:
    came = [Arrival(each, (1, 1, number), HERE) for number, each in enumerate(at)]

    assert pipeline_outcome("door", came, 100.0, until, elsewhere=False).first == first


def test_nothing_came_back() -> None:
    found = pipeline_outcome("door", arrivals((99.0, (1, 1, 0), HERE)), 100.0, 145.0, elsewhere=True)

    assert (found.first, found.interruption, found.moved) == (None, 46.0, False)
    assert replace(OUTCOME, pipelines=(found,)).problems


@pytest.mark.parametrize(
    "worse",
    [
        {"detected": None},
        {"detected": 10.6},
        {"pipelines": (replace(GOOD, first=15.1),)},
        {"pipelines": (replace(GOOD, doubled=1),)},
    ],
)
def test_what_is_worse_than_its_target_is_a_problem(worse: dict[str, object]) -> None:
    assert OUTCOME.problems == ()
    assert len(replace(OUTCOME, **worse).problems) == 1  # type: ignore[arg-type]


def test_the_page_begins_with_the_verdict() -> None:
    missed = replace(OUTCOME, detected=12.0)

    worst = "At worst, one pipeline was without predictions for 3.0 s."

    once = as_markdown([OUTCOME], "http://x")
    assert f"**The drill reached every target. Nothing was sent twice. {worst}**" in once
    assert "at 23:00:00, and interrupted one pipeline." in once
    page = as_markdown([OUTCOME, missed], "http://x")
    assert f"**1 of 2 drills missed a target, as told below. Nothing was sent twice. {worst}**" in page
    assert "and interrupted 2 pipelines in all." in page
    assert "works on at first" in page
    assert "- Drill 2, edge-1: the fleet knew of it after 12.0 s, expected within 10.5 s." in page
    assert "| 2 | 23:00:00 | edge-1 | 12.0 s | door | 11.0 s | 3.0 s | another device | 0 | 0 |" in page


def test_what_no_event_tells_is_not_in_the_page() -> None:
    restarted = replace(GOOD, first=1.5, moved=False)
    engine = replace(
        OUTCOME, fault="engine", detected=None, targets=Targets.of("engine"), pipelines=(restarted,)
    )

    page = as_markdown([engine], "http://x")

    assert engine.problems == ()
    assert "never" not in page
    assert "until the fleet" not in page
    assert "works on at first" not in page
    assert "| until predictions arrived again | 1.5 s | 1.5 s | 1.5 s | 10 s |" in page


def test_other_targets_may_be_chosen() -> None:
    slow = replace(OUTCOME, targets=Targets.of("isolate", known=3.2, first=7.0))

    assert slow.problems == (
        "the fleet knew of it after 9.5 s, expected within 3.2 s",
        "door predicted again after 11.0 s, expected within 7 s",
    )


def test_the_file_has_all_values() -> None:
    read = json.loads(as_json([OUTCOME]))

    assert read["drills"][0]["pipelines"][0]["first"] == 11.0
    assert read["summary"]["first_p95"] == 11.0
    assert read["summary"]["doubled"] == 0


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([float(value) for value in range(1, 101)], 0.95) == 95.0
    assert percentile([3.0], 0.95) == 3.0


@pytest.mark.parametrize(
    ("hours", "at", "allowed"),
    [
        ("22:00-05:00", time(23, 30), True),
        ("22:00-05:00", time(4, 59), True),
        ("22:00-05:00", time(5, 0), False),
        ("09:00-17:00", time(9, 0), True),
        ("09:00-17:00", time(17, 0), False),
    ],
)
def test_hours_may_pass_midnight(hours: str, at: time, allowed: bool) -> None:
    assert (at in Hours.parse(hours)) is allowed


@pytest.mark.parametrize("text", ["", "22-05", "25:00-05:00", "22:00-22:00", "22:60-23:00"])
def test_other_hours_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Hours.parse(text)


def test_a_target_that_no_event_can_reach_is_refused(run: Command) -> None:
    told = run("drill", "--fault", "engine", "--known-within", "3", code=2).stderr

    assert "--known-within is for --fault isolate" in told
