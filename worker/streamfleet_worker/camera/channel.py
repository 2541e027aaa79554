"""One source of a pipeline as the player sees it: its frames in their order, from the buffer to the sinks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamfleet_broker.protocol.reference import is_finite
from streamfleet_broker.protocol.values import SourceSpec
from streamfleet_worker.camera.buffer import FrameBuffer, Signal
from streamfleet_worker.camera.frame import Frame, Image, Stamp
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.letterbox import Geometry
from streamfleet_worker.camera.pace import Holds, Pace
from streamfleet_worker.camera.stillness import Stillness, checksum
from streamfleet_worker.camera.strategy import consumption_of, filling_of
from streamfleet_worker.camera.tracker import Tracker
from streamfleet_worker.progress import Progress

_FILE_FRAMES = 4  # decoded ahead
_LIVE_FRAMES = 2  # the newest, and one that it may overtake


@dataclass(slots=True)
class Flight:
    """A frame in a slot."""

    stamp: Stamp
    geometry: Geometry
    slot: int
    began_at: float  # monotonic seconds: when it was decoded, later by what it had to wait for its pace
    held: float  # seconds that the source had been paused altogether, when this was submitted
    submitted_at: float  # monotonic seconds
    ready_at: float | None = None  # monotonic seconds, when the engine was through with it
    failure: str = ""  # why there is no output
    image: Image | None = None  # for as long as somebody may want to look at it
    shown: bool = False  # a picture for people is made of it


class Channel:
    """The player's thread owns all but the buffer and the ledger, which lock themselves."""

    def __init__(
        self,
        source_id: int,
        spec: SourceSpec,
        *,
        wakeup: Signal,
        ledger: Ledger,
        progress: Progress,
        frames: int | None = None,  # that are decoded ahead; None: as many as suit the source
    ) -> None:
        self.source_id = source_id
        self.finite = is_finite(spec)
        self.ledger = ledger
        self.buffer = FrameBuffer(
            frames or (_FILE_FRAMES if self.finite else _LIVE_FRAMES),
            wakeup=wakeup,
            filling=filling_of(spec, finite=self.finite),
            consumption=consumption_of(spec, finite=self.finite),
        )
        self.pace = Pace(None)
        self.holds = Holds()
        self.tracker: Tracker | None = None
        self.flights: deque[Flight] = deque()  # in the order of their frames
        self.done = False  # set by the player when it is over; any thread may read it
        self._progress = progress
        self._stillness = Stillness()

    @property
    def over(self) -> bool:
        """It is finite, and every frame of it has been dealt with. For the player's thread."""
        return self.finite and self.buffer.exhausted and not self.flights

    def take(self, now: float) -> Frame | None:
        """The frame that is next; those that it has overtaken are counted."""
        frames = self.buffer.take(now)
        for overtaken in frames[:-1]:
            self.ledger.dropped("eager")
            self.buffer.give_back(overtaken.image)
        if not frames:
            return None
        self._look(frames[-1].image, now)
        return frames[-1]

    def drain(self, cause: str, now: float) -> None:
        """Drop all frames that there are."""
        while frames := self.buffer.take(now):
            self._look(frames[-1].image, now)
            self.ledger.dropped(cause, len(frames))
            for frame in frames:
                self.buffer.give_back(frame.image)

    def advance(self, frame_id: int) -> None:
        """Note for a later process that it must not give this frame again."""
        self._progress.advance(frame_id, self.source_id)

    def _look(self, image: Image, now: float) -> None:
        height, width = image.shape[:2]
        self.ledger.seen(width, height)
        if not self.finite and self._stillness.due(now):
            self._stillness.look(checksum(image), now)
            self.ledger.looked(self._stillness.still_for(now), now)
