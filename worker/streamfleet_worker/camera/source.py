"""Opening sources: files, URLs and devices by OpenCV, and the pictures that we make ourselves.

Whatever goes wrong becomes a `SourceLost`, with its cause and a reason for people that shows no credentials.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from streamfleet_broker.protocol.reference import SourceKind, is_finite, kind_of, path_of, sanitised
from streamfleet_broker.protocol.values import SourceSpec
from streamfleet_worker.camera.frame import Image
from streamfleet_worker.camera.inquiry import inquired
from streamfleet_worker.camera.lost import SourceLost
from streamfleet_worker.camera.scene import SceneCapture, UnknownScene, number_of
from streamfleet_worker.camera.testpattern import PatternCapture

logger = logging.getLogger(__name__)

OPEN_TIMEOUT = 10.0  # seconds until a URL counts as unreachable
READ_TIMEOUT = 8.0  # seconds without a frame until a stream counts as lost; the agent waits a little longer
# The first is OpenCV's own default. With the second a stream is open after a second and not after five, which
# is what FFmpeg takes to be sure of the frame rate of a slow camera.
_FFMPEG_OPTIONS = "rtsp_flags;prefer_tcp|analyzeduration;1000000"
# A live source is decoded by one thread. Each further one (FFmpeg would take one for each core) keeps a
# picture back until the next has come: with eight, and ten frames a second, that is seven tenths of a second.
_LIVE_THREADS = 1
_FILE_THREADS = 0  # FFmpeg's choice: nobody waits for the frames of a film
_THREADS = "n_threads"  # the property that says otherwise; FFmpeg takes it when it opens, not later
_QUERYCAP = 0x80685600  # VIDIOC_QUERYCAP, the first thing to ask a V4L2 device
_CAPABILITIES = 104  # bytes of its answer


class Capture(Protocol):
    """An open source. One thread uses it."""

    finite: bool  # every frame is wanted, and there is an end
    width: int  # pixels
    height: int  # pixels
    fps: float  # as the source declares it; 0 when it does not
    total_frames: int  # as the source declares it; below 1 when it does not

    def grab(self) -> bool:
        """Go on to the next frame. False: there is none, for ever."""
        ...

    def retrieve(self, into: Image | None) -> Image | None:
        """The picture of the frame that was grabbed, in this memory if it fits. None: it is damaged."""
        ...

    def close(self) -> None:
        """Give the source back."""
        ...


def open_source(spec: SourceSpec, first_frame_id: int) -> Capture:
    """Raises: SourceLost."""
    reference = spec.reference
    for name in spec.properties:
        _property(name)  # before a server is asked for anything
    match kind_of(reference):
        case SourceKind.PATTERN:
            return PatternCapture(first_frame_id)
        case SourceKind.SCENE:
            try:
                return SceneCapture(number_of(str(reference)), first_frame_id)
            except UnknownScene as exc:
                raise SourceLost("invalid", str(exc)) from exc
        case SourceKind.FILE:
            return _open_file(spec)
        case SourceKind.URL:
            return _open_url(spec)
        case SourceKind.DEVICE:
            return _open_device(spec)


class VideoCapture:
    """What OpenCV opened."""

    def __init__(self, capture: cv2.VideoCapture, *, finite: bool) -> None:
        self.finite = finite
        self._capture = capture
        self.width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if np.isfinite(fps) and 0 < fps <= 1000 else 0.0
        self.total_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def grab(self) -> bool:
        """Go on to the next frame."""
        return self._capture.grab()

    def retrieve(self, into: Image | None) -> Image | None:
        """The picture of the frame that was grabbed."""
        ok, image = self._capture.retrieve(into) if into is not None else self._capture.retrieve()
        return _as_bgr(image) if ok and image is not None else None

    def close(self) -> None:
        """Give the source back."""
        self._capture.release()


def quiet_libraries() -> None:
    """Before a source is opened: no password goes to stderr (S30), and FFmpeg does not look on for 5 s."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _FFMPEG_OPTIONS)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _open_file(spec: SourceSpec) -> Capture:
    path = _checked_path(str(spec.reference))
    capture = _open(path, cv2.CAP_FFMPEG, _threads(spec))
    if capture is None or _is_text(capture):
        raise SourceLost("codec", f"{path} is not a video that can be decoded")
    _set_properties(capture, spec)
    return VideoCapture(capture, finite=is_finite(spec))


def _open_url(spec: SourceSpec) -> Capture:
    url = str(spec.reference)
    limits = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_TIMEOUT * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT * 1000)),
        *_threads(spec),
    ]
    with inquired(url) as after_all:
        began = time.monotonic()
        capture = _open(url, cv2.CAP_FFMPEG, limits)
    if capture is None and time.monotonic() - began >= OPEN_TIMEOUT:
        text = f"it answers, but no picture came within {OPEN_TIMEOUT:.0f} s"
        raise SourceLost("timeout", f"{sanitised(url)}: {text}")
    if capture is None:
        raise after_all
    _set_properties(capture, spec)
    return VideoCapture(capture, finite=is_finite(spec))


