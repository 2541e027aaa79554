"""Opening sources: files, URLs and devices by OpenCV, and the test pattern.

Whatever goes wrong becomes a `SourceLost`, with a reason for people that shows no credentials.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from streamfleet_broker.protocol.reference import SourceKind, kind_of, path_of, sanitised
from streamfleet_broker.protocol.values import SourceSpec
from streamfleet_worker.camera.frame import Image
from streamfleet_worker.camera.testpattern import PatternCapture

OPEN_TIMEOUT = 10.0  # seconds until a URL counts as unreachable
READ_TIMEOUT = 8.0  # seconds without a frame until a stream counts as lost; the agent waits a little longer
_DIAGNOSIS = 2.0  # seconds to find out why a URL did not open
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}


class SourceLost(Exception):
    """There is no picture from a source; the text says why."""


class Capture(Protocol):
    """An open source. One thread uses it."""

    finite: bool  # a file: it ends, and it waits to be read
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
    match kind_of(reference):
        case SourceKind.PATTERN:
            return PatternCapture(first_frame_id)
        case SourceKind.SCENE:
            raise SourceLost(f"there is no scene {reference}")
        case SourceKind.FILE:
            path = _checked_path(str(reference))
            capture = _open(path, cv2.CAP_FFMPEG, spec, [])
            if capture is None or _is_text(capture):
                raise SourceLost(f"{path} is not a video that can be decoded")
            return VideoCapture(capture, finite=True)
        case SourceKind.URL:
            limits = [
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_TIMEOUT * 1000)),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT * 1000)),
            ]
            capture = _open(str(reference), cv2.CAP_FFMPEG, spec, limits)
            if capture is None:
                raise SourceLost(f"{sanitised(reference)}: {_why_not(str(reference))}")
            return VideoCapture(capture, finite=False)
        case SourceKind.DEVICE:
            capture = _open(reference, cv2.CAP_V4L2, spec, [])
            if capture is None:
                raise SourceLost(f"no camera can be opened at {_device_path(reference)}")
            return VideoCapture(capture, finite=False)


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
    """Keep OpenCV and FFmpeg from writing references, which may hold passwords, to stderr. (S30)"""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _open(
    reference: str | int, backend: int, spec: SourceSpec, parameters: list[int]
) -> cv2.VideoCapture | None:
    numbers = {_property(name): value for name, value in spec.properties.items()}
    try:
        capture = cv2.VideoCapture(reference, backend, parameters)
        if not capture.isOpened():
            return None
        for number, value in numbers.items():
            capture.set(number, value)
    except cv2.error:  # its text may hold the reference
        return None
    return capture


def _property(name: str) -> int:
    number = getattr(cv2, f"CAP_PROP_{name.upper()}", None)
    if not isinstance(number, int):
        raise SourceLost(f"expected a property of OpenCV such as frame_width, came {name[:64]!r}")
    return number


def _checked_path(reference: str) -> str:
    path: str | Path = reference
    try:
        path = Path(path_of(reference))
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "no regular file"
            raise SourceLost(f"{path} is {kind}, expected a video file")
        with path.open("rb") as file:
            if not file.read(1):
                raise SourceLost(f"{path} is empty, expected a video file")
    except FileNotFoundError as exc:
        raise SourceLost(f"there is no file {path}") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise SourceLost(f"{path} cannot be read: {reason}") from exc
    return str(path)


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


def _why_not(url: str) -> str:
    """The likeliest reason why a URL did not open: FFmpeg tells it only to stderr."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "the address cannot be read"
    if not host or not port:
        return "it cannot be opened"
    try:
        socket.create_connection((host, port), timeout=_DIAGNOSIS).close()
    except TimeoutError:
        return "no answer from the host"
    except socket.gaierror:
        return "the host's name is unknown"
    except OSError as exc:
        return (exc.strerror or "no connection").lower()
    return "the host answers, but gives no stream: wrong path, credentials or codec"
