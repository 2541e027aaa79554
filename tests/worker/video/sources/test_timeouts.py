"""How long a source may be silent until it counts as lost."""

from __future__ import annotations

from streamfleet_worker.video.sources.timeouts import FIRST_PICTURE, NEXT_PICTURE, FrameTimeouts


def after(*silences: float, declared: float = 0.0) -> FrameTimeouts:
    timeouts = FrameTimeouts()
    timeouts.declares(declared)
    for seconds in silences:
        timeouts.waited(seconds)
    return timeouts


def test_the_first_picture_may_take_longer_than_the_next_ones_of_a_quick_source() -> None:
    assert FrameTimeouts().first == FIRST_PICTURE
    assert after(*[0.04] * 20).following == NEXT_PICTURE < FIRST_PICTURE


def test_a_source_that_declares_nothing_gets_time_until_its_pace_is_known() -> None:
    assert after().following == FIRST_PICTURE
    assert after(0.0, 12.0).following == FIRST_PICTURE
    assert after(0.0, 12.0, 12.0).following == 36


def test_what_a_source_declares_holds_until_its_pictures_tell() -> None:
    assert after(declared=15).following == NEXT_PICTURE
    assert after(declared=0.1).following == 30
    assert after(12, 12, 12, declared=15).following == 36


def test_a_source_that_was_lost_for_its_silence_is_not_believed_again() -> None:
    timeouts = after(declared=25)

    timeouts.timed_out()

    assert timeouts.following == FIRST_PICTURE


def test_a_pause_is_forgotten_after_some_pictures() -> None:
    assert after(*[0.04] * 5, 20.0).following == 60
    assert after(20.0, *[0.04] * 8).following == NEXT_PICTURE


def test_no_source_is_waited_for_for_longer_than_two_minutes() -> None:
    assert after(300, 300, 300).following == 120


def test_what_comes_in_pieces_may_be_silent_between_them() -> None:
    timeouts = after(*[0.0] * 20, declared=25)

    timeouts.mark_segmented()

    assert timeouts.following == FIRST_PICTURE


def test_the_properties_of_a_source_say_otherwise() -> None:
    timeouts = FrameTimeouts(first=3.0, following=60.0)
    timeouts.waited(100.0)

    assert (timeouts.first, timeouts.following) == (3.0, 60.0)
