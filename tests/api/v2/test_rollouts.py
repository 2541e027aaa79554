"""`/v2/rollouts`, and what the clients and the command line make of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from streamfleet import Client, Conflict, NotFound
from streamfleet_api.local.demo import demo_model
from streamfleet_core.protocol.messages import Error
from streamfleet_core.protocol.tasks.rollouts import RolloutLimits
from streamfleet_core.protocol.values import ModelRef
from tests.api.conftest import Api, Command
from tests.api.streamfleet.test_client import connection_to
from tests.fakes.broker import Peer, pipeline
from tests.fakes.task_models import write_classifying_model

OLD, NEW = ModelRef("parts/1", "ab" * 32), ModelRef("parts/2", "cd" * 32)


@pytest.fixture
def parts(peer: Peer) -> Peer:
    """Two models, and a pipeline that uses the first one."""
    peer.models.update({OLD.id: OLD, NEW.id: NEW})
    view = pipeline("door")
    spec = replace(view.spec, model=OLD)
    peer.pipelines["door"] = replace(view, spec=spec, labels={"site": "hall-1"})
    return peer


def test_a_roll_out_begins_with_all_that_was_asked_for(api: Api, parts: Peer) -> None:
    asked = {
        "id": "spring",
        "model": OLD.id,
        "to": NEW.id,
        "selector": {"site": "hall-1"},
        "canary": 0.1,
        "max_unavailable": 2,
        "observe": 10.0,
        "shadow": 20.0,
        "start": 60.0,
        "min_objects": 0.6,
        "min_agreement": 0.7,
        "max_latency": 3.0,
        "min_fps": 0.8,
        "share": 0.5,
        "dataset": "differing",
    }

    answer = api.http.post("/v2/rollouts", json=asked)

    plan = parts.rollouts["spring"].plan
    assert answer.status_code == 201, answer.text
    assert (plan.old, plan.new, plan.selector) == (OLD, NEW, {"site": "hall-1"})
    assert (plan.canary, plan.max_unavailable, plan.share, plan.dataset) == (0.1, 2, 0.5, "differing")
    assert plan.limits == RolloutLimits(
        observe=10.0,
        shadow=20.0,
        start=60.0,
        min_objects=0.6,
        min_agreement=0.7,
        max_latency=3.0,
        min_fps=0.8,
    )
    assert answer.json()["pipelines"] == [
        {"pipeline_id": "door", "stage": "switched", "verdict": "", "shadow": "as a shadow: 9 frames"}
    ]


def test_what_cannot_be_is_refused_with_its_place(api: Api, parts: Peer) -> None:
    unknown = api.http.post("/v2/rollouts", json={"model": OLD.id, "to": "parts/9"})
    negative = api.http.post("/v2/rollouts", json={"model": OLD.id, "to": NEW.id, "shadow": -1.0})

    assert (unknown.status_code, unknown.json()["errors"][0]["loc"]) == (422, ["body", "to"])
    assert (negative.status_code, negative.json()["errors"][0]["loc"]) == (422, ["body", "shadow"])
    assert api.http.get("/v2/rollouts/none").status_code == 404


def test_models_that_find_different_things_are_not_compared_in_the_same_frames(
    api: Api, parts: Peer, tmp_path: Path
) -> None:
    write_classifying_model(tmp_path / "colours.onnx")
    for model_id, content in (
        ("shapes/1", demo_model()),
        ("colours/1", (tmp_path / "colours.onnx").read_bytes()),
    ):
        digest = hashlib.sha256(content).hexdigest()
        api.http.put(f"/v2/blobs/{digest}", content=content).raise_for_status()
        api.http.put(f"/v2/models/{model_id}", json={"weights": digest}).raise_for_status()

    compared = api.http.post("/v2/rollouts", json={"model": "shapes/1", "to": "colours/1"})
    at_once = api.http.post("/v2/rollouts", json={"model": "shapes/1", "to": "colours/1", "shadow": 0.0})

    assert compared.json()["errors"][0]["loc"] == ["body", "shadow"]
    assert at_once.status_code == 201


def test_the_client_starts_shows_and_cancels_it(api: Api, parts: Peer) -> None:
    with Client(connection_to(api)) as client:
        started = client.start_rollout(OLD.id, NEW.id, canary=0.5, selector={"site": "hall-1"})
        listed = client.list_rollouts()
        kept = client.cancel_rollout(started.id, keep=True)
        with pytest.raises(NotFound):
            client.get_rollout("none")
        parts.answer = lambda _: Error("conflict", "roll-out x is over: it is stopped")
        with pytest.raises(Conflict):
            client.cancel_rollout(started.id)

    assert (started.model.id, started.to.id, started.phase, started.is_over) == (
        OLD.id,
        NEW.id,
        "canary",
        False,
    )
    assert [(each.id, each.pipelines) for each in listed] == [(started.id, ())]
    assert (kept.phase, kept.reason, kept.is_over) == ("stopped", "it was cancelled", True)


def test_the_command_line_starts_lists_shows_and_cancels_it(run: Command, parts: Peer) -> None:
    begun = run("rollout", OLD.id, "--to", NEW.id, "--no-follow", "--yes", "-l", "site=hall-1")
    rollout_id = begun.stdout.split()[0]
    listed = run("rollouts")
    shown = run("rollouts", "show", rollout_id)
    returned = run("rollouts", "cancel", rollout_id)
    followed = run("rollouts", "follow", rollout_id, code=3)

    assert parts.rollouts[rollout_id].plan.dataset == "differing"
    assert listed.stdout.splitlines()[1].split() == [rollout_id, OLD.id, NEW.id, "canary", "1", "switched"]
    assert shown.stdout.splitlines()[1:] == ["  door: switched", "    as a shadow: 9 frames"]
    text = f"{rollout_id}: returned to parts/1: it was cancelled (1 switched)"
    assert returned.stdout.strip() == text
    assert followed.stdout.splitlines() == ["door: as a shadow: 9 frames", text]
    assert json.loads(run("rollouts", "--json").stdout)[0]["id"] == rollout_id


def test_a_selector_of_any_value_is_a_usage_error(run: Command, parts: Peer) -> None:
    done = run("rollout", OLD.id, "--to", NEW.id, "--yes", "-l", "site", code=2)

    assert "expected --selector as KEY=VALUE,KEY=VALUE, got 'site'" in done.stderr
    assert parts.rollouts == {}
