"""A device is asked to build variants by its desired state, once at a time, and by one run of its agent."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.fleet.optimisations import EXPIRY
from streamfleet_broker.fleet.scheduler import MAX_DESIRED_SIZE, size
from streamfleet_core.protocol.limits import MAX_BOARD, MAX_CONTROL_BODY
from streamfleet_core.protocol.messages import Desired
from streamfleet_core.protocol.requests import EndOptimisation, FindOptimisation, StartOptimisation
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from streamfleet_core.protocol.values import ModelRef
from tests.fakes.scripted_fleet import ScriptedFleet, scripted_fleet, sent

WANTED = Optimisation(id="task-1", model=ModelRef("parts/1", "ab" * 32), board="a board")


def ready(name: str = "a", *, optimises: bool = True) -> ScriptedFleet:
    fleet = scripted_fleet(name)
    fleet.hello(name, boot=b"1" * 16, optimises=optimises)
    fleet.heartbeat(name)
    return fleet


def asked(fleet: ScriptedFleet, name: str = "a") -> list[Optimisation | None]:
    """What the desired states of the last step ask of a device."""
    return [each.optimisation for each in sent(fleet.effects, name) if isinstance(each, Desired)]


def refused(fleet: ScriptedFleet, wanted: Optimisation = WANTED) -> str:
    error = fleet.error(StartOptimisation("a", wanted))
    assert error.code == "conflict"
    return error.message


def test_a_device_gets_the_task_with_its_desired_state_until_the_task_ends() -> None:
    fleet = ready()

    fleet.reply(StartOptimisation("a", WANTED))
    began = asked(fleet)
    found = [fleet.reply(FindOptimisation("task-1", device)) for device in (None, "a", "b")]
    ended = [fleet.reply(EndOptimisation("task-1"))]
    last = asked(fleet)
    ended.append(fleet.reply(EndOptimisation("task-1")))

    assert began == [WANTED]
    assert found == [WANTED, WANTED, None]
    assert ended == [True, False]
    assert last == [None]
    assert fleet.reply(FindOptimisation("task-1")) is None


def test_a_device_has_one_task_at_a_time() -> None:
    fleet = ready()
    fleet.reply(StartOptimisation("a", WANTED))

    again = refused(fleet, replace(WANTED, id="task-2"))

    assert again == "a builds variants of parts/1 already: wait until it has ended"
    assert fleet.reply(FindOptimisation("task-2")) is None


def test_an_old_worker_is_not_asked() -> None:
    fleet = ready(optimises=False)

    why = refused(fleet)

    assert why.startswith("a runs version 0.1.0, which builds no variants for others: update its worker")


def test_a_device_that_is_away_is_not_asked() -> None:
    fleet = scripted_fleet("a")
    fleet.pass_time(60)

    assert "expected a device that is ready" in refused(fleet)


def test_another_session_of_the_same_agent_goes_on_and_another_agent_does_not_begin_again() -> None:
    fleet = ready()
    fleet.reply(StartOptimisation("a", WANTED))

    fleet.hello("a", boot=b"1" * 16, optimises=True)
    same = asked(fleet)
    fleet.hello("a", boot=b"2" * 16, optimises=True)

    assert same == [WANTED]
    assert asked(fleet) == [None]
    assert fleet.reply(FindOptimisation("task-1")) is None


def test_a_task_that_nobody_ends_is_forgotten() -> None:
    fleet = ready()
    fleet.reply(StartOptimisation("a", WANTED))

    fleet.now += EXPIRY
    fleet.pass_time(0.5)

    assert fleet.reply(FindOptimisation("task-1")) is None


def test_the_largest_task_fits_beside_the_pipelines() -> None:
    longest = Optimisation(
        id="t" * 64,
        model=ModelRef(f"{'p' * 64}/{'v' * 64}", "ab" * 32),
        board="b" * MAX_BOARD,
        pictures=f"blob:{'0' * 64}",
        dry_run=True,
    )
    task = size(Desired(2**62, (), longest)) - size(Desired(2**62, ()))

    assert MAX_DESIRED_SIZE + task <= MAX_CONTROL_BODY
