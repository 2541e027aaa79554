"""V4L2 cameras, opened with OpenCV."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat

import cv2
import numpy as np

from streamfleet_core.protocol.values import SourceSpec
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.capture import Capture
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.sources.errors import SourceLost

logger = logging.getLogger(__name__)

_QUERYCAP = 0x80685600  # VIDIOC_QUERYCAP, which every V4L2 device answers
_CAPABILITIES = 104  # bytes of its answer


class V4L2Capture(Capture):
    """A camera opened by OpenCV."""

    def __init__(self, capture: cv2.VideoCapture, *, finite: bool) -> None:
        self.finite = finite
        self._capture = capture
        self.width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if np.isfinite(fps) and 0 < fps <= 1000 else 0.0
        self.total_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def grab(self) -> bool:
        """Advance to the next frame."""
        return self._capture.grab()

    def retrieve(self) -> Picture | None:
        """Decode the grabbed frame."""
        ok, grabbed = self._capture.retrieve()
        image = _as_bgr(grabbed) if ok and grabbed is not None else None
        return None if image is None else ArrayPicture(image)

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def open_device(spec: SourceSpec, *, finite: bool) -> V4L2Capture:
    """Open a camera and set its properties. Raises: SourceLost."""
    path = _device_path(spec.reference)
    _check_device(path)
    try:
        capture = cv2.VideoCapture(spec.reference, cv2.CAP_V4L2)
    except cv2.error:
        capture = cv2.VideoCapture()
    if not capture.isOpened():
        raise SourceLost(
            "refused", f"{path} gives no picture: another program uses it, or it is not a camera"
        )
    for name, value in spec.properties.items():
        if not capture.set(number_of(name), value):
            capture.release()
            raise SourceLost("invalid", f"{path} refuses the property {name} = {value:g}")
        if (actual := capture.get(number_of(name))) != value:
            logger.warning("%s: expected %s %g, got %g", path, name, value, actual)
    return V4L2Capture(capture, finite=finite)


def number_of(name: str) -> int:
    """The number of one of OpenCV's properties. Raises: SourceLost."""
    number = getattr(cv2, f"CAP_PROP_{name.upper()}", None)
    if not isinstance(number, int):
        text = f"expected a property of OpenCV such as frame_width, got {name[:64]!r}"
        raise SourceLost("invalid", text)
    return number


def _check_device(path: str) -> None:
    """Detect causes that OpenCV does not distinguish. Raises: SourceLost."""
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _not_opened(path, exc) from exc
    try:
        if not stat.S_ISCHR(os.fstat(device).st_mode):
            raise SourceLost("invalid", f"{path} is not a device")
        fcntl.ioctl(device, _QUERYCAP, bytes(_CAPABILITIES))
    except OSError as exc:
        raise SourceLost("invalid", f"{path} is a device, but not a camera") from exc
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


def _as_bgr(image: np.ndarray) -> Image | None:
    """(height, width, 3) uint8. None for other formats: properties may request raw data."""
    if image.dtype != np.uint8:
        return None
    if image.ndim == 2:
        return np.repeat(image[:, :, np.newaxis], 3, axis=2)
    return image if image.ndim == 3 and image.shape[2] == 3 else None


def _device_path(reference: str | int) -> str:
    return f"/dev/video{reference}" if isinstance(reference, int) else reference
