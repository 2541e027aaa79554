"""Many pipelines that are put and stopped together, in one write, if nobody changed them meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamfleet_broker.fleet.effects import Save
from streamfleet_core.protocol.messages import Error
from streamfleet_core.protocol.requests import (
    Applied,
    ApplyPipelines,
    ChangePipeline,
    CordonDevice,
    DesiredPipeline,
    DeviceSettings,
    LabelDevice,
    ListPipelines,
    PutPipeline,
)
from streamfleet_core.protocol.values import PipelineSpec, SourceSpec
from tests.fakes.scripted_fleet import CAMERA, CONFIG, FILE, ScriptedFleet, data_of, scripted_fleet, sent

OWNED = {"manager": "hall-1"}


def desired(pipeline_id: str, spec: PipelineSpec = CAMERA, **more: Any) -> DesiredPipeline:
    """A pipeline of one manager."""
    return DesiredPipeline(pipeline_id=pipeline_id, spec=spec, labels=OWNED, **more)


def versions(fleet: ScriptedFleet) -> dict[str, int]:
    """What an operator has seen last."""
    return {view.pipeline_id: view.version for view in fleet.reply(ListPipelines())}


def test_many_pipelines_are_created_in_one_write_and_spread_over_the_devices() -> None:
    fleet = scripted_fleet("a", "b")
    names = [f"door-{number}" for number in range(6)]

    effects = fleet.ask(ApplyPipelines(puts=tuple(map(desired, names)), seen=dict.fromkeys(names, 0)))

    assert len([effect for effect in effects if isinstance(effect, Save)]) == 1
    assert [len(sent(effects, to)) for to in "ab"] == [1, 1]
    assert [(each.pipeline_id, each.device) for each in data_of(fleet.answer(effects))] == [
        (name, "ab"[number % 2]) for number, name in enumerate(names)
    ]
    assert [len(fleet.assignments(name)) for name in "ab"] == [3, 3]


@pytest.mark.parametrize("spare", [0, 1])
def test_a_dry_run_supposes_the_labels_and_cordons_of_devices(spare: int) -> None:
    fleet = scripted_fleet("a", "b", "c", "d", config=replace(CONFIG, spare=spare))
    fleet.reply(CordonDevice("c", True))
    hall = {"site": "hall-1"}
    request = ApplyPipelines(
        puts=(
            desired("one", selector=hall),
            desired("two", selector=hall),
            desired("pinned", device="b"),
            desired("elsewhere", device="c", selector=hall),
        )
    )
    devices = {
        "a": DeviceSettings(hall, cordoned=False),
        "b": DeviceSettings(hall, cordoned=True),
        "c": DeviceSettings(hall, cordoned=False),
    }

    said = fleet.reply(replace(request, dry_run=True, devices=devices))
    without = fleet.reply(replace(request, dry_run=True))
    for name, each in devices.items():
        fleet.reply(LabelDevice(name, each.labels))
        fleet.reply(CordonDevice(name, each.cordoned))
    done = fleet.reply(request)

    assert said == done
    assert [each.device for each in said] == ["a", "a", None, "c"]
    assert said[2].message.startswith("device b is cordoned")
    assert [each.device for each in without] == [None, None, "b", None]


def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    fleet = scripted_fleet("a", "b")
    fleet.create("gate")
    changed = replace(CAMERA, sources=(SourceSpec("rtsp://10.0.0.9/other"),))
    request = ApplyPipelines(
        puts=(desired("door-1"), desired("door-2"), desired("gate", changed), desired("lost", device="c")),
        stops=("gone",),
    )
    before = fleet.reply(ListPipelines())

    effects = fleet.ask(replace(request, dry_run=True))
    said = data_of(fleet.answer(effects))

    assert not [effect for effect in effects if isinstance(effect, Save)]
    assert fleet.reply(ListPipelines()) == before
    done = fleet.reply(request)
    assert [(each.pipeline_id, each.device, each.restarts) for each in said] == [
        ("door-1", "b", False),
        ("door-2", "a", False),
        ("gate", "a", True),
        ("lost", None, False),
        ("gone", None, False),
    ]
    assert said == done
    assert done[3].refusal == "invalid"
    assert done[3].message.startswith("no device c")


def test_an_unchanged_pipeline_keeps_its_generation_and_its_version() -> None:
    fleet = scripted_fleet("a")
    fleet.reply(ApplyPipelines(puts=(desired("door"), desired("gate"))))
    before = {name: fleet.view(name) for name in ("door", "gate")}

    done = fleet.reply(
        ApplyPipelines(puts=(desired("door"), desired("gate", replace(CAMERA, confidence=0.7))))
    )

    assert done == (
        Applied(pipeline_id="door", device="a", generation=before["door"].generation),
        Applied(pipeline_id="gate", device="a", generation=before["gate"].generation + 1),
    )
    assert fleet.view("door") == before["door"]


def test_nothing_is_changed_when_one_pipeline_is_not_as_it_was_seen() -> None:
    fleet = scripted_fleet("a")
    fleet.reply(ApplyPipelines(puts=(desired("door"), desired("gate"))))
    seen = versions(fleet)
    fleet.reply(ChangePipeline("gate", "pause"))

    refusal = fleet.error(
        ApplyPipelines(puts=(desired("door", FILE, device="a"), desired("new")), seen={**seen, "new": 0})
    )

    assert refusal == Error("conflict", "pipeline gate has version 2, expected version 1")
    assert fleet.view("door").spec == CAMERA
    assert list(versions(fleet)) == ["door", "gate"]


def test_a_pipeline_that_somebody_created_meanwhile_is_a_conflict() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")

    refusal = fleet.error(ApplyPipelines(puts=(desired("door"),), seen={"door": 0}))

    assert refusal == Error("conflict", "pipeline door has version 1, expected version 0")


def test_no_owned_pipeline_is_overlooked() -> None:
    fleet = scripted_fleet("a")
    fleet.create("foreign")
    fleet.reply(ApplyPipelines(puts=(desired("door"), desired("gate"))))

    request = ApplyPipelines(stops=("door",), seen={"door": 1}, owned=OWNED)
    refusal = fleet.error(request)
    done = fleet.reply(replace(request, seen={"door": 1, "gate": 1}))

    assert refusal == Error("conflict", "pipeline gate has the labels manager=hall-1 by now")
    assert done == (Applied(pipeline_id="door"),)
    assert list(versions(fleet)) == ["foreign", "gate"]


def test_a_request_that_is_sent_again_is_done_once() -> None:
    fleet = scripted_fleet("a")
    request = ApplyPipelines(puts=(desired("door"),), seen={"door": 0}, owned=OWNED)

    first = fleet.answer(fleet.ask(request, request_id=b"r" * 16))
    again = fleet.answer(fleet.ask(request, request_id=b"r" * 16))

    assert first == again
    assert fleet.view("door").version == 1


def test_a_pipeline_that_is_being_stopped_is_refused_alone() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    fleet.change("door", "stop")

    done = fleet.reply(ApplyPipelines(puts=(desired("door"), desired("gate")), seen={"door": 0, "gate": 0}))

    assert done[0] == Applied(
        pipeline_id="door", refusal="conflict", message="pipeline door is being stopped"
    )
    assert list(versions(fleet)) == ["gate"]


def test_a_write_that_the_store_does_not_take_changes_nothing() -> None:
    fleet = scripted_fleet("a")
    fleet.create("gate")
    fleet.store_down = True

    refusal = fleet.error(ApplyPipelines(puts=(desired("door"),), stops=("gate",)))

    assert refusal.code == "store_down"
    assert versions(fleet) == {"gate": 1}


def test_an_operator_that_waits_for_a_pipeline_hears_that_it_was_changed() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")
    fleet.obey()
    waiting = fleet.ask(PutPipeline(pipeline_id="door", spec=FILE, wait_ms=5000))
    assert fleet.answer(waiting) is None

    effects = fleet.ask(ApplyPipelines(puts=(desired("door"),)))

    answers = [effect for effect in effects if type(effect).__name__ == "Answer"]
    assert len(answers) == 2
