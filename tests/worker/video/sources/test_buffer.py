"""What a buffer does when it is full, and which frames are worth their decoding."""

from __future__ import annotations

import select
import threading
import time

import numpy as np
import pytest

from streamfleet_core.protocol.values import Consumption, Filling, SourceSpec
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Frame, Stamp
from streamfleet_worker.video.sources.buffer import FrameBuffer
from streamfleet_worker.video.sources.buffer_policy import Paces, Rate, Skipping, consumption_of, filling_of
from tests.fakes.patience import PATIENCE


def frame(frame_id: int, *, at: float = 0.0) -> Frame:
    stamp = Stamp(frame_id=frame_id, decoded_at=at, wall_ns=0, boot_ns=0, media_time=0.0, fps=0.0)
    return Frame(stamp, ArrayPicture(np.zeros((2, 2, 3), np.uint8)))


def ids(frames: list[Frame]) -> list[int]:
    return [one.stamp.frame_id for one in frames]


@pytest.mark.parametrize(
    ("filling", "consumption", "dropped", "taken"),
    [
        ("DROP_OLDEST", "LAZY", [0, 0, 1, 1], [[3], [4], []]),
        ("DROP_OLDEST", "EAGER", [0, 0, 1, 1], [[3, 4], [], []]),
        ("DROP_LATEST", "LAZY", [0, 0, 1, 1], [[1], [2], []]),
        ("DROP_LATEST", "EAGER", [0, 0, 1, 1], [[1, 2], [], []]),
        ("ADAPTIVE_DROP_OLDEST", "LAZY", [0, 0, 1, 1], [[3], [4], []]),
        ("ADAPTIVE_DROP_LATEST", "LAZY", [0, 0, 1, 1], [[1], [2], []]),
    ],
)
def test_a_full_buffer_does_as_its_strategies_say(
    filling: Filling, consumption: Consumption, dropped: list[int], taken: list[list[int]]
) -> None:
    buffer = FrameBuffer(2, wakeup=Wakeup(), filling=filling, consumption=consumption)

    drops = [buffer.put(frame(n)) for n in (1, 2, 3, 4)]
    takes = [ids(buffer.take(0.0)) for _ in range(3)]

    assert drops == dropped
    assert takes == taken


def test_a_buffer_that_waits_loses_nothing() -> None:
    buffer = FrameBuffer(2, wakeup=Wakeup())
    writer = threading.Thread(target=lambda: [buffer.put(frame(n)) for n in range(1, 51)])
    writer.start()
    came: list[int] = []

    until = time.monotonic() + PATIENCE
    while len(came) < 50 and time.monotonic() < until:
        came += ids(buffer.take(0.0))
    writer.join(PATIENCE)

    assert came == list(range(1, 51))


def test_a_file_that_is_held_waits_whatever_its_strategy() -> None:
    buffer = FrameBuffer(1, wakeup=Wakeup(), filling="DROP_OLDEST")
    buffer.hold(True)
    buffer.put(frame(1))
    writer = threading.Thread(target=buffer.put, args=(frame(2),))
    writer.start()

    taken = ids(buffer.take(0.0))
    writer.join(PATIENCE)

    assert taken == [1]
    assert ids(buffer.take(0.0)) == [2]


def test_a_writer_that_waits_is_let_go_by_close() -> None:
    buffer = FrameBuffer(1, wakeup=Wakeup())
    buffer.put(frame(1))
    writer = threading.Thread(target=buffer.put, args=(frame(2),))
    writer.start()

    buffer.close()
    writer.join(PATIENCE)

    assert not writer.is_alive()


@pytest.mark.parametrize(("finite", "signals"), [(False, [True, False, True]), (True, [True, False, False])])
def test_newer_frames_of_a_live_source_are_signalled_but_not_each(finite: bool, signals: list[bool]) -> None:
    wakeup = Wakeup()
    buffer = FrameBuffer(9, wakeup=wakeup, finite=finite)

    found = []
    for number, at in enumerate((10.0, 10.04, 10.06)):
        buffer.put(frame(number, at=at))
        found.append(bool(select.select([wakeup], [], [], 0)[0]))
        wakeup.clear()

    assert found == signals


@pytest.mark.parametrize(("consumption", "expected"), [("EAGER", 2.0), ("LAZY", 1.0)])
def test_it_tells_when_the_frame_that_is_taken_next_was_decoded(
    consumption: Consumption, expected: float
) -> None:
    buffer = FrameBuffer(2, wakeup=Wakeup(), consumption=consumption)
    before = buffer.next_decoded_at
    for number in (1, 2):
        buffer.put(frame(number, at=float(number)))

    assert (before, buffer.next_decoded_at) == (None, expected)


