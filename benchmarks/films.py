"""Films as surveillance cameras encode them: H.264, usually of 1280x720."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import cv2

from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.synthetic import conveyor

SIZE = (1280, 720)  # pixels
_OPTIONS = {"preset": "veryfast", "tune": "zerolatency"}


def write_h264(
    path: Path, video: Path | None, *, fps: int, frames: int, size: tuple[int, int] = SIZE, group: int = 50
) -> Path:
    """Write frames of a video, or of a drawn conveyor belt without one. `group`: frames per keyframe."""
    images = itertools.cycle(decoded(video)) if video else (conveyor.draw(1, at) for at in itertools.count(1))
    with av.open(str(path), "w") as film:
        stream = film.add_stream(
            "libx264", rate=fps, options=_OPTIONS | {"x264-params": f"keyint={group}:scenecut=0"}
        )
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for image in itertools.islice(images, frames):
            scaled = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(scaled, "bgr24")))  # type: ignore[arg-type]
        film.mux(stream.encode(None))
    return path


def decoded(video: Path) -> Iterator[Image]:
    """Yield the frames of a video."""
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    while True:
        done, image = capture.read()
        if not done:
            return
        yield image  # type: ignore[misc]
