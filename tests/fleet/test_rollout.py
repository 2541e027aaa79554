"""A model takes the place of another one, and gives it back if it is worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.models import write_constant_model
from tests.fleet.harness import Fleet, wait_for

QUICK = ("--observe", "2s", "--max-unavailable", "2", "--yes")


@pytest.fixture
def belts(own_fleet: Fleet) -> Fleet:
    """Three cameras in which the demo's model finds something."""
    for number in range(3):
        place = ("--video", "TestPatternStreamProducer", "--max-fps", "10", "--no-wait")
        own_fleet.cli("run", "--id", f"belt-{number}", "--model", "shapes/1", *place)
    wait_for(lambda: all(each["emitted"] for each in pipelines(own_fleet).values()), "all of them emit")
    return own_fleet


def pipelines(fleet: Fleet) -> dict[str, dict[str, Any]]:
    return {each["pipeline_id"]: each for each in fleet.http.get("/v2/pipelines").json()["pipelines"]}


def models(fleet: Fleet) -> set[str]:
    return {each["spec"]["model"]["id"] for each in pipelines(fleet).values()}


def test_a_blind_model_stops_at_the_canary_and_an_equal_one_reaches_all(
    belts: Fleet, demo_file: Path, tmp_path: Path
) -> None:
    blind = tmp_path / "blind.onnx"
    write_constant_model(blind, np.zeros((1, 7, 1), np.float32))
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    belts.add_model("blind/1", blind, "--family", "ultralytics", "--labels", str(names))
    belts.add_model("shapes/2", demo_file)

    worse = belts.cli("rollout", "shapes/1", "--to", "blind/1", *QUICK, check=False)
    after_worse, versions = models(belts), {name: each["version"] for name, each in pipelines(belts).items()}
    equal = belts.cli("rollout", "shapes/1", "--to", "shapes/2", *QUICK, "--json")

    assert worse.returncode == 3, worse.stdout + worse.stderr
    assert "it finds 0.00 objects a frame" in worse.stdout.splitlines()[-1]
    assert after_worse == {"shapes/1"}
    assert sorted(versions.values()) == [1, 1, 3]  # only the canary had it, and gave it back
    told = json.loads(equal.stdout)
    assert told["phase"] == "done", told
    assert models(belts) == {"shapes/2"}


def test_models_that_are_not_there_and_pipelines_without_the_model_are_named(own_fleet: Fleet) -> None:
    missing = own_fleet.cli("rollout", "shapes/1", "--to", "shpes/1", check=False)
    share = own_fleet.cli("rollout", "shapes/1", "--to", "x/1", "--canary", "120%", check=False)

    assert "no model shpes/1; did you mean shapes/1" in missing.stderr
    assert "expected a share above 0%, up to 100%, got '120%'" in share.stderr