def _open_device(spec: SourceSpec) -> Capture:
    path = _device_path(spec.reference)
    _check_device(path)
    capture = _open(spec.reference, cv2.CAP_V4L2, [])
    if capture is None:
        raise SourceLost("refused", f"{path} gives no picture: another program uses it, or it is no camera")
    for name, value in _set_properties(capture, spec).items():
        capture.release()
        raise SourceLost("invalid", f"{path} refuses the property {name} = {value:g}")
    return VideoCapture(capture, finite=is_finite(spec))


def _open(reference: str | int, backend: int, parameters: list[int]) -> cv2.VideoCapture | None:
    try:
        capture = cv2.VideoCapture(reference, backend, parameters)
    except cv2.error:  # its text may hold the reference
        return None
    return capture if capture.isOpened() else None


def _set_properties(capture: cv2.VideoCapture, spec: SourceSpec) -> dict[str, float]:
    """What was refused. A file or a URL refuses almost everything, which harms nobody, so it is only told."""
    refused = {}
    for name, wanted in spec.properties.items():
        number = _property(name)
        if name == _THREADS and capture.get(number) == wanted:
            continue  # it was opened so
        if not capture.set(number, wanted):
            refused[name] = wanted
            logger.warning("%s refuses the property %s = %g", sanitised(spec.reference), name, wanted)
        elif (came := capture.get(number)) != wanted:
            logger.warning("%s: %s is %g, not %g", sanitised(spec.reference), name, came, wanted)
    return refused


def _threads(spec: SourceSpec) -> list[int]:
    """To open with: how many threads decode."""
    usual = _FILE_THREADS if is_finite(spec) else _LIVE_THREADS
    return [cv2.CAP_PROP_N_THREADS, max(0, int(spec.properties.get(_THREADS, usual)))]


def _property(name: str) -> int:
    number = getattr(cv2, f"CAP_PROP_{name.upper()}", None)
    if not isinstance(number, int):
        text = f"expected a property of OpenCV such as frame_width, came {name[:64]!r}"
        raise SourceLost("invalid", text)
    return number


def _checked_path(reference: str) -> str:
    path: str | Path = reference
    try:
        path = Path(path_of(reference))
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "no regular file"
            raise SourceLost("invalid", f"{path} is {kind}, expected a video file")
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceLost("codec", f"{path} is empty, expected a video file")
    except FileNotFoundError as exc:
        where = "" if Path(path).is_absolute() else f" in {Path.cwd()}"  # the device's, not the asker's
        raise SourceLost("not_found", f"there is no file {path}{where}") from exc
    except PermissionError as exc:
        raise SourceLost("authentication", f"{path} cannot be read: permission denied") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise SourceLost("invalid", f"{path} cannot be read: {reason}") from exc
    return str(path)


def _check_device(path: str) -> None:
    """Tell apart what OpenCV does not. Raises: SourceLost."""
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _not_opened(path, exc) from exc
    try:
        if not stat.S_ISCHR(os.fstat(device).st_mode):
            raise SourceLost("invalid", f"{path} is no device")
        fcntl.ioctl(device, _QUERYCAP, bytes(_CAPABILITIES))
    except OSError as exc:
        raise SourceLost("invalid", f"{path} is a device, but no camera") from exc
    finally:
        os.close(device)


def _not_opened(path: str, exc: OSError) -> SourceLost:
    match exc.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return SourceLost("not_found", f"there is no camera {path}")
        case errno.EACCES | errno.EPERM:
            return SourceLost(
                "authentication", f"{path} may not be opened: is the worker's user in the group video?"
            )
        case errno.EBUSY:
            return SourceLost("refused", f"{path} is in use by another program")
        case _:
            return SourceLost("invalid", f"{path} cannot be opened: {exc.strerror}")


def _is_text(capture: cv2.VideoCapture) -> bool:
    """FFmpeg plays a text file as a film of its letters, which nobody means."""
    return int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True) == b"ansi"


def _as_bgr(image: np.ndarray) -> Image | None:
    """(height, width, 3) uint8. None for anything else: properties may ask a device for raw data."""
    if image.dtype != np.uint8:
        return None
    if image.ndim == 2:
        return np.repeat(image[:, :, np.newaxis], 3, axis=2)
    return image if image.ndim == 3 and image.shape[2] == 3 else None


def _device_path(reference: str | int) -> str:
    return f"/dev/video{reference}" if isinstance(reference, int) else reference
