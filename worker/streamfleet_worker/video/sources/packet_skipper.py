"""Decides which packets of a live source are decoded, if few of its pictures are needed. Pure.

A picture refers to others, at most back to the last keyframe. So decoding can stop at any packet, and go on
at a keyframe only:

    keyframes are frequent enough    only keyframes are decoded, and of them only the needed ones
    they are too rare                the rest of a group of pictures after its last needed picture is skipped
    their intervals are not known    all packets are decoded
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from streamfleet_worker.video.sources.freeze_detector import FORGOTTEN

_KNOWN = 3  # intervals between keyframes that are needed for an estimate
_KEPT = 8  # intervals: the longest counts, because a camera may change them
_LOST_RATE = 1.1  # times the interval of the needed pictures, at most, that keyframes may be apart
_JITTER = 1.2  # times the longest interval, within which the next keyframe surely comes
_CLOCK = 0.5  # how far the source's own clock may be from ours, as a part of an interval, to be believed
_WORTHWHILE = 3  # times the interval of the needed pictures: in longer groups little can be skipped

Use = Literal["decode", "alone", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Which pictures of a live source are needed next. Times are monotonic seconds."""

    due: float  # no picture is needed before
    interval: float  # seconds from one needed picture to the next
    check_by: float  # a picture is needed until then, to see whether it changes
    exact: bool  # each picture is needed from `due` on, and a later keyframe does not replace it


class PacketSkipper:
    """Decides for one source, over all its connections.

    `demand` returns which pictures are needed next; None: all.
    """

    def __init__(self, demand: Callable[[], Demand | None] = lambda: None) -> None:
        self._demand = demand
        self._intervals: deque[float] = deque(maxlen=_KEPT)  # seconds between keyframes
        self.begin_connection()

    def begin_connection(self) -> None:
        """Begin with a new decoder."""
        self._keyframe_at: float | None = None  # monotonic seconds, when the last one arrived
        self._keyframe_time: float | None = None  # seconds on the source's own clock, of the last one
        self._decodes = True  # the decoder has all that the next packet refers to
        self._trusts_keyframes = True

    def forget(self) -> None:
        """Learn the intervals again: a keyframe was damaged."""
        self._intervals.clear()

    def distrust(self) -> None:
        """Decode all packets of this connection: a keyframe alone gave no picture."""
        self._trusts_keyframes = False

    def use_of(self, *, is_keyframe: bool, now: float, media_time: float | None = None) -> Use:
        """What to do with the packet that has arrived: decode it, decode it without others, or skip it.

        `media_time`: seconds on the source's own clock; None if it has none.
        """
        if is_keyframe:
            self._learn_interval(now, media_time)
        elif not self._decodes:
            return "skip"
        use = self._use_of(is_keyframe, now)
        self._decodes = use == "decode"
        return use

    def waits_for_keyframe(self, now: float) -> float:
        """Seconds since the last keyframe, if no other packet can be decoded; 0 otherwise."""
        return 0.0 if self._decodes or self._keyframe_at is None else now - self._keyframe_at

    def _learn_interval(self, now: float, media_time: float | None) -> None:
        """Learn how far keyframes are apart, by the clock of the source unless that is wrong."""
        if self._keyframe_at is not None:
            interval = now - self._keyframe_at
            if media_time is not None and self._keyframe_time is not None:
                own = media_time - self._keyframe_time
                interval = own if abs(own - interval) <= _CLOCK * interval else interval
            self._intervals.append(interval)
        self._keyframe_at, self._keyframe_time = now, media_time

    def _use_of(self, is_keyframe: bool, now: float) -> Use:
        demand = self._demand() if self._trusts_keyframes else None
        if demand is None or self._keyframe_at is None or len(self._intervals) < _KNOWN:
            return "decode"
        longest = max(*self._intervals, now - self._keyframe_at)
        if _keyframes_suffice(longest, demand):
            is_needed = demand.due <= now or demand.check_by < now + _JITTER * longest
            return "alone" if is_keyframe and is_needed else "skip"
        if longest > _WORTHWHILE * demand.interval:
            return "decode"
        return "skip" if min(demand.due, demand.check_by) >= self._keyframe_at + longest else "decode"


def _keyframes_suffice(longest: float, demand: Demand) -> bool:
    """Whether pictures are needed so rarely that keyframes, at most so many seconds apart, replace others."""
    is_frequent = longest <= _LOST_RATE * demand.interval and _JITTER * longest <= FORGOTTEN
    return is_frequent and not demand.exact