def test_it_is_exhausted_only_when_the_last_frame_has_been_taken() -> None:
    wakeup = Wakeup()
    buffer = FrameBuffer(2, wakeup=wakeup)
    buffer.put(frame(1))
    wakeup.clear()

    buffer.finish()

    assert select.select([wakeup], [], [], 0)[0]
    assert not buffer.exhausted
    buffer.take(0.0)
    assert buffer.exhausted


@pytest.mark.parametrize(
    ("source", "finite", "strategies"),
    [
        (SourceSpec("a.mp4"), True, ("WAIT", "LAZY")),
        (SourceSpec(0), False, ("ADAPTIVE_DROP_OLDEST", "EAGER")),
        (SourceSpec(0, filling="WAIT", consumption="LAZY"), False, ("WAIT", "LAZY")),
        (SourceSpec("a.mp4", consumption="EAGER"), True, ("WAIT", "EAGER")),
    ],
)
def test_what_nobody_said_is_what_suits_the_source(
    source: SourceSpec, finite: bool, strategies: tuple[str, str]
) -> None:
    assert (filling_of(source, finite=finite), consumption_of(source, finite=finite)) == strategies


# which frames are decoded


@pytest.mark.parametrize(
    ("announced", "grabbing", "decoding", "reading", "waiting", "skips"),
    [
        (25.0, 24.8, 24.0, 24.0, 0.01, True),  # grabbing falls behind what the source announces
        (25.0, 24.95, 24.0, 24.0, 0.01, False),
        (25.0, 25.0, 25.0, 19.5, 0.01, True),  # more is decoded than is read
        (25.0, 25.0, 25.0, 20.5, 0.01, False),
        (0.0, 12.0, 12.0, 12.0, 0.01, False),  # it announces nothing
        (None, 12.0, 12.0, 2.0, 0.01, True),
        (25.0, None, 25.0, 2.0, 0.01, False),  # too few samples
        (25.0, 25.0, None, 2.0, 0.01, False),
        (25.0, 25.0, 25.0, None, 0.01, False),
        (25.0, 10.0, 25.0, 2.0, None, False),  # somebody waits for this very frame
        (25.0, 10.0, 25.0, 2.0, 0.06, False),  # the one that there is has become old
    ],
)
def test_a_frame_is_skipped_when_decoding_it_would_be_for_nothing(
    announced: float | None,
    grabbing: float | None,
    decoding: float | None,
    reading: float | None,
    waiting: float | None,
    skips: bool,
) -> None:
    assert Skipping().skips(Paces(announced, grabbing, decoding, reading), waiting) is skips


def test_at_most_sixteen_frames_are_skipped_in_a_row() -> None:
    skipping = Skipping()

    skipped = [skipping.skips(Paces(25.0, 5.0, None, None), 0.01) for _ in range(40)]

    assert skipped == [True] * 16 + [False] + [True] * 16 + [False] + [True] * 6


def test_a_rate_is_known_after_more_than_ten_ticks_and_is_that_of_the_last_thirty() -> None:
    rate = Rate()
    rates = []

    for n in range(100):
        rate.tick(n / 5 if n < 50 else 10 + (n - 50) / 20)
        rates.append(rate.until())

    assert rates[9] is None
    assert rates[10] == pytest.approx(5)
    assert rates[99] == pytest.approx(20)
    assert rate.until(now=10 + 50 / 20) == pytest.approx(20)  # a tick that is on time
    assert rate.until(now=100) < 1  # type: ignore[operator]


@pytest.mark.parametrize("filling", ["DROP_OLDEST", "ADAPTIVE_DROP_OLDEST"])
def test_only_an_adaptive_buffer_leaves_frames_undecoded(filling: Filling) -> None:
    buffer = FrameBuffer(2, wakeup=Wakeup(), filling=filling, consumption="EAGER")
    decoded, ages = 0, []

    for n in range(1, 241):  # 60 frames a second, of which every sixth is read
        now = n / 60
        if buffer.wants(now, 60.0):
            buffer.put(frame(n, at=now))
            decoded += 1
        if n % 6 == 0:
            ages.append(now - buffer.take(now)[-1].stamp.decoded_at)

    assert max(ages) < 0.06  # what is read is new all the same
    assert decoded == 240 if filling == "DROP_OLDEST" else 60 < decoded < 180
