"""Files, URLs and streams: opened, read and decoded by FFmpeg, through PyAV.

    packets ──▶ decoder ──▶ pictures, and marks where one is damaged, in the order of their packets

Damage is no end: the end is where the data ends. Every wait has a deadline.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import av
import cv2
import numpy as np
from av.codec.context import Flags, ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from streamfleet_core.protocol.status import SourceCause
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.sources.capture import Capture
from streamfleet_worker.video.sources.container import codec_of, fault_of
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.timeouts import Rhythm

ANSWER_TIMEOUT = (
    10.0  # seconds, for the answer of a server that has something to say before the first picture
)
FILE_TIMEOUT = 30.0  # seconds that one read of a file may take, as of a disk on the network

# A live source is decoded by one thread. Each further one (FFmpeg would take one for each core) keeps a
# picture back until the next has come: with eight, and ten frames a second, that is seven tenths of a second.
_LIVE_THREADS = 1
_FILM_THREADS = 0  # FFmpeg's choice: nobody waits for the frames of a film
MOST_PIXELS = 1 << 27  # of a picture: 400 MB of memory
_BAD_READS = 10  # in a row, after which a container that cannot be read on is at its end
_REREAD = 5000  # frames at most that are decoded again for those that the decoder lost at the end
_KEPT_BACK = 16  # packets at most that a decoder holds for their order: no sign that none can be shown
_IN_PIECES = ("hls", "dash")  # the formats of which a segment comes at once
_NO_COUNT = ("ivf",)  # FFmpeg long wrote a duration where it reads a number of frames
_USUAL_FPS = 25.0  # frames/s where a source declares nothing
# Metadata that are not UTF-8 are no reason to refuse a film; from 19 on PyAV thinks so itself.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if av.__version__ < "19" else {}
_TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
    -90: cv2.ROTATE_90_CLOCKWISE,
}


class MediaCapture(Capture):
    """What FFmpeg opened."""

    def __init__(
        self,
        target: str,
        *,
        shown: str | int,
        options: dict[str, str],
        rhythm: Rhythm,
        finite: bool | None,
        threads: int | None = None,
        upright: bool = True,
        answers: bool = False,
        waits: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Raises: SourceLost, av.FFmpegError.

        Args:
            target: path or URL, with credentials.
            shown: the same for people.
            finite: None: it is if it has a length.
            threads: that decode; None: what suits the source.
            upright: turn the picture as its metadata say.
            answers: its server says something before the first picture comes.
            waits: is told what is being waited for until the first picture comes.
        """
        self._target, self._shown, self._options = target, shown, options
        self._rhythm, self._answers, self._waits = rhythm, answers, waits
        self._upright = upright
        self._is_file = target.startswith("file:")
        self._delivered = 0  # pictures and damaged ones
        self._corrupt = 0  # pictures with parts missing
        self._unshown = 0  # packets since the last picture
        self._silence = 0.0  # seconds waited since then
        self._pictured = False
        self._turn: int | None = None  # what OpenCV calls the rotation that sets the picture upright
        self._frame: VideoFrame | None = None
        self._packets: Iterator[Packet[Any]] | None = None
        self._reformatter = VideoReformatter()
        self._connect(finite, threads)
        self.width, self.height = self._codec.width, self._codec.height
        self.fps = _rate(self._stream)
        seconds = _seconds(self._container, self._stream)
        self.total_frames = self._stream.frames or int(seconds * self.fps + 0.5)

    def grab(self) -> bool:
        """Go on to the next picture, or to one that is damaged."""
        began = time.monotonic()
        self._frame = None
        self._put_off()
        while not self._pending:
            if not self._feed():
                self._conclude()
                return False
        # Also when one has come: FFmpeg, when it has given up, hands out what its parser kept back.
        if not self.finite and self._deadline.is_over:
            raise self._silent()
        self._frame = self._pending.popleft()
        self._delivered += 1
        self._silence += time.monotonic() - began
        self.damaged = self._frame is None
        if self._frame is not None:
            self._note(self._frame)
        return True

    def retrieve(self, into: Image | None) -> Image | None:
        """The picture that was grabbed."""
        if self._frame is None:
            return None
        width, height = self._size
        try:
            picture = self._reformatter.reformat(
                self._frame, width, height, "bgr24", interpolation=Interpolation.BICUBIC, threads=1
            )
        except (av.FFmpegError, ValueError):
            return None
        image = _as_array(picture, copy=picture is self._frame)
        return image if self._turn is None else np.asarray(cv2.rotate(image, self._turn), np.uint8)

    def close(self) -> None:
        """Give the source back."""
        self._packets, self._frame = None, None
        self._pending.clear()
        self._container.close()

    # opening ----------------------------------------------------------------------------------------------

    def _connect(self, finite: bool | None, threads: int | None) -> None:
        began = time.monotonic()
        limit = FILE_TIMEOUT if self._is_file else self._rhythm.first
        self._deadline = _Deadline(limit)
        self._container = self._opened(limit)
        try:
            self._stream = self._chosen()
            self.finite = _has_length(self._container, self._stream) if finite is None else finite
            if not self.finite:
                self._discard_others()
                self._rhythm.declares(float(self._stream.average_rate or 0))
                if self._container.format.name in _IN_PIECES:
                    self._rhythm.comes_in_pieces()
            self._codec = self._prepared(threads)
        except BaseException:
            self._container.close()
            raise
        self._threads = self._codec.thread_count
        self._time_base = float(self._stream.time_base or 0)
        self._first_time: float | None = None  # seconds of the source's clock
        self._packets = None
        self._pending: deque[VideoFrame | None] = deque()  # None: damaged
        self._came = 0  # packets with pictures
        self._sent = self._received = 0  # of them that are shown; pictures and errors from the decoder
        self._bad_reads = 0
        self._reached = 0.0  # seconds, of any of its streams
        self._bases = [float(stream.time_base or 0) for stream in self._container.streams]
        self._starts_at = (self._container.start_time or 0) / av.time_base
        self._drained = False
        self._silence = time.monotonic() - began

    def _opened(self, limit: float) -> InputContainer:
        first = min(ANSWER_TIMEOUT, limit) if self._answers else limit
        opening = _Opening(first, self._deadline, self._waits)
        # PyAV asks for the float that a timeout is, each time that it begins to wait.
        timeout = (cast(float, opening), cast(float, self._deadline))
        try:
            opened: InputContainer = av.open(
                self._target, "r", options=self._options, timeout=timeout, **_LENIENT
            )
        except av.FFmpegError as exc:
            # What a protocol says when it is interrupted is not always that.
            if not isinstance(exc, av.error.TimeoutError) and not opening.is_over:
                raise
            if opening.answered:
                raise self._lost("timeout", f"it answers, but no picture came within {limit:.3g} s") from None
            raise self._lost("timeout", f"no answer within {first:.3g} s") from None
        return opened

    def _chosen(self) -> VideoStream:
        films = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not films:
            others = {stream.type for stream in self._container.streams} - {"video"}
            if self._is_file and not self._container.streams:  # its index is there, in part
                raise SourceLost("codec", f"{self._shown} {fault_of(self._target.removeprefix('file:'))}")
            found = f", only {', '.join(sorted(others))}" if others else ""
            raise self._lost("codec", f"the stream has no video{found}")
        best = self._container.streams.best("video")
        return next((film for film in films if best is not None and film.index == best.index), films[0])

    def _discard_others(self) -> None:
        """A camera need not even send its sound."""
        for stream in self._container.streams:
            if stream.index != self._stream.index:
                stream.discard = Discard.all

    def _prepared(self, threads: int | None) -> av.VideoCodecContext:
        codec = self._stream.codec_context
        if codec is None:
            name = codec_of(self._target.removeprefix("file:")) if self._is_file else ""
            named = f" ({name})" if name else ""
            raise self._lost("codec", f"FFmpeg has no decoder for the codec of its video{named}")
        if codec.name == "ansi":  # FFmpeg plays a text file as a film of its letters, which nobody means
            raise self._lost("codec", "expected a video, got a text")
        usual = _FILM_THREADS if self.finite else _LIVE_THREADS
        codec.thread_type = ThreadType.AUTO
        codec.thread_count = usual if threads is None else threads
        codec.options = {**codec.options, "max_pixels": str(MOST_PIXELS)}
        if self.finite:
            codec.flags |= Flags.output_corrupt  # a film shows what there is, also before its first keyframe
        try:
            codec.open(strict=False)
        except (av.FFmpegError, ValueError) as exc:
            raise self._lost("codec", f"the decoder of {codec.name} does not open: {strerror(exc)}") from None
        return codec

    # reading ----------------------------------------------------------------------------------------------

    def _feed(self) -> bool:
        """Bring one packet to the decoder. False: nothing comes any more."""
        if self._drained:
            return False
        packet = self._read()
        if packet is None:
            self._drain()
        elif packet.stream_index == self._stream.index and packet.size:
            self._came += 1
            self._sent += not packet.is_discard  # by an edit list: decoded, and not shown
            self._unshown += 1
            self._decode(packet)
            self._tell_progress()
        if not self._pending and not self.finite and self._deadline.is_over:
            raise self._silent()  # something comes, and it is nothing that can be shown
        return True

    def _read(self) -> Packet[Any] | None:
        """The next packet of any stream; an empty one where there is damage. None: the end."""
        # PyAV asks for the time that is left when a generator begins.
        if self._packets is None or not self.finite:
            self._packets = self._container.demux()
        try:
            packet = next(self._packets, None)
        except av.error.InvalidDataError:
            return self._misread()
        except av.FFmpegError as exc:
            if isinstance(exc, av.error.ExitError) or self._deadline.is_over:
                raise self._silent() from None
            if not self.finite and not isinstance(exc, av.error.OSError):
                raise self._lost("ended", f"the stream broke off: {strerror(exc).lower()}") from None
            self.broken = True
            return None
        self._bad_reads = 0
        if packet is None or (not packet.size and packet.dts is None and packet.pts is None):
            return None
        if self.finite and packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * self._bases[packet.stream_index]
            self._reached = max(self._reached, end - self._starts_at)
        return packet

    def _misread(self) -> Packet[Any] | None:
        """The container is damaged here. Go on behind it, if there is something."""
        self._packets = None
        self._bad_reads += 1
        if self._bad_reads <= _BAD_READS:
            return Packet()
        self.broken = True
        return None

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            frames = self._codec.decode(packet)
        except (av.FFmpegError, ValueError):
            self._received += 1
            self._pending.append(None)
            return
        self._received += len(frames)
        self._pending.extend(frames)

    def _drain(self) -> None:
        """Take what the decoder kept back."""
        self._drained = True
        self._decode(None)
        missing = self._sent - self._received
        # PyAV leaves the rest in a decoder of several threads when a damaged packet is among the last.
        if self.finite and 0 < missing <= self._threads > 1 and self._delivered <= _REREAD:
            self._decode_again()

    def _decode_again(self) -> None:
        """From the beginning by one thread, up to where we were."""
        self._container.close()
        self._connect(self.finite, 1)
        for _ in range(self._delivered):
            while not self._pending and self._feed():
                continue
            if self._pending:
                self._pending.popleft()

    # what came --------------------------------------------------------------------------------------------

    def _note(self, frame: VideoFrame) -> None:
        if not self._pictured:
            self._turn = _TURNS.get(frame.rotation) if self._upright else None
            self._size = (frame.width, frame.height)
            lies = self._turn is not None and abs(frame.rotation) == 90
            self.width, self.height = self._size[::-1] if lies else self._size
        elif not self.finite:
            self._rhythm.waited(self._silence)
        self._pictured = True
        self._silence, self._unshown = 0.0, 0
        self._corrupt += frame.is_corrupt
        self.media_time = self._time_of(frame)

    def _time_of(self, frame: VideoFrame) -> float:
        """Seconds since the first picture; rising, though the source's own times may not."""
        last = self.media_time
        following = 0.0 if last is None else last + 1 / (self.fps or _USUAL_FPS)
        if frame.pts is None or not self._time_base:
            return following
        at = frame.pts * self._time_base
        if self._first_time is None:
            self._first_time = at - following
        at -= self._first_time
        return at if last is None or at > last else following

    def _conclude(self) -> None:
        """What people should know of the end."""
        said = []
        shortfall = self._shortfall()
        self.broken = bool(shortfall)
        if shortfall:
            said.append(f"{shortfall}: it is cut off or damaged")
        if self._corrupt:
            said.append(f"{self._corrupt} of its pictures have parts missing")
        self.remark = f"{self._shown}: {'; '.join(said)}" if said else ""

    def _shortfall(self) -> str:
        """How much of what it declares has come. "": about as much; what is declared is often a guess."""
        came, total = self._came, self._stream.frames
        if self._container.format.name in _NO_COUNT:
            total = 0
        if total - came > max(2, total // 20):
            return f"it ends after {came} of {total} frames"
        # Some containers count the time before their first picture.
        lasts = (self._container.duration or 0) / av.time_base - max(0.0, self._starts_at)
        if not total and lasts - self._reached > max(0.5, lasts / 20):
            return f"it ends after {self._reached:.1f} of {lasts:.1f} s"
        # A server may end a connection badly after all that it had to send.
        interval = 1 / (self.fps or _USUAL_FPS)
        whole = came >= total if total else 0 < lasts <= self._reached + interval
        return f"it ends after {self._delivered} frames" if self.broken and not whole else ""

    def _put_off(self) -> None:
        """The deadline of what is waited for next."""
        if not self.finite:
            self._deadline.put_off(max(1.0, self._patience - self._silence))
        else:
            self._deadline.put_off(FILE_TIMEOUT if self._is_file else self._rhythm.following)

    @property
    def _patience(self) -> float:
        return self._rhythm.following if self._pictured else self._rhythm.first

    def _silent(self) -> SourceLost:
        """Nothing came in time, or nothing that can be shown."""
        limit = f"{self._patience:.3g} s"
        if self._pictured:
            self._rhythm.was_silent()
        if not self._pictured and self._unshown:
            text = f"frames come, and none can be shown: no keyframe within {limit}"
            return self._lost("undecodable", text)
        if self._unshown > _KEPT_BACK:
            return self._lost("undecodable", f"frames come, and none can be shown for {limit}")
        return self._lost("timeout", f"no frame came for {limit}")

    def _tell_progress(self) -> None:
        if not self._pictured and self._unshown == 1:
            self._waits("frames come, and none can be shown yet: no keyframe")

    def _lost(self, cause: SourceCause, why: str) -> SourceLost:
        return SourceLost(cause, f"{self._shown}: {why}")


class _Deadline:
    """What is left until a moment that may be put off, as the float for which PyAV asks."""

    def __init__(self, seconds: float) -> None:
        self.put_off(seconds)

    def __float__(self) -> float:
        return max(0.001, self._at - time.monotonic())

    def put_off(self, seconds: float) -> None:
        """It is so many seconds from now."""
        self._at = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """It has passed."""
        return time.monotonic() >= self._at


class _Opening:
    """The deadlines of the two steps in which PyAV opens: the connection, and the first pictures."""

    def __init__(self, answer: float, deadline: _Deadline, waits: Callable[[str], None]) -> None:
        self._answer = _Deadline(answer)
        self._deadline = deadline
        self._waits = waits
        self._asked = 0

    @property
    def answered(self) -> bool:
        """The first step is done."""
        return self._asked > 1

    @property
    def is_over(self) -> bool:
        """The time for this step has passed."""
        return (self._deadline if self.answered else self._answer).is_over

    def __float__(self) -> float:
        self._asked += 1
        if not self.answered:
            self._waits("no answer yet")
            return float(self._answer)
        self._waits("it answers, and no picture has come yet")
        return float(self._deadline)


def strerror(exc: Exception) -> str:
    """What an error says, without the address that its text holds."""
    said = exc.strerror if isinstance(exc, av.FFmpegError) else None
    return said or os.strerror(5)


def _has_length(container: InputContainer, stream: VideoStream) -> bool:
    """Is it a film, or a recording that is complete? Something that goes on and on has no length.

    A server need not tell the size, but the index of an MP4 lists its frames, unless it comes in fragments. A
    single image is what a camera shows at this moment.
    """
    name = container.format.name
    if name in _IN_PIECES:
        return _seconds(container, stream) > 0
    if name in ("mpjpeg", "image2") or name.endswith("_pipe"):
        return False
    size: int | None = container.size  # of PyAV 19; before, an error's negative number stands for None
    return (size or 0) > 0 or ("mp4" in name and stream.frames > 0)


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    """That it lasts, as it declares; 0 when it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _rate(stream: VideoStream) -> float:
    rate = float(stream.guessed_rate or stream.average_rate or 0)
    return rate if 0 < rate <= 1000 else 0.0


def _as_array(picture: VideoFrame, *, copy: bool) -> Image:
    """(height, width, 3) uint8. The memory stays that of the picture, unless its rows are apart."""
    if copy:
        return np.array(picture.to_ndarray(), np.uint8)
    plane = picture.planes[0]
    rows = np.frombuffer(cast(bytes, plane), np.uint8).reshape(picture.height, plane.line_size)
    return rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)
