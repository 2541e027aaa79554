"""Pictures in the format of their decoder, which are converted on request.

    whole     ──────────────────────────────────────▶ swscale ──▶ BGR
    scaled    planes ──▶ planes of the wanted size ──▶ swscale ──▶ BGR
    smooth    ──────────────────────────────────────▶ swscale ──▶ BGR of the wanted size
    reduced   ──────── already of the wanted size ───▶ swscale ──▶ BGR

Scaling first leaves few colours to convert. Formats whose planes cannot be scaled are converted first.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from streamfleet_worker.video.array_picture import grid_of, resized
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.overview import overview_of

SIDEWAYS = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE)

# The formats whose planes can be scaled, and the format of the scaled picture. Where the chroma had half the
# width before, it keeps half: swscale converts that fast.
_SCALED_FORMATS = {
    "yuv420p": "yuv422p",
    "yuvj420p": "yuvj422p",
    "yuv422p": "yuv422p",
    "yuvj422p": "yuvj422p",
    "yuv444p": "yuv444p",
    "yuvj444p": "yuvj444p",
    "nv12": "yuv422p",
    "yuv420p10le": "yuv422p10le",
    "yuv422p10le": "yuv422p10le",
    "gray": "gray",
}
_INTERLEAVED = "nv12"  # its second plane has both chroma values of each pixel

Plane = npt.NDArray[Any]  # (height, width) or (height, width, 2) uint8 or uint16


class Converter:
    """Converts pictures to BGR. Any thread may use it. It keeps its tables while the format is the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the tables
        self._reformatter = VideoReformatter()

    def convert(
        self,
        frame: VideoFrame,
        width: int,
        height: int,
        interpolation: Interpolation = Interpolation.BICUBIC,
    ) -> Image:
        """(height, width, 3) uint8, BGR. No other thread may convert the frame at the same time.

        Raises: av.FFmpegError, ValueError.
        """
        with self._lock:
            picture = self._reformatter.reformat(
                frame, width, height, "bgr24", interpolation=interpolation, threads=1
            )
        if picture is frame:  # it is BGR already, in memory that the decoder may still use
            return np.array(picture.to_ndarray(), np.uint8)
        return _plane(picture, 0, np.uint8, channels=3)


class Converters:
    """The converters of one source. A preview that is converted does not delay what goes to the model."""

    def __init__(self) -> None:
        self.whole = Converter()
        self.scaled = Converter()


class DecodedPicture:
    """A `Picture` that FFmpeg has decoded. Its memory returns to the decoder when it is released."""

    def __init__(
        self,
        frame: VideoFrame,
        converters: Converters,
        *,
        size: tuple[int, int],
        rotation: int | None,
        flip: int | None = None,
        is_reduced: bool = False,
    ) -> None:
        """Take over a frame.

        Args:
            converters: of the source.
            size: width and height of all pictures of the source before their rotation.
            rotation: OpenCV's code of the rotation that makes it upright.
            flip: OpenCV's code of what undoes its mirroring then.
            is_reduced: the frame was scaled down.
        """
        self.is_reduced = is_reduced
        self._frame = frame
        self._converters = converters
        self._size, self._rotation, self._flip = size, rotation, flip
        self._is_sideways = rotation in SIDEWAYS
        self.width, self.height = size[::-1] if self._is_sideways else size
        self._lock = threading.Lock()  # guards the frame, whose attributes PyAV changes meanwhile, and _bgr
        self._bgr: Image | None = None

    def bgr(self) -> Image:
        """The whole picture. Raises: av.FFmpegError, ValueError if FFmpeg cannot convert its format."""
        with self._lock:
            if self._bgr is None:
                self._bgr = self._upright(self._converters.whole.convert(self._frame, *self._size))
            return self._bgr

    def scaled(self, width: int, height: int, *, smooth: bool = False) -> Image:
        """The picture in this size."""
        across, down = (height, width) if self._is_sideways else (width, height)
        if self.is_reduced and (self._frame.width, self._frame.height) == (across, down):
            with self._lock:
                return self._upright(self._converters.scaled.convert(self._frame, across, down))
        is_smaller = width * height < self.width * self.height
        if smooth and is_smaller:
            with self._lock:
                return self._upright(
                    self._converters.scaled.convert(self._frame, across, down, Interpolation.BILINEAR)
                )
        with self._lock:
            scaled = _with_scaled_planes(self._frame, across, down) if is_smaller else None
        if scaled is None:
            return resized(self.bgr(), width, height)
        image = self._converters.scaled.convert(scaled, scaled.width, scaled.height)
        return self._upright(image[:down])

    def grid(self, lines: int) -> bytes:
        """About `lines` x `lines` evenly spread pixels of each plane."""
        planes = _planes(self._frame)
        if planes is None:
            return grid_of(self.bgr(), lines)
        return b"".join(grid_of(plane, lines) for plane in planes)

    def overview(self) -> Image:
        """The brightness in a coarse grid, of the plane in which the decoder has it."""
        planes = _planes(self._frame)
        if planes is None:
            return overview_of(self.bgr())
        return self._upright(overview_of(planes[0], sideways=self._is_sideways))

    def _upright(self, image: Image) -> Image:
        if self._rotation is not None:
            image = np.asarray(cv2.rotate(image, self._rotation), np.uint8)
        return image if self._flip is None else np.asarray(cv2.flip(image, self._flip), np.uint8)


def _planes(frame: VideoFrame) -> list[Plane] | None:
    """The planes of a picture, in its own memory; None if they cannot be scaled."""
    name = frame.format.name
    if name not in _SCALED_FORMATS or any(plane.line_size <= 0 for plane in frame.planes):
        return None
    kind = np.uint16 if name.endswith("le") else np.uint8
    return [
        _plane(frame, number, kind, channels=2 if name == _INTERLEAVED and number else 1)
        for number in range(len(frame.planes))
    ]


def _with_scaled_planes(frame: VideoFrame, width: int, height: int) -> VideoFrame | None:
    """A picture with the same planes in this size, plus a row if the height is odd; None if impossible."""
    planes = _planes(frame)
    if planes is None:
        return None
    # swscale has no fast conversion for an odd height.
    scaled = VideoFrame(width, height + height % 2, _SCALED_FORMATS[frame.format.name])
    scaled.colorspace, scaled.color_range = frame.colorspace, frame.color_range
    targets = [_plane(scaled, number, planes[0].dtype.type)[:height] for number in range(len(scaled.planes))]
    if frame.format.name == _INTERLEAVED:
        luma, *chroma = targets
        _scale(planes[0], luma)
        cv2.split(resized(planes[1], chroma[0].shape[1], height), chroma)
    else:
        for plane, target in zip(planes, targets, strict=True):
            _scale(plane, target)
    return scaled


def _scale(plane: Plane, target: Plane) -> None:
    """Scale one plane (height, width) into another."""
    height, width = target.shape
    step = plane.shape[0] // height
    if step % 2 and plane.shape == (step * height, step * width):
        # Linear interpolation takes the pixel in the middle: 1920 to 640 is common, and this is much faster.
        np.copyto(target, plane[step // 2 :: step, step // 2 :: step])
    else:
        resized(plane, width, height, into=target)


def _plane(frame: VideoFrame, number: int, kind: type[Any], *, channels: int = 1) -> Plane:
    """One plane in the memory of the picture: (height, width) or (height, width, channels)."""
    plane = frame.planes[number]
    rows = np.frombuffer(cast(bytes, plane), kind).reshape(plane.height, -1)
    used = rows[:, : channels * plane.width]
    return used if channels == 1 else used.reshape(plane.height, plane.width, channels)
