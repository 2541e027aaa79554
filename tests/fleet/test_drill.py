"""`streamfleet drill` against a real fleet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import Fleet, wait_for


@pytest.fixture(scope="module")
def willing(demo_file: Path) -> Iterator[Fleet]:
    """A fleet whose devices take part in drills, with a pipeline."""
    with short_folder() as folder:
        fleet = Fleet(folder, workers=2)
        fleet.environment["STREAMFLEET_ALLOW_DRILLS"] = "true"
        try:
            fleet.start()
            fleet.add_model("shapes/1", demo_file)
            fleet.initialise("TestPatternStreamProducer", "shapes/1")
            wait_for(lambda: '"status":"running"' in fleet.http.get("/v2/pipelines").text, "a pipeline")
            yield fleet
        finally:
            fleet.stop()


@pytest.mark.parametrize(("fault", "moved"), [("isolate", True), ("camera", False)])
def test_a_drill_is_done_and_reported(willing: Fleet, tmp_path: Path, fault: str, moved: bool) -> None:
    done = willing.cli(
        "drill", "--fault", fault, "--seconds", "12", "--yes", "--output", str(tmp_path), check=False
    )

    (data,) = tmp_path.glob("drill-*.json")
    (found,) = json.loads(data.read_text())["drills"]
    (pipeline,) = found["pipelines"]
    assert done.returncode == bool(found["problems"]), done.stderr
    assert found["fault"] == fault
    assert (pipeline["moved"], pipeline["doubled"]) == (moved, 0)
    assert pipeline["first"] is not None
    assert f"{found['device']} " in data.with_suffix(".md").read_text()


def test_a_device_takes_part_only_if_its_worker_allows_it(fleet: Fleet) -> None:
    refused = fleet.http.post("/v2/devices/local-1/drill", json={"fault": "engine"})
    drill = fleet.cli("drill", "--yes", check=False)

    assert refused.status_code == 409
    assert "--allow-drills" in refused.json()["detail"]
    assert drill.returncode == 1
    assert "--allow-drills" in drill.stderr
