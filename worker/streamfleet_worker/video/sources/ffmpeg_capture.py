"""Files, URLs and streams: opened, read and decoded by FFmpeg, through PyAV.

    packets ──▶ decoder ──▶ pictures, and marks for damaged ones, in the order of their packets

Damaged data does not end a source: the end of the data does. Every wait has a deadline.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import av
import cv2
from av.codec.context import Flags, ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamfleet_core.protocol.status import SourceCause
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.frame import Picture
from streamfleet_worker.video.hardware.choice import Decoders
from streamfleet_worker.video.hardware.decoding import HardwareDecoding
from streamfleet_worker.video.hardware.faults import DecoderFailed
from streamfleet_worker.video.pixel_format import pixel_format_of
from streamfleet_worker.video.sources.decoded_picture import SIDEWAYS, Converters, DecodedPicture
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.exif import orientation_of
from streamfleet_worker.video.sources.ffmpeg_errors import strerror
from streamfleet_worker.video.sources.file_diagnosis import codec_of, fault_of
from streamfleet_worker.video.sources.packet_skipper import PacketSkipper, Use
from streamfleet_worker.video.sources.timeouts import FrameTimeouts

ANSWER_TIMEOUT = 10.0  # seconds, for a server that responds before the first picture
FILE_TIMEOUT = 30.0  # seconds for one read of a file, which may be on a network disk

# A live source is decoded by one thread. Each further thread (FFmpeg's default is one per core) delays
# pictures by one frame: with eight threads and ten frames per second, by 0.7 s.
_LIVE_THREADS = 1
_FILM_THREADS = 0  # FFmpeg's default: the delay of a file does not matter
MOST_PIXELS = 1 << 27  # pixels of a picture: 400 MB of memory
_BAD_READS = 10  # consecutive failed reads, after which a container counts as ended
_REREAD = 5000  # frames at most that are decoded again to recover those lost at the end
_OWED = 4  # packets that a decoder of hardware may hold, besides those that it reorders
_REORDER_PACKETS = 16  # packets that a decoder may hold for reordering, at most
_SEGMENTED = ("hls", "dash")  # formats whose segments arrive at once
_JPEG = "mjpeg"  # FFmpeg's name of its codec
_NO_COUNT = ("ivf",)  # older versions of FFmpeg wrote a duration where it reads a number of frames
_USUAL_FPS = 25.0  # frames/s of a source that declares none
# Do not refuse a file because its metadata is not UTF-8. From PyAV 19 on this is the default.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if av.__version__ < "19" else {}
_ROTATIONS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
    -90: cv2.ROTATE_90_CLOCKWISE,
}
# By the orientation in Exif: OpenCV's codes of the rotation, and of the flip after it.
_MIRRORED = {
    2: (None, 1),
    4: (None, 0),
    5: (cv2.ROTATE_90_CLOCKWISE, 1),
    7: (cv2.ROTATE_90_COUNTERCLOCKWISE, 1),
}


class FFmpegCapture(Capture):
    """A file or stream opened by FFmpeg."""

    def __init__(
        self,
        target: str,
        *,
        shown: str | int,
        options: dict[str, str],
        timeouts: FrameTimeouts,
        finite: bool | None,
        threads: int | None = None,
        upright: bool = True,
        answers: bool = False,
        on_wait: Callable[[str], None] = lambda _: None,
        decoders: Decoders | None = None,
        skipper: PacketSkipper | None = None,
    ) -> None:
        """Open it. Raises: SourceLost, av.FFmpegError.

        Args:
            target: path or URL, with credentials.
            shown: the same for users, without credentials.
            finite: None: depends on whether it has a length.
            threads: decoder threads; None: depends on the source.
            upright: rotate the picture as its metadata say.
            answers: its server responds before the first picture.
            on_wait: called with what it waits for, until the first picture.
            decoders: chooses the decoder; None: software.
            skipper: decides which packets of a live source are decoded; None: all.
        """
        self._target, self._shown, self._options = target, shown, options
        self._timeouts, self._answers, self._on_wait = timeouts, answers, on_wait
        self._upright = upright
        self._is_file = target.startswith("file:")
        self._delivered = 0  # pictures, including damaged ones
        self._corrupt = 0  # pictures with parts missing
        self._undecoded_packets = 0  # packets since the last picture
        self._silence = 0.0  # seconds waited since the last picture
        self._has_picture = False
        self._declared_rotation = 0  # degrees, of a file that hardware decodes
        self._rotation: int | None = None  # OpenCV's code of the rotation that makes the picture upright
        self._flip: int | None = None  # OpenCV's code of what undoes the mirroring of a picture file
        self._orientation = 1  # of a picture file, as its Exif tag says
        self._frame: VideoFrame | None = None
        self._packets: Iterator[Packet[Any]] | None = None
        self._converters = Converters()
        self._convertible: tuple[object, ...] | None = None  # the format of the last picture
        self._is_reduced = False  # the pending pictures were scaled down by a decoder of hardware
        self._replayed: deque[Packet[Any]] = deque()  # that a decoder of hardware has left
        self._repeated: list[int | None] = []  # times of pictures in them that were delivered
        self._skipper = skipper or PacketSkipper()
        self._connect(finite, threads)
        self._decoders = decoders or Decoders()
        self._hardware = self._start_hardware()
        self._skipper.begin_connection()
        self.width, self.height = self._codec.width, self._codec.height
        self.fps = _rate(self._stream)
        seconds = _seconds(self._container, self._stream)
        self.total_frames = self._stream.frames or int(seconds * self.fps + 0.5)

    def grab(self) -> bool:
        """Advance to the next picture, which may be damaged."""
        began = time.monotonic()
        self._frame = None
        if self._hardware is None:
            self._extend_deadline()
        while not self._pending:
            if not (self._take_from_hardware(began) or self._decode_next()):
                self._summarize_end()
                return False
        # Even with a picture: after a timeout FFmpeg returns what its parser held back.
        if self._hardware is None and not self.finite and self._deadline.has_passed:
            raise self._timed_out()
        taken = self._pending.popleft()
        self._delivered += 1
        self._silence += time.monotonic() - began
        self.damaged, self.skipped = taken is None, isinstance(taken, _Skipped)
        if isinstance(taken, _Skipped):
            self._record_skipped(taken)
        elif taken is not None:
            self._frame = taken
            self._record_picture(taken)
        return True

    def retrieve(self) -> Picture | None:
        """The grabbed picture. The first one of each format is converted, to know that FFmpeg can."""
        if self._frame is None:
            return None
        picture = DecodedPicture(
            self._frame,
            self._converters,
            size=self._size,
            rotation=self._rotation,
            flip=self._flip,
            is_reduced=self._is_reduced,
        )
        if _format_of(self._frame) != self._convertible:
            try:
                picture.bgr()
            except (av.FFmpegError, ValueError):
                return None
            self._convertible = _format_of(self._frame)
        return picture

    def close(self) -> None:
        """Close the container, at once or as soon as no thread reads it."""
        self._frame = None
        self._pending.clear()
        if self._hardware is not None:
            self._hardware.close(self._release)
        else:
            self._release()

    def _release(self) -> None:
        self._packets = None
        self._container.close()

    # opening ----------------------------------------------------------------------------------------------

    def _connect(self, finite: bool | None, threads: int | None) -> None:
        began = time.monotonic()
        limit = FILE_TIMEOUT if self._is_file else self._timeouts.first
        self._deadline = _Deadline(limit)
        self._container = self._open_container(limit)
        try:
            self._stream = self._choose_stream()
            self.finite = _has_length(self._container, self._stream) if finite is None else finite
            if not self.finite:
                self._discard_others()
                self._timeouts.declares(float(self._stream.average_rate or 0))
                if self._container.format.name in _SEGMENTED:
                    self._timeouts.mark_segmented()
            self._codec = self._open_codec(threads)
        except BaseException:
            self._container.close()
            raise
        self._threads = self._codec.thread_count
        self._time_base = float(self._stream.time_base or 0)
        self._first_time: float | None = None  # seconds of the source's own clock
        self._packets = None
        self._pending: deque[VideoFrame | _Skipped | None] = deque()  # None: damaged
        self._owed = 0  # pictures of the packets that the decoder got since it began at a keyframe
        self._awaits_keyframe = False  # the decoder holds no picture, and begins at a keyframe
        self._video_packets = 0  # packets of the video stream
        self._visible_packets = self._decoded = 0  # visible packets; pictures and errors from the decoder
        self._bad_reads = 0
        self._reached = 0.0  # seconds, over all of its streams
        self._bases = [float(stream.time_base or 0) for stream in self._container.streams]
        self._starts_at = (self._container.start_time or 0) / av.time_base
        self._drained = False
        self._silence = time.monotonic() - began

    def _open_container(self, limit: float) -> InputContainer:
        first = min(ANSWER_TIMEOUT, limit) if self._answers else limit
        opening = _Opening(first, self._deadline, self._on_wait)
        # PyAV converts the timeout to float each time it starts to wait.
        timeout = (cast(float, opening), cast(float, self._deadline))
        try:
            opened: InputContainer = av.open(
                self._target, "r", options=self._options, timeout=timeout, **_LENIENT
            )
        except av.FFmpegError as exc:
            # An interrupted protocol does not always report a timeout.
            if not isinstance(exc, av.error.TimeoutError) and not opening.has_passed:
                raise
            if opening.answered:
                raise self._lost("timeout", f"connected, but got no picture within {limit:.3g} s") from None
            raise self._lost("timeout", f"no answer within {first:.3g} s") from None
        return opened

    def _choose_stream(self) -> VideoStream:
        videos = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            others = {stream.type for stream in self._container.streams} - {"video"}
            if self._is_file and not self._container.streams:  # its index is incomplete
                raise SourceLost("codec", f"{self._shown} {fault_of(self._target.removeprefix('file:'))}")
            found = f", only {', '.join(sorted(others))}" if others else ""
            raise self._lost("codec", f"the stream has no video{found}")
        best = self._container.streams.best("video")
        return next((film for film in videos if best is not None and film.index == best.index), videos[0])

    def _discard_others(self) -> None:
        """Discard all other streams, so that a camera need not send its sound."""
        for stream in self._container.streams:
            if stream.index != self._stream.index:
                stream.discard = Discard.all

    def _open_codec(self, threads: int | None) -> av.VideoCodecContext:
        codec = self._stream.codec_context
        if codec is None:
            name = codec_of(self._target.removeprefix("file:")) if self._is_file else ""
            named = f" ({name})" if name else ""
            raise self._lost("codec", f"FFmpeg has no decoder for the codec of its video{named}")
        if codec.name == "ansi":  # FFmpeg renders text files as video, which is never intended
            raise self._lost("codec", "expected a video, got a text")
        usual = _FILM_THREADS if self.finite else _LIVE_THREADS
        codec.thread_type = ThreadType.AUTO
        codec.thread_count = usual if threads is None else threads
        codec.options = {**codec.options, "max_pixels": str(MOST_PIXELS)}
        if self.finite:
            # Show damaged pictures of a file too, even before its first keyframe.
            codec.flags |= Flags.output_corrupt
        try:
            codec.open(strict=False)
        except (av.FFmpegError, ValueError) as exc:
            raise self._lost("codec", f"the decoder of {codec.name} does not open: {strerror(exc)}") from None
        return codec

    # reading ----------------------------------------------------------------------------------------------

    def _decode_next(self) -> bool:
        """Pass one packet to the decoder. Returns False at the end."""
        if self._drained:
            return False
        packet = self._replayed.popleft() if self._replayed else self._read_video()
        if packet is None:
            self._drain()
        else:
            if self.finite and self._video_packets == 1 and self._codec.name == _JPEG:
                self._orientation = orientation_of(bytes(packet))
            self._decode_or_skip(packet)
            self._report_progress()
        if not self._pending and not self.finite and self._deadline.has_passed:
            raise self._timed_out()  # data arrives, but no picture can be decoded
        return True

    def _read_video(self) -> Packet[Any] | None:
        """The next packet of the video; None at the end."""
        while (packet := self._read()) is not None:
            if packet.stream_index == self._stream.index and packet.size:
                self._video_packets += 1
                self._visible_packets += not packet.is_discard  # an edit list may hide decoded pictures
                self._undecoded_packets += 1
                return packet
            if not self.finite and self._deadline.has_passed:
                raise self._timed_out()
        return None

    def _read(self) -> Packet[Any] | None:
        """The next packet of any stream; an empty one for damaged data; None at the end."""
        # PyAV reads the remaining time when a generator starts.
        if self._packets is None or not self.finite:
            self._packets = self._container.demux()
        try:
            packet = next(self._packets, None)
        except av.error.InvalidDataError:
            return self._skip_unreadable()
        except av.FFmpegError as exc:
            if isinstance(exc, av.error.ExitError) or self._deadline.has_passed:
                raise self._timed_out() from None
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

    def _skip_unreadable(self) -> Packet[Any] | None:
        """Skip damaged data in the container, unless it fails too often."""
        self._packets = None
        self._bad_reads += 1
        if self._bad_reads <= _BAD_READS:
            return Packet()
        self.broken = True
        return None

    def _decode_or_skip(self, packet: Packet[Any]) -> None:
        """Pass a packet to the decoder, unless its picture is not needed. Raises: SourceLost."""
        now = time.monotonic()
        use: Use = "decode"
        if self._may_skip:
            own = None if packet.pts is None or not self._time_base else packet.pts * self._time_base
            use = self._skipper.use_of(is_keyframe=packet.is_keyframe, now=now, media_time=own)
        if use == "decode":
            self._awaits_keyframe = False
            self._owed += self._has_picture
            self._decode(packet)
            return
        self._restart_decoder()
        if use == "alone":
            self._decode_alone(packet)
            return
        self._pending.append(_Skipped(packet.pts))
        if self._skipper.waits_for_keyframe(now) > self._timeouts.first:
            raise self._lost("undecodable", _no_keyframe_within(self._timeouts.first))

    @property
    def _may_skip(self) -> bool:
        """Whether packets may be skipped: its packets arrive one by one, and a first picture was seen."""
        is_segmented = self._container.format.name in _SEGMENTED
        is_replaying = bool(self._replayed or self._repeated)
        return self._has_picture and not (self.finite or is_segmented or is_replaying)

    def _decode_alone(self, keyframe: Packet[Any]) -> None:
        """Decode a keyframe that no other packet follows."""
        self._awaits_keyframe = False
        self._owed += 1
        self._decode(keyframe)
        self._restart_decoder()
        if self._pending[-1] is None:
            self._skipper.forget()
        elif isinstance(self._pending[-1], _Skipped):  # only several such pictures complete each other
            self._skipper.distrust()

    def _restart_decoder(self) -> None:
        """Get the last pictures out of the decoder, and let it begin again with the next keyframe."""
        if self._awaits_keyframe:
            return
        self._decode(None)
        self._codec.flush_buffers()
        self._awaits_keyframe = True
        # It leaves out pictures at the start of a group that refer to the group before.
        self._pending.extend([_Skipped(None)] * self._owed)
        self._owed = 0

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            frames = self._codec.decode(packet)
        except (av.FFmpegError, ValueError):
            self._decoded += 1
            self._owed = max(0, self._owed - 1)
            self._pending.append(None)
            return
        self._decoded += len(frames)
        self._owed = max(0, self._owed - len(frames))
        for frame in frames:
            if frame.pts in self._repeated:
                self._repeated.remove(frame.pts)
            else:
                self._pending.append(frame)

    def _drain(self) -> None:
        """Get the last pictures out of the decoder."""
        self._drained = True
        self._decode(None)
        missing = self._visible_packets - self._decoded
        # With several threads, PyAV leaves pictures in the decoder if one of the last packets is damaged.
        if self.finite and 0 < missing <= self._threads > 1 and self._delivered <= _REREAD:
            self._decode_again()

    def _decode_again(self) -> None:
        """Decode again from the start with one thread, and skip the delivered pictures."""
        self._container.close()
        self._connect(self.finite, 1)
        for _ in range(self._delivered):
            while not self._pending and self._decode_next():
                continue
            if self._pending:
                self._pending.popleft()

    # hardware ---------------------------------------------------------------------------------------------

    def _start_hardware(self) -> HardwareDecoding | None:
        decoder = self._decoders.choose(self._codec.codec.canonical_name, pixel_format_of(self._codec))
        if decoder is None:
            return None
        return HardwareDecoding(
            decoder,
            self._stream,
            read=self._read_ahead,
            live=not self.finite,
            decoders=self._decoders,
            is_sideways=lambda: self._upright and abs(self._declared_rotation) == 90,
        )

    def _read_ahead(self) -> Packet[Any] | None:
        """The next packet, for the thread that feeds a decoder of hardware."""
        self._extend_deadline()
        packet = self._read_video()
        if packet is not None and self.finite and self._video_packets == 1:
            self._look_for_rotation(packet)
        return packet

    def _look_for_rotation(self, packet: Packet[Any]) -> None:
        """Decode the first picture with FFmpeg, which finds the rotation of a file wherever it is stored."""
        try:
            frames = [*self._codec.decode(packet), *self._codec.decode(None)]
            self._codec.flush_buffers()
        except (av.FFmpegError, ValueError):
            return
        self._declared_rotation = frames[0].rotation if frames else 0

    def _take_from_hardware(self, began: float) -> bool:
        """Wait for pictures of the decoder of hardware. False without one, or at the end."""
        if self._hardware is None:
            return False
        try:
            pictures = self._hardware.take(lambda: self._check_silence(began))
        except DecoderFailed:
            self._use_software()
            return False
        self._is_reduced = self._hardware.is_reducing
        self._pending.extend(pictures)
        self._drained = not pictures
        return bool(pictures)

    def _check_silence(self, began: float) -> None:
        """Raises: SourceLost if no packet can be decoded; DecoderFailed if the decoder is to blame."""
        assert self._hardware is not None
        if self.finite or self._silence + time.monotonic() - began < self._timeout:
            return
        owed = self._hardware.owed
        if owed is None and self._undecoded_packets:
            raise self._timed_out()  # there is no keyframe
        is_silent = self._hardware.silence >= self._timeout
        if owed is not None and owed > _OWED + self._codec.reorder_depth and is_silent:
            raise DecoderFailed("stalled", f"delivered no picture for {self._timeout:.3g} s")

    def _use_software(self) -> None:
        """Decode with FFmpeg from the last keyframe on. Raises: SourceLost."""
        assert self._hardware is not None
        left = self._hardware.hand_over()
        self._hardware, self._is_reduced = None, False
        self._pending.extend([None] * left.lost)
        self._replayed.extend(left.packets)
        self._repeated = left.delivered
        self._threads = 1  # a file is not read again from its start
        self._extend_deadline()

    # pictures --------------------------------------------------------------------------------------------

    def _record_skipped(self, packet: _Skipped) -> None:
        self._timeouts.waited(self._silence)
        self._silence, self._undecoded_packets = 0.0, 0
        self.media_time = self._time_of(packet.pts)

    def _record_picture(self, frame: VideoFrame) -> None:
        if not self._has_picture:
            rotation = frame.rotation or self._declared_rotation
            self._rotation = _ROTATIONS.get(rotation) if self._upright else None
            if self._upright and self._orientation in _MIRRORED:
                self._rotation, self._flip = _MIRRORED[self._orientation]
            of = self._codec if self._is_reduced else frame
            self._size = (of.width, of.height)
            is_sideways = self._rotation in SIDEWAYS
            self.width, self.height = self._size[::-1] if is_sideways else self._size
        elif not self.finite:
            self._timeouts.waited(self._silence)
        self._has_picture = True
        self._silence, self._undecoded_packets = 0.0, 0
        self._corrupt += frame.is_corrupt
        self.media_time = self._time_of(frame.pts)

    def _time_of(self, pts: int | None) -> float:
        """Seconds since the first picture. They always increase, even if the source's own times do not."""
        last = self.media_time
        following = 0.0 if last is None else last + 1 / (self.fps or _USUAL_FPS)
        if pts is None or not self._time_base:
            return following
        at = pts * self._time_base
        if self._first_time is None:
            self._first_time = at - following
        at -= self._first_time
        return at if last is None or at > last else following

    def _summarize_end(self) -> None:
        """Set `remark` and `broken` at the end."""
        said = []
        shortfall = self._shortfall()
        self.broken = bool(shortfall)
        if shortfall:
            said.append(f"{shortfall}: it is cut off or damaged")
        if self._corrupt:
            said.append(f"{self._corrupt} of its pictures have parts missing")
        self.remark = f"{self._shown}: {'; '.join(said)}" if said else ""

    def _shortfall(self) -> str:
        """Say how much is missing of the declared length, which is often a guess; "" if little or nothing."""
        packets, total = self._video_packets, self._stream.frames
        if self._container.format.name in _NO_COUNT:
            total = 0
        if total - packets > max(2, total // 20):
            return f"it ends after {packets} of {total} frames"
        # Some containers include the time before their first picture.
        lasts = (self._container.duration or 0) / av.time_base - max(0.0, self._starts_at)
        if not total and lasts - self._reached > max(0.5, lasts / 20):
            return f"it ends after {self._reached:.1f} of {lasts:.1f} s"
        # A server may reset a connection after it has sent everything.
        interval = 1 / (self.fps or _USUAL_FPS)
        whole = packets >= total if total else 0 < lasts <= self._reached + interval
        return f"it ends after {self._delivered} frames" if self.broken and not whole else ""

    def _extend_deadline(self) -> None:
        """Set the deadline for the next picture."""
        if not self.finite:
            self._deadline.extend(max(1.0, self._timeout - self._silence))
        else:
            self._deadline.extend(FILE_TIMEOUT if self._is_file else self._timeouts.following)

    @property
    def _timeout(self) -> float:
        return self._timeouts.following if self._has_picture else self._timeouts.first

    def _timed_out(self) -> SourceLost:
        """The error for a timeout: no data, or nothing that can be decoded."""
        limit = f"{self._timeout:.3g} s"
        if self._has_picture:
            self._timeouts.timed_out()
        if not self._has_picture and self._undecoded_packets:
            return self._lost("undecodable", _no_keyframe_within(self._timeout))
        if self._undecoded_packets > _REORDER_PACKETS:
            return self._lost("undecodable", f"frames arrive, but none can be decoded for {limit}")
        return self._lost("timeout", f"no frame for {limit}")

    def _report_progress(self) -> None:
        if not self._has_picture and self._undecoded_packets == 1:
            self._on_wait("frames arrive, but none can be decoded yet: no keyframe")

    def _lost(self, cause: SourceCause, why: str) -> SourceLost:
        return SourceLost(cause, f"{self._shown}: {why}")


@dataclass(frozen=True, slots=True)
class _Skipped:
    """A packet that was not decoded."""

    pts: int | None  # in the time base of its stream


class _Deadline:
    """A deadline that can be extended. As a float it is the remaining seconds, which PyAV reads."""

    def __init__(self, seconds: float) -> None:
        self.extend(seconds)

    def __float__(self) -> float:
        return max(0.001, self._at - time.monotonic())

    def extend(self, seconds: float) -> None:
        """Set it to `seconds` from now."""
        self._at = time.monotonic() + seconds

    @property
    def has_passed(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self._at


class _Opening:
    """The deadlines of the two steps in which PyAV opens: connecting, and reading the first packets."""

    def __init__(self, answer: float, deadline: _Deadline, on_wait: Callable[[str], None]) -> None:
        self._answer = _Deadline(answer)
        self._deadline = deadline
        self._on_wait = on_wait
        self._asked = 0

    @property
    def answered(self) -> bool:
        """Whether the first step is done."""
        return self._asked > 1

    @property
    def has_passed(self) -> bool:
        """Whether the deadline of the current step has passed."""
        return (self._deadline if self.answered else self._answer).has_passed

    def __float__(self) -> float:
        self._asked += 1
        if not self.answered:
            self._on_wait("no answer yet")
            return float(self._answer)
        self._on_wait("connected, no picture yet")
        return float(self._deadline)


def _no_keyframe_within(seconds: float) -> str:
    return f"frames arrive, but none can be decoded: no keyframe within {seconds:.3g} s"


def _has_length(container: InputContainer, stream: VideoStream) -> bool:
    """Whether it is a complete recording. A live stream has no length.

    A server may not send the size, but the index of an MP4 lists its frames, unless it is fragmented. A
    single image counts as the current picture of a camera.
    """
    name = container.format.name
    if name in _SEGMENTED:
        return _seconds(container, stream) > 0
    if name in ("mpjpeg", "image2") or name.endswith("_pipe"):
        return False
    size: int | None = container.size  # None from PyAV 19 on; before, a negative error number
    return (size or 0) > 0 or ("mp4" in name and stream.frames > 0)


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    """The declared duration; 0 if unknown."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _rate(stream: VideoStream) -> float:
    rate = float(stream.guessed_rate or stream.average_rate or 0)
    return rate if 0 < rate <= 1000 else 0.0


def _format_of(frame: VideoFrame) -> tuple[object, ...]:
    """What decides whether FFmpeg can convert a picture."""
    return frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range
