"""Many operators and long lists: changes that share a write, and pages."""

from __future__ import annotations

from streamfleet_broker.fleet.effects import Answer, Effect, Save
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import (
    AddDevice,
    ChangePipeline,
    ListDevices,
    ListPipelines,
    OperatorRequest,
    PutPipeline,
    pack_request,
)
from tests.fakes.scripted_fleet import CAMERA, OPERATOR, ScriptedFleet, data_of, scripted_fleet, sent


def together(fleet: ScriptedFleet, *requests: OperatorRequest) -> list[Effect]:
    """Several requests that wait at the same time."""
    messages = [
        (OPERATOR, Envelope(pack_request(request), request_id=bytes([number] * 16)))
        for number, request in enumerate(requests, 1)
    ]
    return fleet.perform(fleet.fleet.receive_together(messages, fleet.now))


def answers(effects: list[Effect]) -> list[Reply | Error]:
    """Their answers, in the order of the requests."""
    return [effect.message for effect in effects if isinstance(effect, Answer)]


def test_changes_that_wait_together_share_one_write_and_each_is_answered() -> None:
    fleet = scripted_fleet("a")
    fleet.create("door")

    effects = together(
        fleet,
        PutPipeline(pipeline_id="gate", spec=CAMERA),
        ChangePipeline("door", "pause"),
        ChangePipeline("door", "run"),
        ChangePipeline("lost", "pause"),
    )

    assert len([effect for effect in effects if isinstance(effect, Save)]) == 1
    assert len(sent(effects, "a")) == 1
    created, paused, resumed, lost = answers(effects)
    assert data_of(created).created
    assert [data_of(each).pipeline.version for each in (paused, resumed)] == [2, 3]
    assert isinstance(lost, Error)
    assert (fleet.view("door").desired_status, fleet.view("door").version) == ("run", 3)


def test_a_write_that_several_share_and_that_fails_changes_nothing_for_any() -> None:
    fleet = scripted_fleet("a")
    before = fleet.create("door")
    fleet.store_down = True

    effects = together(
        fleet,
        PutPipeline(pipeline_id="gate", spec=CAMERA),
        ChangePipeline("door", "pause", 60_000),
        ChangePipeline("door", "run", 60_000),
    )

    assert [each.code for each in answers(effects) if isinstance(each, Error)] == ["store_down"] * 3
    assert fleet.reply(ListPipelines()) == (before,)


def test_pages_of_pipelines_follow_each_other_although_some_are_deleted() -> None:
    fleet = scripted_fleet("a", "b", "c")
    names = [f"door-{number}" for number in range(7)]
    for name in names:
        fleet.create(name)
    everything = fleet.reply(ListPipelines())
    assert [view.pipeline_id for view in everything] == names

    first = fleet.reply(ListPipelines(limit=3))
    fleet.change("door-2", "stop")
    fleet.change("door-5", "stop")
    fleet.obey()
    second = fleet.reply(ListPipelines(after=first[-1].order, limit=3))

    assert first == everything[:3]
    assert [view.pipeline_id for view in second] == ["door-3", "door-4", "door-6"]
    assert fleet.reply(ListPipelines(after=second[-1].order, limit=3)) == ()


def test_pages_of_devices_have_those_that_are_expected_too() -> None:
    fleet = scripted_fleet("a", "c")
    fleet.ask(AddDevice("b"))

    assert [view.device for view in fleet.reply(ListDevices(limit=2))] == ["a", "b"]
    assert [view.device for view in fleet.reply(ListDevices(after="b", limit=2))] == ["c"]
    assert fleet.reply(ListDevices(after="c", limit=2)) == ()
