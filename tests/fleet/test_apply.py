"""A fleet as a file, with real processes: applied once, changed in one place, exported, removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ports_and_folders import ROOT
from tests.fleet.harness import Fleet, Subscriber, wait_for

EXAMPLE = ROOT / "examples/fleet.yaml"


@pytest.fixture
def with_model(demo_file: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a file for a fleet, with the demo's model beside it."""
    (tmp_path / "demo.onnx").write_bytes(demo_file.read_bytes())

    def write(text: str) -> Path:
        path = tmp_path / "fleet.yaml"
        path.write_text(f"models:\n  - {{id: conveyor/1, file: demo.onnx}}\n{text}")
        return path

    return write


def pipelines(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """All pipelines by id."""
    found = fleet.http.get("/v2/pipelines").json()["pipelines"]
    return {each["pipeline_id"]: each for each in found}


def running(fleet: Fleet) -> bool:
    """Does each pipeline that should run predict?"""
    return all(each["emitted"] for each in pipelines(fleet).values() if each["desired_status"] == "run")


def test_an_example_is_applied_changed_in_one_place_exported_and_removed(
    clean: Fleet, with_model: Callable[[str], Path], subscribe: Callable[..., Subscriber]
) -> None:
    fleet, text = clean, EXAMPLE.read_text()
    path = with_model(text)
    planned = fleet.cli("plan", "-f", str(path)).stdout
    assert pipelines(fleet) == {}

    fleet.cli("apply", "-f", str(path))
    wait_for(lambda: running(fleet), lambda: f"predictions: {pipelines(fleet)}")
    unchanged = fleet.cli("diff", "-f", str(path), "--exit-code").stdout
    before = pipelines(fleet)
    subscriber = subscribe()
    subscriber.wait_for("belt-north", 5)
    edited = with_model(text.replace("confidence: 0.6", "confidence: 0.7"))
    said = fleet.cli("apply", "-f", str(edited)).stdout
    reached = len(subscriber.of("belt-north"))
    subscriber.wait_for("belt-north", reached + 5)
    after = pipelines(fleet)
    exported = fleet.cli("export").stdout

    assert planned.splitlines()[0] == "+ model conveyor/1: new"
    assert "+ belt-north: new on local-" in planned
    assert unchanged == ""
    assert said.splitlines() == [
        "~ belt-south: confidence 0.6 → 0.7 (goes on)",
        "1 changed, 3 unchanged",
    ]
    generations = {name: (before[name]["generation"], after[name]["generation"]) for name in before}
    assert generations.pop("belt-south") == (1, 2)
    assert set(generations.values()) == {(1, 1)}
    keys = subscriber.keys("belt-north")
    assert [key[2] for key in keys] == list(range(keys[0][2], keys[0][2] + len(keys)))  # none is missing
    assert len({key[:2] for key in keys}) == 1
    assert after["gate"]["status"] == "paused"
    (path.parent / "exported.yaml").write_text(exported)
    assert fleet.cli("diff", "-f", str(path.parent / "exported.yaml")).stdout == ""

    removed = fleet.cli("delete", "-f", str(path), "--json").stdout

    assert {each["action"] for each in json.loads(removed)["objects"]} == {"delete"}
    assert pipelines(fleet) == {}
