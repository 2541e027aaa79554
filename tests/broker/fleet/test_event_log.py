"""The ring of what happened lately."""

from __future__ import annotations

from streamfleet_broker.fleet.event_log import KEPT, EventLog

EPOCH = 7


def filled(count: int) -> EventLog:
    """A log of so many events, all of steps that are over."""
    log = EventLog()
    for number in range(count):
        log.begin_step()
        log.add("device", "a", (str(number), None, 0, ""), "", 0.0)
    log.begin_step()
    return log


def numbers(log: EventLog, after: int | None = None) -> tuple[int, ...]:
    return tuple(event.n for event in log.after(after, EPOCH).events)


def test_the_oldest_events_are_forgotten_and_who_missed_them_is_told() -> None:
    log = filled(KEPT + 10)

    assert numbers(log) == tuple(range(11, KEPT + 11))
    assert log.after(9, EPOCH).lost
    assert numbers(log, after=9) == numbers(log)
    assert not log.after(10, EPOCH).lost
    assert numbers(log, after=KEPT + 8) == (KEPT + 9, KEPT + 10)
    assert log.after(KEPT + 10, EPOCH).events == ()
    log.check()


def test_a_number_that_never_was_is_of_another_broker() -> None:
    log = filled(3)

    assert log.after(4, EPOCH).lost
    assert numbers(log, after=4) == (1, 2, 3)


def test_what_was_undone_never_happened() -> None:
    log = filled(KEPT)
    before = log.after(None, EPOCH)
    log.add("device", "a", ("gone wrong", None, 0, ""), "", 0.0)
    log.add("device", "a", None, "", 0.0)
    log.add("device", "b", ("ready", None, 0, ""), "", 0.0)
    assert numbers(log)[0] == 4

    log.undo_step()

    assert log.after(None, EPOCH) == before
    assert not log.is_new("device", "a", (str(KEPT - 1), None, 0, ""))
    assert log.known("device") == {"a"}
    log.check()


def test_a_step_of_more_events_than_are_kept_is_undone_too() -> None:
    log = filled(5)
    before = log.after(None, EPOCH)
    for number in range(KEPT + 7):
        log.add("device", f"d{number}", ("ready", None, 0, ""), "", 0.0)

    log.undo_step()

    assert log.after(None, EPOCH) == before
    log.check()


def test_what_is_told_of_a_process_is_an_event_of_its_own_each_time() -> None:
    log = filled(1)
    log.report("api", "was killed", 5.0)
    log.begin_step()
    log.report("api", "was killed", 6.0)

    told = log.after(1, EPOCH).events
    assert [(event.n, event.at, event.subject, event.id, event.state, event.reason) for event in told] == [
        (2, 5.0, "process", "api", "restarting", "was killed"),
        (3, 6.0, "process", "api", "restarting", "was killed"),
    ]
    log.undo_step()
    assert numbers(log) == (1, 2)
    log.check()
