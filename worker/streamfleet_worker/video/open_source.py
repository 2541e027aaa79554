"""Opening sources: what is behind a reference, and with which limits.

Whatever goes wrong becomes a `SourceLost`, with its cause and a reason for people that shows no credentials.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import av
import cv2

from streamfleet_core.protocol.source_reference import SourceKind, is_finite, kind_of, path_of, sanitised
from streamfleet_core.protocol.status import SourceCause
from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.sources import container
from streamfleet_worker.video.sources.capture import Capture
from streamfleet_worker.video.sources.errors import SourceLost
from streamfleet_worker.video.sources.images import is_pattern, open_images
from streamfleet_worker.video.sources.media import MOST_PIXELS, MediaCapture, strerror
from streamfleet_worker.video.sources.probe import Address, address_of, explained, resolve
from streamfleet_worker.video.sources.timeouts import Rhythm
from streamfleet_worker.video.sources.v4l2 import number_of as property_number
from streamfleet_worker.video.sources.v4l2 import open_device
from streamfleet_worker.video.synthetic.conveyor import SceneCapture, UnknownScene, number_of
from streamfleet_worker.video.synthetic.test_pattern import PatternCapture

logger = logging.getLogger(__name__)

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # OpenCV's variable: `name;value|name;value`, of FFmpeg
# With the second a stream is open after a second and not after five, which is what FFmpeg takes to be sure of
# the frame rate of a slow camera.
_URL_OPTIONS = {"rtsp_flags": "prefer_tcp", "analyzeduration": "1000000", "overrun_nonfatal": "1"}
# FFmpeg asks for another part of a film over the connection that it has, also where the server has closed it
# without having said so. This is one more try, at once, over a new one: without it the first picture is lost.
_HTTP_OPTIONS = {"reconnect_on_network_error": "1", "reconnect_delay_max": "0"}
_FILE_OPTIONS = {"pattern_type": "none"}  # `%` in the name of an image means nothing else
# What a source may lead to: a list of films at a URL names no file of this machine.
_PROTOCOLS = {
    "file": "file,crypto,data",
    "http": "http,https,httpproxy,tcp,tls,crypto,data",
    "rtsp": "rtsp,rtp,srtp,udp,tcp,tls,http,https,httpproxy",
    "rtmp": "rtmp,rtmps,rtmpt,rtmpts,ffrtmphttp,http,https,httpproxy,tcp,tls",
    "udp": "udp",
    "rtp": "rtp,srtp,udp",
    "tcp": "tcp",
}
# What FFmpeg's errors say by themselves.
_CAUSES: dict[type[Exception], tuple[SourceCause, str]] = {
    av.error.ConnectionRefusedError: ("refused", "connection refused"),
    av.error.HTTPForbiddenError: ("authentication", "access is denied (403 Forbidden)"),
    av.error.HTTPNotFoundError: ("not_found", "there is nothing under this path (404 Not Found)"),
    av.error.HTTPBadRequestError: ("invalid", "the server refuses the request (400 Bad Request)"),
    av.error.HTTPTooManyRequestsError: (
        "unreachable",
        "the server cannot serve it now (429 Too Many Requests)",
    ),
    av.error.ProtocolNotFoundError: ("invalid", "FFmpeg does not speak this protocol here"),
}
_ANSWERING = ("rtsp", "rtmp")  # a server says something before the first picture
# The properties of OpenCV that mean something to a film or a stream.
_THREADS = "n_threads"
_TIMEOUTS = ("open_timeout_msec", "read_timeout_msec")
_UPRIGHT = "orientation_auto"
_POSITION = "pos_frames"
_KNOWN = (_THREADS, *_TIMEOUTS, _UPRIGHT)


def open_source(
    spec: SourceSpec,
    first_frame_id: int,
    *,
    rhythm: Rhythm | None = None,
    finite: bool | None = None,
    waits: Callable[[str], None] = lambda _: None,
) -> Capture:
    """Raises: SourceLost.

    Args:
        first_frame_id: of a picture that is drawn.
        rhythm: what is known of its pace from earlier connections.
        finite: what it was found to be before.
        waits: is told what is being waited for until the first picture comes.
    """
    reference = spec.reference
    for name in spec.properties:
        property_number(name)  # before a server is asked for anything
    rhythm = rhythm or rhythm_of(spec)
    match kind_of(reference):
        case SourceKind.PATTERN:
            return PatternCapture(first_frame_id)
        case SourceKind.SCENE:
            try:
                return SceneCapture(number_of(str(reference)), first_frame_id)
            except UnknownScene as exc:
                raise SourceLost("invalid", str(exc)) from exc
        case SourceKind.FILE:
            return _open_file(spec, rhythm, waits)
        case SourceKind.URL:
            return _open_url(spec, rhythm, finite, waits)
        case SourceKind.DEVICE:
            return open_device(spec, finite=is_finite(spec))


def rhythm_of(spec: SourceSpec) -> Rhythm:
    """How long it may be silent, where its properties say so."""
    first, following = (spec.properties.get(name, 0.0) / 1000 for name in _TIMEOUTS)
    return Rhythm(first if first > 0 else None, following if following > 0 else None)


def quiet_libraries() -> None:
    """Before a source is opened: what FFmpeg and OpenCV would say on stderr holds passwords. (S30)"""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    av.logging.set_level(None)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _open_file(spec: SourceSpec, rhythm: Rhythm, waits: Callable[[str], None]) -> Capture:
    path = _path(str(spec.reference))
    if is_pattern(path) or Path(path).is_dir():
        return open_images(path, finite=is_finite(spec))
    _check(path)
    try:
        capture = MediaCapture(
            f"file:{path}",
            shown=path,
            options=_options("file", _FILE_OPTIONS),
            rhythm=rhythm,
            finite=is_finite(spec),
            threads=_threads(spec),
            upright=bool(spec.properties.get(_UPRIGHT, 1)),
            waits=waits,
        )
    except (av.FFmpegError, ValueError) as exc:
        raise SourceLost("codec", f"{path} {container.fault_of(path) or strerror(exc)}") from None
    for _ in range(int(spec.properties.get(_POSITION, 0))):
        if not capture.grab():
            break
    _tell_ignored(spec, (*_KNOWN, _POSITION))
    return capture


def _open_url(spec: SourceSpec, rhythm: Rhythm, finite: bool | None, waits: Callable[[str], None]) -> Capture:
    address = address_of(str(spec.reference))
    family = address.scheme if address.scheme in _PROTOCOLS else address.scheme.removesuffix("s")
    if spec.mode is not None or family != "http":
        finite = is_finite(spec)
    waits("the name of its host is being looked up")
    resolve(address)
    try:
        capture = MediaCapture(
            str(spec.reference),
            shown=address.shown,
            options=_options(family, _URL_OPTIONS | (_HTTP_OPTIONS if family == "http" else {})),
            rhythm=rhythm,
            finite=finite,
            threads=_threads(spec),
            upright=bool(spec.properties.get(_UPRIGHT, 1)),
            answers=family in _ANSWERING,
            waits=waits,
        )
    except (av.FFmpegError, ValueError) as exc:
        raise _why(address, exc) from None
    _tell_ignored(spec, _KNOWN)
    return capture


def _why(address: Address, exc: Exception) -> SourceLost:
    """FFmpeg tells the usual causes apart; for the others the server is asked."""
    for kind, (cause, why) in _CAUSES.items():
        if isinstance(exc, kind):
            return address.lost(cause, why)
    if isinstance(exc, av.error.HTTPUnauthorizedError):
        if not address.has_login:
            return address.lost("authentication", "it wants a user and a password, the address has none")
        return explained(address) or address.lost("authentication", "the user or the password is wrong")
    if isinstance(exc, av.error.OSError):
        return explained(address) or address.lost("unreachable", strerror(exc).lower())
    why = "it answers, but gives nothing that can be decoded"
    return explained(address) or address.lost("codec", why)


def _options(family: str, usual: dict[str, str]) -> dict[str, str]:
    """For FFmpeg: ours, and what the administrator of this machine has set for OpenCV."""
    given = (each.partition(";") for each in os.environ.get(_OPTIONS, "").split("|") if ";" in each)
    return {
        **usual,
        "max_pixels": str(MOST_PIXELS),
        "protocol_whitelist": _PROTOCOLS[family],
        **{name: value for name, _, value in given},
    }


def _threads(spec: SourceSpec) -> int | None:
    """That decode, where its properties say so."""
    wanted = spec.properties.get(_THREADS)
    return None if wanted is None else max(0, int(wanted))


def _tell_ignored(spec: SourceSpec, known: tuple[str, ...]) -> None:
    """A film or a stream is as it is, so this is only told."""
    for name, wanted in spec.properties.items():
        if name not in known:
            logger.warning("%s refuses the property %s = %g", sanitised(spec.reference), name, wanted)


def _path(reference: str) -> str:
    try:
        return str(Path(path_of(reference)).expanduser())
    except (ValueError, RuntimeError) as exc:  # the last: there is no such user's home
        raise SourceLost("invalid", f"{reference} cannot be read: {exc}") from exc


def _check(reference: str) -> None:
    path = Path(reference)
    try:
        if path.exists() and not path.is_file():
            raise SourceLost("invalid", f"{path} is no regular file, expected a video file")
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceLost("codec", f"{path} is empty, expected a video file")
    except FileNotFoundError as exc:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"  # the device's, not the asker's
        raise SourceLost("not_found", f"there is no file {path}{where}") from exc
    except PermissionError as exc:
        raise SourceLost("authentication", f"{path} cannot be read: permission denied") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise SourceLost("invalid", f"{path} cannot be read: {reason}") from exc
