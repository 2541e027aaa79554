"""A model takes the place of another one, and gives it back if it is worse."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.models import write_constant_model, write_slow_model
from tests.fleet.harness import Fleet, wait_for

NAMES = ("red", "green", "blue")
QUICK = ("--observe", "3s", "--shadow", "3s", "--max-unavailable", "2", "--yes")
AT_ONCE = ("--observe", "3s", "--shadow", "0s", "--max-unavailable", "2", "--yes")  # without a shadow


@pytest.fixture(scope="module")
def belts(own_fleet: Fleet, demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Three cameras in which the demo's model finds something, and models that may follow it."""
    folder = tmp_path_factory.mktemp("models")
    labels = folder / "names.txt"
    labels.write_text("\n".join(NAMES))
    write_constant_model(folder / "blind.onnx", np.zeros((1, 7, 1), np.float32))
    write_slow_model(folder / "slow.onnx", rounds=500)
    for name in ("blind", "slow"):
        own_fleet.add_model(
            f"{name}/1", folder / f"{name}.onnx", "--family", "ultralytics", "--labels", str(labels)
        )
    write_constant_model(folder / "crashing.onnx", np.ones((1, 7, 1), np.float32))
    own_fleet.add_model(
        "crashing/1", folder / "crashing.onnx", "--family", "ultralytics", "--labels", str(labels)
    )
    own_fleet.add_model("shapes/2", demo_file, "--labels", str(labels))
    for number in range(3):
        place = ("--video", "TestPatternStreamProducer", "--max-fps", "10", "--no-wait")
        own_fleet.cli("run", "--id", f"belt-{number}", "--model", "shapes/1", *place)
    wait_for(lambda: all(each["emitted"] for each in pipelines(own_fleet).values()), "all of them emit")
    return own_fleet


def pipelines(fleet: Fleet) -> dict[str, dict[str, Any]]:
    return {each["pipeline_id"]: each for each in fleet.http.get("/v2/pipelines").json()["pipelines"]}


def models(fleet: Fleet) -> set[str]:
    return {each["spec"]["model"]["id"] for each in pipelines(fleet).values()}


def in_use(fleet: Fleet) -> set[str]:
    return {(each["active_model"] or {"id": ""})["id"] for each in pipelines(fleet).values()}


def crash(fleet: Fleet, model: str) -> None:
    """End the engine of a model as a fault in native code does, once a pipeline uses it."""
    wait_for(lambda: model in in_use(fleet), lambda: f"a pipeline uses {model}; {pipelines(fleet)}")
    digest = fleet.http.get(f"/v2/models/{model}").json()["digest"]
    fleet.kill(f"engine {digest[:8]}", signal.SIGSEGV)


def started(fleet: Fleet, new: str, *options: str) -> str:
    """Start a roll-out without following it."""
    said = fleet.cli("rollout", "shapes/1", "--to", new, *options, "--no-follow", "--json")
    return str(json.loads(said.stdout)["id"])


def ended(fleet: Fleet, rollout_id: str) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        answer = fleet.http.get(f"/v2/rollouts/{rollout_id}")
        found: dict[str, Any] = answer.json()
        return found if answer.is_success and found["ended_at"] else None

    return wait_for(over, lambda: f"its end; {fleet.http.get(f'/v2/rollouts/{rollout_id}').json()}")


def versions(fleet: Fleet) -> list[int]:
    return sorted(each["version"] for each in pipelines(fleet).values())


def test_a_blind_model_stops_beside_the_old_one_and_no_pipeline_has_used_it(belts: Fleet) -> None:
    before = versions(belts)

    done = belts.cli("rollout", "shapes/1", "--to", "blind/1", *QUICK, check=False)
    datasets = wait_for(lambda: belts.http.get("/v2/samples").json()["datasets"], "the samples are uploaded")

    assert done.returncode == 3, done.stdout + done.stderr
    assert "beside the old model, it finds 0.00 objects a frame" in done.stdout.splitlines()[-1]
    assert versions(belts) == before
    assert "differing" in [each["dataset"] for each in datasets]


