"""Which packets of a camera are decoded, if few of its pictures are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_worker.video.sources.freeze_detector import FORGOTTEN
from streamfleet_worker.video.sources.pacing import Pace
from streamfleet_worker.video.sources.packet_skipper import Demand, PacketSkipper

LATER = 1e9  # seconds


class PacedCamera:
    """A camera whose pictures are needed at a pace, without a decoder."""

    def __init__(self, *, fps: float, max_fps: float, exact: bool = False) -> None:
        self.now = 100.0  # monotonic seconds
        self.uses: Counter[str] = Counter()
        self.needed_at: list[float] = []  # seconds, when the picture of each came
        self.exact = exact
        self.pace = Pace(max_fps)
        self.skipper = PacketSkipper(self._demand)
        self._fps = fps
        self._checked_at = self.now
        self._is_complete = False  # the decoder has all that the next packet refers to

    def play(self, packets: int, *, group: int) -> None:
        """So many packets arrive, of which each first one of a group is a keyframe."""
        for number in range(packets):
            self.packet(is_keyframe=number % group == 0)

    def packet(self, *, is_keyframe: bool) -> None:
        self.now += 1 / self._fps
        use = self.skipper.use_of(is_keyframe=is_keyframe, now=self.now)
        assert use == "skip" or is_keyframe or self._is_complete, "it refers to what was not decoded"
        self._is_complete = use == "decode"
        self.uses[use] += 1
        if use != "skip":
            self._checked_at = self.now
            if self.pace.wait(self.now) == 0:
                self.pace.went(self.now)
                self.needed_at.append(self.now)

    def _demand(self) -> Demand | None:
        if not self.pace.interval:
            return None
        by = self._checked_at + FORGOTTEN
        return Demand(due=self.pace.due, interval=self.pace.interval, check_by=by, exact=self.exact)


def gaps(camera: PacedCamera, *, since: float) -> list[float]:
    """Seconds between the needed pictures from then on."""
    return [later - earlier for earlier, later in pairwise(camera.needed_at) if earlier >= since]


@pytest.mark.parametrize(("fps", "group"), [(10, 10), (25, 25), (25, 50), (10, 1)])
def test_only_the_needed_keyframes_are_decoded_if_they_are_frequent(fps: int, group: int) -> None:
    camera = PacedCamera(fps=fps, max_fps=0.5)
    camera.play(10 * group, group=group)
    began, camera.uses = camera.now, Counter()

    camera.play(200 * fps - 200 * fps % group, group=group)

    assert camera.uses["decode"] == 0
    assert 95 <= camera.uses["alone"] <= 101
    assert all(abs(gap - 2) <= group / fps + 1e-6 for gap in gaps(camera, since=began))


@pytest.mark.parametrize(("group", "most"), [(25, 0.65), (50, 0.85)])
def test_the_rest_of_a_long_group_is_skipped_and_no_picture_is_late(group: int, most: float) -> None:
    camera = PacedCamera(fps=10, max_fps=0.5)
    camera.play(10 * group, group=group)
    began, camera.uses = camera.now, Counter()

    camera.play(2000, group=group)

    assert camera.uses["alone"] == 0
    assert camera.uses["decode"] < most * 2000
    assert all(1.85 < gap < 2.15 for gap in gaps(camera, since=began))


@given(
    fps=st.sampled_from([1, 5, 10, 25, 30]),
    group=st.integers(1, 250),
    max_fps=st.floats(0.05, 30),
    exact=st.booleans(),
)
def test_at_most_a_tenth_of_the_rate_is_lost(fps: int, group: int, max_fps: float, exact: bool) -> None:
    camera = PacedCamera(fps=fps, max_fps=max_fps, exact=exact)
    camera.play(5 * group, group=group)
    began = camera.now

    camera.play(10 * group, group=group)

    came = sum(at > began for at in camera.needed_at)
    interval = max(1.1 / max_fps, 1 / fps)
    assert came >= 10 * group / fps / (interval + 1 / fps) - 2


def test_keyframes_do_not_replace_the_pictures_that_a_motion_gate_looks_at() -> None:
    camera = PacedCamera(fps=10, max_fps=0.5, exact=True)
    camera.play(100, group=10)
    camera.pace.limit(0.01)
    camera.pace.went(camera.now)
    camera.uses.clear()

    camera.play(20, group=10)
    ahead = Counter(camera.uses)
    camera.pace.limit(1000)
    camera.play(20, group=10)

    assert ahead == {"skip": 20}
    assert camera.uses == {"skip": 20, "decode": 20}


def test_all_pictures_come_from_the_next_keyframe_on_when_they_are_needed() -> None:
    camera = PacedCamera(fps=10, max_fps=0.5)
    camera.play(95, group=10)
    camera.pace.limit(None)
    camera.uses.clear()

    for number in range(95, 120):
        camera.packet(is_keyframe=number % 10 == 0)

    assert camera.uses == {"skip": 5, "decode": 20}


def test_a_camera_that_sends_fewer_keyframes_is_decoded_again() -> None:
    camera = PacedCamera(fps=10, max_fps=0.5)
    camera.play(100, group=10)
    camera.play(200, group=100)
    began = camera.now

    camera.play(400, group=100)

    assert all(gap < 2.15 for gap in gaps(camera, since=began))


def test_a_picture_is_decoded_in_time_to_see_whether_it_changes() -> None:
    camera = PacedCamera(fps=10, max_fps=0.01)
    camera.play(100, group=20)
    camera.uses.clear()

    camera.play(400, group=20)

    assert 400 / 10 / FORGOTTEN <= camera.uses["alone"] <= 14
    assert camera.uses["decode"] == 0


def always(demand: Demand | None) -> Callable[[], Demand | None]:
    return lambda: demand


RARE = Demand(due=LATER, interval=LATER, check_by=LATER, exact=False)


def uses(skipper: PacketSkipper, packets: int, *, group: int, start: float) -> list[str]:
    """What is done with these packets, ten in a second."""
    return [
        skipper.use_of(is_keyframe=number % group == 0, now=start + number / 10) for number in range(packets)
    ]


def test_all_is_decoded_until_the_intervals_are_known_and_on_each_new_connection_until_a_keyframe() -> None:
    skipper = PacketSkipper(always(RARE))

    first = uses(skipper, 40, group=10, start=100.0)
    skipper.begin_connection()
    second = [skipper.use_of(is_keyframe=number == 5, now=200 + number / 10) for number in range(10)]

    assert first == ["decode"] * 30 + ["skip"] * 10
    assert second == ["decode"] * 5 + ["skip"] * 5


def test_a_damaged_keyframe_and_one_that_is_no_picture_end_the_skipping() -> None:
    skipper = PacketSkipper(always(RARE))
    uses(skipper, 40, group=10, start=100.0)

    skipper.forget()
    damaged = uses(skipper, 40, group=10, start=104.0)
    skipper.distrust()
    distrusted = uses(skipper, 100, group=10, start=108.0)

    assert damaged == ["decode"] * 20 + ["skip"] * 20  # the interval since the last one is known at once
    assert distrusted == ["decode"] * 100


@pytest.mark.parametrize(("rate", "use"), [(1.0, "skip"), (0.0, "decode"), (-3.0, "decode")])
def test_the_clock_of_a_camera_counts_unless_it_is_wrong(rate: float, use: str) -> None:
    skipper = PacketSkipper(always(Demand(due=110.5, interval=2.0, check_by=LATER, exact=False)))
    arrivals = [100.0, 102.0, 104.9, 106.0, 108.0, 110.0]  # one was late

    uses = [
        skipper.use_of(is_keyframe=True, now=now, media_time=2 * rate * number)
        for number, now in enumerate(arrivals)
    ]

    # If keyframes were up to 2.9 s apart, the next picture would be needed before the next one.
    assert uses[-1] == use


def test_the_wait_for_a_keyframe_is_known() -> None:
    skipper = PacketSkipper(always(RARE))
    uses(skipper, 30, group=10, start=100.0)
    before = skipper.waits_for_keyframe(102.9)

    uses(skipper, 10, group=10, start=103.0)

    assert before == 0
    assert skipper.waits_for_keyframe(140.0) == 37.0
