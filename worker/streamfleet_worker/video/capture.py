"""The interface of all sources."""

from __future__ import annotations

import abc

from streamfleet_worker.video.frame import Picture


class Capture(abc.ABC):
    """An open source. Only one thread may use it."""

    finite: bool  # it has an end, and every frame is processed
    width: int  # pixels; 0 before the first picture
    height: int  # pixels
    fps: float  # as declared; 0 if unknown
    total_frames: int  # as declared; below 1 if unknown
    damaged = False  # the grabbed frame cannot be decoded
    skipped = False  # the grabbed frame was not decoded, because it was not needed when it arrived
    broken = False  # at the end: it is shorter than declared, or could not be read further
    remark = ""  # at the end: what was wrong with it, for users
    media_time: float | None = None  # of the grabbed frame, in seconds of the source's own clock

    @abc.abstractmethod
    def grab(self) -> bool:
        """Advance to the next picture, which may be damaged. Returns False at the end of the data.

        Raises: SourceLost.
        """

    @abc.abstractmethod
    def retrieve(self) -> Picture | None:
        """The grabbed picture; None if it is damaged or skipped. It outlives its source."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the source."""