def test_a_model_that_crashes_beside_the_old_one_stops_there(belts: Fleet) -> None:
    rollout_id = started(belts, "slow/1", "--observe", "3s", "--shadow", "60s", "--yes")
    slow = belts.http.get(f"/v2/rollouts/{rollout_id}").json()["to"]

    belts.kill(f"engine {slow['digest'][:8]}", signal.SIGSEGV)
    found = ended(belts, rollout_id)

    assert found["phase"] == "returned"
    assert "it crashed: the engine process was ended by SIGSEGV" in found["reason"]
    assert models(belts) == {"shapes/1"}


SLOW = ("frames/s", "capture to prediction", "objects a frame")


@pytest.mark.parametrize(
    ("new", "faults"),
    [("blind/1", ("it finds 0.00 objects a frame",)), ("slow/1", SLOW), ("crashing/1", ("it crashed",))],
)
def test_a_worse_model_stops_at_the_canary_which_has_the_old_one_again(
    belts: Fleet, new: str, faults: tuple[str, ...]
) -> None:
    before, processes = versions(belts), sorted(belts.pids("camera"))

    rollout_id = started(belts, new, *AT_ONCE)
    if new == "crashing/1":
        crash(belts, new)
    found = ended(belts, rollout_id)

    assert found["phase"] == "returned"
    assert any(fault in found["reason"] for fault in faults), found["reason"]
    assert found["stages"] == {"back": 1, "waiting": 2}
    assert models(belts) == {"shapes/1"}
    assert sum(versions(belts)) == sum(before) + 2  # only the canary had it, and gave it back
    wait_for(lambda: in_use(belts) == {"shapes/1"}, lambda: f"they find again; {pipelines(belts)}")
    assert sorted(belts.pids("camera")) == processes


def test_a_roll_out_that_a_power_failure_interrupts_returns_to_the_old_model(belts: Fleet) -> None:
    rollout_id = started(belts, "blind/1", "--observe", "6s", "--shadow", "0s", "--yes")
    wait_for(lambda: "blind/1" in in_use(belts), "the canary uses the new model")

    for name in ("sf-agent", "sf-agent", "sf-broker"):  # nothing of it is told anything before
        belts.kill(name)
    found = ended(belts, rollout_id)

    assert (found["phase"], found["stages"]) == ("returned", {"back": 1, "waiting": 2})
    assert "it finds 0.00 objects a frame" in found["reason"]
    assert models(belts) == {"shapes/1"}
    wait_for(lambda: in_use(belts) == {"shapes/1"}, lambda: f"they find again; {pipelines(belts)}")


def test_an_equal_model_reaches_all_and_no_camera_starts_again(belts: Fleet) -> None:
    cameras = sorted(belts.pids("camera"))

    done = belts.cli("rollout", "shapes/1", "--to", "shapes/2", *QUICK)
    known = json.loads(belts.cli("rollouts", "--json").stdout)

    assert done.stdout.splitlines()[-1].endswith("done: shapes/2 is in use (3 good)")
    assert models(belts) == {"shapes/2"}
    assert sorted(belts.pids("camera")) == cameras
    assert {each["restarts"] for each in pipelines(belts).values()} == {0}
    assert known[-1]["phase"] == "done"
    wait_for(
        lambda: all(each["active_model"]["id"] == "shapes/2" for each in pipelines(belts).values()),
        "the statuses name the new model",
    )


def test_models_that_are_not_there_and_pipelines_without_the_model_are_named(own_fleet: Fleet) -> None:
    missing = own_fleet.cli("rollout", "shapes/1", "--to", "shpes/1", check=False)
    share = own_fleet.cli("rollout", "shapes/1", "--to", "x/1", "--canary", "120%", check=False)

    assert "no model shpes/1; did you mean shapes/1" in missing.stderr
    assert "expected a share above 0%, up to 100%, got '120%'" in share.stderr
