"""The seam behind which every source is: go on to the next picture, and say why there is none."""

from __future__ import annotations

import abc

from streamfleet_worker.video.frame import Image


class Capture(abc.ABC):
    """An open source. One thread uses it."""

    finite: bool  # every frame is wanted, and there is an end
    width: int  # pixels; 0 before the first picture
    height: int  # pixels
    fps: float  # as the source declares it; 0 when it does not
    total_frames: int  # as the source declares it; below 1 when it does not
    damaged = False  # what was grabbed last cannot be shown
    broken = False  # at the end: it ended well before what it declares, or could not be read on
    remark = ""  # at the end: what was wrong with it, for people
    media_time: float | None = None  # seconds of the source's own clock, of what was grabbed last

    @abc.abstractmethod
    def grab(self) -> bool:
        """Go on to the next picture, or to one that is damaged. False: the data is at its end.

        Raises: SourceLost.
        """

    @abc.abstractmethod
    def retrieve(self, into: Image | None) -> Image | None:
        """The picture that was grabbed; it may use this memory, if it fits. None: it is damaged."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give the source back."""
