"""Decodes packets in a child program, and matches its pictures to them.

    feeder thread:  source ──packets──► queue          the source may block it
    caller's thread: queue ──► child ──► pictures      never waits without a deadline

A child that fails is started again at the last keyframe, and the pictures delivered before are left out. If
it keeps failing, the packets from there on are handed over to another decoder. In the same way it is started
again when pictures of another size are needed.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamfleet_worker.video.hardware import elements
from streamfleet_worker.video.hardware.annexb import ByteStream
from streamfleet_worker.video.hardware.child import Child, RawPicture
from streamfleet_worker.video.hardware.choice import Decoders
from streamfleet_worker.video.hardware.data_protocol import NO_TIME, begin, buffer
from streamfleet_worker.video.hardware.faults import DecoderFailed
from streamfleet_worker.video.hardware.obu_stream import ObuStream
from streamfleet_worker.video.hardware.pipelines import LAUNCH, Decoder, Scaling
from streamfleet_worker.video.pixel_format import pixel_format_of

FIRST_PICTURE = 8.0  # seconds for a new child: decoders of hardware take one or two to open
NEXT_PICTURE = 5.0  # seconds without a picture, while it has more packets than it may hold
_HELD = 16  # packets that a decoder may hold, for reordering and in its own queues
_IN_FLIGHT = 2 * _HELD  # packets that a child gets ahead of its pictures
_TURN = 0.1  # seconds between two looks at the deadlines
_READ_AHEAD = 64  # packets
_MOST_REPLAYED = 32 << 20  # bytes since the last keyframe that are kept for a restart
_LATE = 64  # times of pictures given up, that are remembered
_LEAVING = 0.2  # seconds for the thread that reads to leave the source
_LATEST = 1 << 62  # nanoseconds; a damaged file may have times that GStreamer cannot add up
_START = 3600 * 10**9  # nanoseconds; times before the first one must not be negative
_SECOND = 10**9  # nanoseconds

PacketReader = Callable[[], "Packet[Any] | None"]
# FFmpeg's format, by GStreamer's and whether the range is full. Of NV12 only the colours say that.
_PIXELS = {
    ("I420", False): "yuv420p",
    ("I420", True): "yuvj420p",
    ("NV12", False): "nv12",
    ("NV12", True): "nv12",
}
_Colours = tuple[int, int]  # FFmpeg's range and space


class _Sent:
    """A packet that was given to a child."""

    __slots__ = ("answered", "content", "packet", "time")

    def __init__(self, packet: Packet[Any], content: bytes, time: int) -> None:
        self.packet = packet
        self.content = content
        self.time = time  # nanoseconds, or NO_TIME
        self.answered = False  # its picture was delivered, or given up


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """What another decoder continues with."""

    packets: list[Packet[Any]]
    delivered: list[int | None]  # times of their pictures that were delivered already
    lost: int  # pictures before them that are lost


class HardwareDecoding:
    """The decoding of one connection to a source. Only one thread may use it."""

    def __init__(
        self,
        decoder: Decoder,
        stream: VideoStream,
        *,
        read: PacketReader,
        live: bool,
        decoders: Decoders,
        is_sideways: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start it.

        Args:
            read: returns the next packet of the stream, None at its end, or raises what ends it.
            live: packets before the first keyframe are dropped.
            is_sideways: whether its pictures are rotated before they are shown. Asked after the first packet.
        """
        codec = stream.codec_context
        self._decoder = decoder
        self._decoders = decoders
        self._time_base = stream.time_base
        # Taken from the source, not from the child, so that colours do not depend on the decoder.
        self._is_full_range = pixel_format_of(codec) == "yuvj420p"
        self._colours: _Colours = (int(codec.color_range), int(codec.colorspace))
        self._size = (codec.width, codec.height)
        self._is_sideways = is_sideways
        self._scaling: Scaling | None = None  # of the child
        extradata = codec.extradata or b""
        is_av1 = decoder.codec == "av1"
        self._stream_of = ObuStream(extradata) if is_av1 else ByteStream(codec.name, extradata)
        self._feeder = _Feeder(read)
        self._child: Child | None = None
        self._live = live
        self._wants_keyframe = live
        self._marks_skipped = False  # packets before that keyframe are marked as lost
        # From the keyframe before the first unanswered packet on; None: too large to be kept.
        self._kept: list[_Sent] | None = []
        self._kept_size = 0  # bytes
        self._unanswered: deque[_Sent] = deque()  # in the order of their packets
        self._repeated: list[int] = []  # times of pictures that a new child delivers again
        self._given_up: deque[int] = deque(maxlen=_LATE)  # times
        # Whether a picture that is overtaken is lost. The times of packets in an AVI are those of their
        # storage, so its pictures overtake each other.
        self._marks_lost = codec.reorder_depth == 0
        self._are_times_wrong = False
        self._last_pts: int | None = None
        self._first_pts: int | None = None
        self._last_dts: int | None = None
        self._latest = 0  # time since the first one, in units of the time base
        self._worked = False  # the child has delivered a picture
        self._moved_at = 0.0  # monotonic seconds, of the last picture, or when it could hold all packets
        self._heard_at = 0.0  # monotonic seconds, of the last picture, or the start of the child
        self._taken = 0  # bytes that the child has taken
        self._finished = False
        self._ready: deque[VideoFrame | None] = deque()

    def take(self, check: Callable[[], None]) -> list[VideoFrame | None]:
        """Wait for the next pictures; None for each that is lost. Empty at the end.

        `check`: called while it waits; what it raises is passed on.

        Raises: what `read` raises; DecoderFailed if the child fails for good.
        """
        while not self._ready and not self._finished:
            self._turn_or_recover(check)
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def hand_over(self) -> HandOver:
        """End, and return what another decoder continues with. Raises: what `read` has raised."""
        self._stop_child()
        rest = self._feeder.stop()
        lost = self._give_up_unkept()
        kept = self._kept or []
        return HandOver(
            packets=[*(sent.packet for sent in kept), *rest],
            delivered=[sent.packet.pts for sent in kept if sent.answered],
            lost=lost,
        )

    def close(self, release: Callable[[], None]) -> None:
        """End the child. `release`: called when no thread uses the source, at once or later."""
        self._stop_child()
        self._feeder.release(release)

    @property
    def is_reducing(self) -> bool:
        """Whether the pictures that `take` has returned last were scaled down."""
        return self._scaling is not None

    @property
    def owed(self) -> int | None:
        """Packets whose pictures the child has not delivered; None if there is no child now."""
        return None if self._child is None else len(self._unanswered)

    @property
    def silence(self) -> float:
        """Seconds since the child was started, or delivered a picture."""
        return time.monotonic() - self._heard_at

    # the child ---------------------------------------------------------------------------------------------

    def _turn_or_recover(self, check: Callable[[], None]) -> None:
        try:
            self._turn()
            if not self._ready:
                check()
        except DecoderFailed as failure:
            self._recover(failure)

    def _turn(self) -> None:
        """Move packets and pictures once. Raises: DecoderFailed, and what `read` raises."""
        self._feeder.clear()
        self._resize()
        if self._child is None and self._unanswered:
            self._start()
        while len(self._unanswered) < _IN_FLIGHT and (self._child is None or self._child.has_room):
            packet = self._feeder.next()
            if packet is None:
                break
            self._send(packet)
        over = self._feeder.is_over
        if self._child is None:
            self._finished = over
            if not over:
                select.select([self._feeder.fileno()], [], [], _TURN)
            return
        if over:
            self._child.finish()
        self._child.exchange(self._feeder.fileno(), _TURN)
        while self._child.pictures:
            self._receive(self._child.pictures.popleft())
        if self._child.ended:
            self._end(self._child)
        else:
            self._check_progress(self._child)

    def _start(self) -> Child:
        launch = elements.program(LAUNCH)
        if launch is None:
            raise DecoderFailed("missing", f"{LAUNCH} is not installed")
        self._scaling = self._needed_scaling()
        child = Child(self._decoder, launch, self._scaling)
        self._child = child
        child.put(begin(self._decoder.media_type))
        for sent in self._kept or ():
            child.put(buffer(sent.content, sent.time))
        self._repeated = [sent.time for sent in self._kept or () if sent.answered]
        self._worked = False
        self._moved_at = self._heard_at = time.monotonic()
        self._taken = 0
        return child

    def _needed_scaling(self) -> Scaling | None:
        return self._decoders.scaling(self._decoder, *self._size, sideways=self._is_sideways())

    def _resize(self) -> None:
        """End a child whose pictures have another size than is needed now. A new one decodes them again."""
        if self._child is None or self._needed_scaling() == self._scaling:
            return
        kept = self._kept or []
        if all(sent in kept for sent in self._unanswered):
            self._stop_child()

    def _end(self, child: Child) -> None:
        """The child has closed its pipe. Raises: DecoderFailed."""
        failure = child.failure()
        if not self._feeder.is_over or str(failure) != "ended with code 0":
            raise failure
        if self._unanswered and not self._worked:
            raise DecoderFailed("exited", "ended without a picture")
        self._stop_child()
        self._finished = True
        if not self._live:  # of a file each frame is counted, also one that does not come
            self._ready.extend(None for sent in self._unanswered if not sent.packet.is_discard)

    def _check_progress(self, child: Child) -> None:
        """Raises: DecoderFailed if it delivers nothing, though it has enough."""
        now = time.monotonic()
        owes = len(self._unanswered) > _HELD or self._feeder.is_over
        if not owes and not (child.is_blocked and child.written == self._taken):
            self._moved_at, self._taken = now, child.written
            return
        limit = NEXT_PICTURE if self._worked else FIRST_PICTURE
        if now - self._moved_at > limit:
            raise DecoderFailed("stalled", f"delivered no picture for {limit:g} s")

    def _recover(self, failure: DecoderFailed) -> None:
        """Prepare a restart. Raises: DecoderFailed if there is none."""
        self._stop_child()
        is_scaled = self._scaling is not None
        if not self._decoders.failed(self._decoder, failure, worked=self._worked, scaled=is_scaled):
            raise failure
        self._ready.extend([None] * self._give_up_unkept())
        if self._kept is None:
            self._wants_keyframe = self._marks_skipped = True

    def _stop_child(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    # packets and pictures -----------------------------------------------------------------------------------

    def _send(self, packet: Packet[Any]) -> None:
        keyframe = packet.is_keyframe
        if self._wants_keyframe and not keyframe:
            if self._marks_skipped:
                self._ready.append(None)
            return
        self._wants_keyframe = self._marks_skipped = False
        child = self._child or self._start()
        content = self._stream_of.convert(bytes(packet), keyframe=keyframe)
        sent = _Sent(packet, content, self._time_of(packet))
        if packet.pts is not None:
            is_reordered = self._last_pts is not None and packet.pts < self._last_pts
            self._marks_lost = (self._marks_lost or is_reordered) and not self._are_times_wrong
            self._last_pts = packet.pts
        self._keep(sent)
        self._unanswered.append(sent)
        child.put(buffer(content, sent.time))

    def _keep(self, sent: _Sent) -> None:
        if self._kept is None and sent.packet.is_keyframe:
            self._kept = []
        if self._kept is None:
            return
        self._kept.append(sent)
        self._kept_size += len(sent.content)
        if self._kept_size > _MOST_REPLAYED:
            self._kept, self._kept_size = None, 0

    def _forget_answered(self) -> None:
        """Keep no group of pictures that was answered as a whole, unless it is the last one."""
        kept, start = self._kept or [], 0
        for number, sent in enumerate(kept):
            if not sent.answered:
                break
            # Pictures behind a keyframe may be shown before it, and need the group before theirs.
            if sent.packet.is_keyframe:
                start = number
        self._kept_size -= sum(len(sent.content) for sent in kept[:start])
        del kept[:start]

    def _give_up_unkept(self) -> int:
        """Give up the packets that a new decoder does not get. Returns how many pictures are lost."""
        kept = self._kept or []
        given_up = [sent for sent in self._unanswered if sent not in kept]
        for sent in given_up:
            self._unanswered.remove(sent)
        return sum(not sent.packet.is_discard for sent in given_up)

    def _time_of(self, packet: Packet[Any]) -> int:
        pts, base = packet.pts, self._time_base
        if pts is None or not base:
            return NO_TIME
        if self._first_pts is None:
            self._first_pts = pts
        if packet.dts is not None:
            # The clock of a camera was set back. Pictures are matched by their times, so these go on.
            if self._live and self._last_dts is not None and packet.dts < self._last_dts:
                self._first_pts = packet.dts - self._latest - 1
            self._last_dts = packet.dts
        self._latest = max(self._latest, pts - self._first_pts)
        at = _START + (pts - self._first_pts) * base.numerator * _SECOND // base.denominator
        return at if 0 <= at < _LATEST else NO_TIME

    def _receive(self, raw: RawPicture) -> None:
        self._worked = True
        self._moved_at = self._heard_at = time.monotonic()
        sent = self._packet_of(raw.pts)
        if sent is None:
            return
        self._give_up_earlier(sent)
        sent.answered = True
        self._unanswered.remove(sent)
        if not sent.packet.is_discard:
            self._ready.append(self._picture(raw, sent.packet))
        self._forget_answered()

    def _packet_of(self, at: int) -> _Sent | None:
        """The packet of a picture; None if its picture was delivered already, or given up."""
        if at in self._repeated:
            self._repeated.remove(at)
            return None
        if at != NO_TIME:
            for sent in self._unanswered:
                if sent.time == at:
                    return sent
            if at in self._given_up:  # pictures come in another order than their times: none was lost
                self._marks_lost, self._are_times_wrong = False, True
                return None
        # Of an unknown time, or of one that the decoder has changed.
        if self._repeated:
            self._repeated.pop()
            return None
        return min(self._unanswered, key=lambda sent: sent.time, default=None)

    def _give_up_earlier(self, sent: _Sent) -> None:
        """Mark the pictures that should have come before this one as lost."""
        if not self._marks_lost or sent.time == NO_TIME:
            return
        for earlier in [each for each in self._unanswered if each.time < sent.time]:
            self._unanswered.remove(earlier)
            self._given_up.append(earlier.time)
            earlier.answered = True
            if not earlier.packet.is_discard:
                self._ready.append(None)

    def _picture(self, raw: RawPicture, packet: Packet[Any]) -> VideoFrame:
        form = raw.format
        pixels = _PIXELS[form.name, self._is_full_range]
        picture = VideoFrame(form.width, form.height, pixels)
        at = 0
        for number, (rows, used, stride) in enumerate(form.planes):
            plane = picture.planes[number]
            target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
            source = raw.content[at : at + rows * stride].reshape(rows, stride)
            target[:rows, :used] = source[:, :used]
            at += stride * (rows + rows % 2 if number == 0 else rows)
        picture.color_range, picture.colorspace = self._colours
        if packet.pts is not None:
            picture.pts = packet.pts
        return picture


class _Feeder:
    """The thread that reads packets ahead."""

    def __init__(self, read: PacketReader) -> None:
        self._read = read
        self._packets: deque[Packet[Any]] = deque()
        self._changed = threading.Condition()  # guards all of these
        self._is_over = False
        self._error: BaseException | None = None
        self._stopped = self._has_left = False
        self._release: Callable[[], None] | None = None  # called by the thread when it ends
        self._wakeup: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the source has ended, and all packets were taken."""
        with self._changed:
            return self._is_over and not self._packets

    def fileno(self) -> int:
        """The descriptor to poll for packets."""
        assert self._wakeup is not None
        return self._wakeup

    def clear(self) -> None:
        """Reset the descriptor. Call it before `next`."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fileno())

    def next(self) -> Packet[Any] | None:
        """The next packet; None if there is none now. Raises: what `read` has raised, after the last one."""
        with self._changed:
            if self._packets:
                self._changed.notify()
                return self._packets.popleft()
            if self._error is not None:
                raise self._error
            return None

    def stop(self) -> list[Packet[Any]]:
        """End the thread, and return the packets that were not taken. Raises: what `read` has raised."""
        self._tell_to_stop()
        self._thread.join()  # each read of a source has a deadline
        self._close()
        if self._error is not None and not self._packets:
            raise self._error
        return list(self._packets)

    def release(self, release: Callable[[], None]) -> None:
        """Call this function as soon as the thread does not use the source, which may be later."""
        self._tell_to_stop()
        self._thread.join(_LEAVING)
        with self._changed:
            if self._thread.is_alive() and not self._has_left:
                self._release = release
                self._close()
                return
        self._close()
        release()

    def _tell_to_stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _close(self) -> None:
        with self._changed:
            wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            os.close(wakeup)

    def _run(self) -> None:
        try:
            while not self._stopped:
                packet = self._read()
                with self._changed:
                    self._is_over = packet is None
                    if packet is not None:
                        self._packets.append(packet)
                    self._wake()
                    if packet is None:
                        return
                    while len(self._packets) >= _READ_AHEAD and not self._stopped:
                        self._changed.wait()
        except BaseException as exc:  # it is raised again in the thread that takes the packets
            with self._changed:
                self._error = exc
                self._wake()
        finally:
            with self._changed:
                self._has_left = True
                release = self._release
            if release is not None:
                release()

    def _wake(self) -> None:
        if self._wakeup is not None:
            os.eventfd_write(self._wakeup, 1)
