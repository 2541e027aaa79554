"""Opens sources: chooses a capture for a reference, and its limits.

Every error becomes a `SourceLost` with a cause and a readable reason that shows no credentials.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import av
import cv2

from streamfleet_core.protocol.source_reference import SourceKind, is_finite, kind_of, path_of, sanitised
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.hardware.choice import Decoders
from streamfleet_worker.video.sources import file_diagnosis
from streamfleet_worker.video.sources.errors import SourceLost, shown_path
from streamfleet_worker.video.sources.ffmpeg_capture import MOST_PIXELS, FFmpegCapture
from streamfleet_worker.video.sources.ffmpeg_errors import diagnose_error, strerror
from streamfleet_worker.video.sources.images import is_pattern, open_images
from streamfleet_worker.video.sources.packet_skipper import PacketSkipper
from streamfleet_worker.video.sources.timeouts import FrameTimeouts
from streamfleet_worker.video.sources.url_diagnosis import address_of, resolve
from streamfleet_worker.video.sources.v4l2_capture import number_of as property_number
from streamfleet_worker.video.sources.v4l2_capture import open_device
from streamfleet_worker.video.synthetic.conveyor import SceneCapture, UnknownScene, number_of
from streamfleet_worker.video.synthetic.test_pattern import PatternCapture

logger = logging.getLogger(__name__)

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # OpenCV's variable: `name;value|name;value`, of FFmpeg
# `analyzeduration`: open a stream after one second. FFmpeg's default is five, to estimate the frame rate of
# slow cameras.
_URL_OPTIONS = {"rtsp_flags": "prefer_tcp", "analyzeduration": "1000000", "overrun_nonfatal": "1"}
# FFmpeg requests the next part of a file over its existing connection, even if the server has closed it
# silently. These options retry once, immediately, over a new connection: otherwise the first picture is lost.
_HTTP_OPTIONS = {"reconnect_on_network_error": "1", "reconnect_delay_max": "0"}
_FILE_OPTIONS = {"pattern_type": "none"}  # `%` in the name of an image has no special meaning
# The protocols a source may use: a playlist at a URL must not reference files of this machine.
_PROTOCOLS = {
    "file": "file,crypto,data",
    "http": "http,https,httpproxy,tcp,tls,crypto,data",
    "rtsp": "rtsp,rtp,srtp,udp,tcp,tls,http,https,httpproxy",
    "rtmp": "rtmp,rtmps,rtmpt,rtmpts,ffrtmphttp,http,https,httpproxy,tcp,tls",
    "udp": "udp",
    "rtp": "rtp,srtp,udp",
    "tcp": "tcp",
}
_ANSWERING = ("rtsp", "rtmp")  # protocols whose server responds before the first picture
# OpenCV's properties that apply to files and streams.
_THREADS = "n_threads"
_TIMEOUTS = ("open_timeout_msec", "read_timeout_msec")
_UPRIGHT = "orientation_auto"
_POSITION = "pos_frames"
_KNOWN = (_THREADS, *_TIMEOUTS, _UPRIGHT)


def open_source(
    spec: SourceSpec,
    first_frame_id: int,
    *,
    timeouts: FrameTimeouts | None = None,
    finite: bool | None = None,
    on_wait: Callable[[str], None] = lambda _: None,
    decoders: Decoders | None = None,
    skipper: PacketSkipper | None = None,
) -> Capture:
    """Open a source. Raises: SourceLost.

    Args:
        first_frame_id: the first frame of a generated source.
        timeouts: learned from earlier connections.
        finite: as found by an earlier connection.
        on_wait: called with what it waits for, until the first picture.
        decoders: chooses the decoder of a file or a URL; None: software.
        skipper: decides which packets of a live file or URL are decoded; None: all.
    """
    reference = spec.reference
    for name in spec.properties:
        property_number(name)  # checked before a server is contacted
    timeouts = timeouts or timeouts_of(spec)
    match kind_of(reference):
        case SourceKind.PATTERN:
            return PatternCapture(first_frame_id)
        case SourceKind.SCENE:
            try:
                return SceneCapture(number_of(str(reference)), first_frame_id)
            except UnknownScene as exc:
                raise SourceLost("invalid", str(exc)) from exc
        case SourceKind.FILE:
            return _open_file(spec, timeouts, on_wait, decoders, skipper)
        case SourceKind.URL:
            return _open_url(spec, timeouts, finite, on_wait, decoders, skipper)
        case SourceKind.DEVICE:
            return open_device(spec, finite=is_finite(spec))


def timeouts_of(spec: SourceSpec) -> FrameTimeouts:
    """The timeouts of a source, as far as its properties set them."""
    first, following = (spec.properties.get(name, 0.0) / 1000 for name in _TIMEOUTS)
    return FrameTimeouts(first if first > 0 else None, following if following > 0 else None)


def quiet_libraries() -> None:
    """Silence FFmpeg and OpenCV, whose messages on stderr contain passwords. Call it first. (S30)"""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    av.logging.set_level(None)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _open_file(
    spec: SourceSpec,
    timeouts: FrameTimeouts,
    on_wait: Callable[[str], None],
    decoders: Decoders | None,
    skipper: PacketSkipper | None,
) -> Capture:
    path = _local_path(str(spec.reference))
    if is_pattern(path) or os.path.isdir(path):  # noqa: PTH112 (pathlib raises errors that are handled below)
        return open_images(path, finite=is_finite(spec))
    _check_file(path)
    try:
        capture = FFmpegCapture(
            f"file:{path}",
            shown=path,
            options=_options("file", _FILE_OPTIONS),
            timeouts=timeouts,
            finite=is_finite(spec),
            threads=_threads(spec),
            upright=bool(spec.properties.get(_UPRIGHT, 1)),
            on_wait=on_wait,
            decoders=decoders,
            skipper=skipper,
        )
    except (av.FFmpegError, ValueError) as exc:
        why = file_diagnosis.fault_of(path) or strerror(exc)
        raise SourceLost("codec", f"{shown_path(path)} {why}") from None
    for _ in range(int(spec.properties.get(_POSITION, 0))):
        if not capture.grab():
            break
    _log_ignored(spec, (*_KNOWN, _POSITION))
    return capture


def _open_url(
    spec: SourceSpec,
    timeouts: FrameTimeouts,
    finite: bool | None,
    on_wait: Callable[[str], None],
    decoders: Decoders | None,
    skipper: PacketSkipper | None,
) -> Capture:
    address = address_of(str(spec.reference))
    family = address.scheme if address.scheme in _PROTOCOLS else address.scheme.removesuffix("s")
    if spec.mode is not None or family != "http":
        finite = is_finite(spec)
    on_wait("resolving the name of its host")
    resolve(address)
    try:
        capture = FFmpegCapture(
            str(spec.reference),
            shown=address.shown,
            options=_options(family, _URL_OPTIONS | (_HTTP_OPTIONS if family == "http" else {})),
            timeouts=timeouts,
            finite=finite,
            threads=_threads(spec),
            upright=bool(spec.properties.get(_UPRIGHT, 1)),
            answers=family in _ANSWERING,
            on_wait=on_wait,
            decoders=decoders,
            skipper=skipper,
        )
    except (av.FFmpegError, ValueError) as exc:
        raise diagnose_error(address, exc) from None
    _log_ignored(spec, _KNOWN)
    return capture


def _options(family: str, usual: dict[str, str]) -> dict[str, str]:
    """The options for FFmpeg: ours, and those that the administrator has set for OpenCV."""
    given = (each.partition(";") for each in os.environ.get(_OPTIONS, "").split("|") if ";" in each)
    return {
        **usual,
        "max_pixels": str(MOST_PIXELS),
        "protocol_whitelist": _PROTOCOLS[family],
        **{name: value for name, _, value in given},
    }


def _threads(spec: SourceSpec) -> int | None:
    """The number of decoder threads, if its properties set it."""
    wanted = spec.properties.get(_THREADS)
    return None if wanted is None else max(0, int(wanted))


def _log_ignored(spec: SourceSpec, known: tuple[str, ...]) -> None:
    """Log properties that have no effect on files and streams."""
    for name, wanted in spec.properties.items():
        if name not in known:
            logger.warning("%s refuses the property %s = %g", sanitised(spec.reference), name, wanted)


def _local_path(reference: str) -> str:
    try:
        return str(Path(path_of(reference)).expanduser())
    except (ValueError, RuntimeError) as exc:  # RuntimeError: no home folder of such a user
        raise SourceLost("invalid", f"{reference} cannot be read: {exc}") from exc


def _check_file(reference: str) -> None:
    path = Path(reference)
    try:
        if path.exists() and not path.is_file():
            raise SourceLost("invalid", f"{shown_path(path)} is no regular file, expected a video file")
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceLost("codec", f"{shown_path(path)} is empty, expected a video file")
    except FileNotFoundError as exc:
        # On the device, not on the operator's machine.
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise SourceLost("not_found", f"there is no file {shown_path(path)}{where}") from exc
    except PermissionError as exc:
        raise SourceLost("authentication", f"{shown_path(path)} cannot be read: permission denied") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise SourceLost("invalid", f"{shown_path(path)} cannot be read: {reason}") from exc
