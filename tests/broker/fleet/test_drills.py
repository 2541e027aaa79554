"""Operators may have a device cause faults, if it takes part in drills."""

from __future__ import annotations

import pytest

from streamfleet_broker.fleet.devices import OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Effect, Send
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.messages import Drill, Error, Hello, Reply
from streamfleet_core.protocol.requests import DrillDevice, pack_request
from tests.fakes.scripted_fleet import ScriptedFleet, scripted_fleet


def ask(fleet: ScriptedFleet, device: str) -> tuple[list[Effect], Reply | Error]:
    request = pack_request(DrillDevice(device=device, fault="isolate", seconds=20.0))
    peer = OperatorPeer(b"operator")
    effects = fleet.perform(fleet.fleet.receive(peer, Envelope(request, request_id=b"7" * 16), fleet.now))
    (answer,) = (effect for effect in effects if isinstance(effect, Answer))
    assert isinstance(answer.message, Reply | Error)
    return effects, answer.message


@pytest.fixture
def fleet() -> ScriptedFleet:
    made = scripted_fleet("a", "b")
    for name in ("a", "b"):
        made.hello(name)
        made.heartbeat(name)
    # Device a says that it takes part.
    device = made.devices["a"]
    hello = Hello(device="a", boot=device.boot, agent="0.1.0", capacity=4, drills=True)
    made.perform(made.fleet.receive(device.peer, Envelope(hello), made.now))
    made.heartbeat("a")
    return made


def test_a_device_that_takes_part_is_told(fleet: ScriptedFleet) -> None:
    effects, answer = ask(fleet, "a")

    assert answer == Reply(None)
    assert [each.message for each in effects if isinstance(each, Send)] == [Drill("isolate", None, 20.0)]


def test_a_device_that_takes_part_in_no_drills_is_left_alone(fleet: ScriptedFleet) -> None:
    effects, answer = ask(fleet, "b")

    assert isinstance(answer, Error)
    assert (answer.code, "--allow-drills" in answer.message) == ("conflict", True)
    assert not [each for each in effects if isinstance(each, Send)]


def test_a_device_that_is_not_ready_is_left_alone(fleet: ScriptedFleet) -> None:
    fleet.pass_time(4.0, alive=["b"])

    _, answer = ask(fleet, "a")

    assert isinstance(answer, Error)
    assert (answer.code, "suspect" in answer.message) == ("conflict", True)


def test_an_unknown_device_is_named() -> None:
    _, answer = ask(scripted_fleet("a"), "x")

    assert isinstance(answer, Error)
    assert answer.code == "not_found"
