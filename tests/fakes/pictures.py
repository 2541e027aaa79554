"""Ten picture files with the same three squares: other sizes, orientations, colour depths and formats."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from streamfleet_worker.video.synthetic.test_pattern import draw

WIDTH, HEIGHT = 480, 270  # pixels of most of them


def write_pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Write them into a folder. Returns the width and height of each upright picture, by file name."""
    width, height = WIDTH, HEIGHT
    picture = cv2.resize(draw(1), (width, height), interpolation=cv2.INTER_AREA)
    deep = picture.astype(np.uint16) * 257
    alpha = np.dstack([picture, np.full((height, width), 128, np.uint8)])
    _write(folder / "small.jpg", picture)
    _write(folder / "large.jpg", cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST))
    _write(folder / "tall.png", cv2.copyMakeBorder(picture, 0, 2 * height, 0, 0, cv2.BORDER_CONSTANT))
    _write(folder / "odd.bmp", picture[: height - 1, : width - 3])
    _write(folder / "deep.png", deep)
    _write(folder / "deep.tiff", deep)
    _write(folder / "alpha.png", alpha)
    _write(folder / "alpha.webp", alpha)
    _write(folder / "grey.png", cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint16) * 257)
    _write(folder / "sideways.jpg", cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE))
    turn(folder / "sideways.jpg", orientation=6)
    sizes = {path.name: (width, height) for path in folder.iterdir()}
    return sizes | {
        "large.jpg": (4 * width, 4 * height),
        "tall.png": (width, 3 * height),
        "odd.bmp": (width - 3, height - 1),
    }


def turn(jpeg: Path, *, orientation: int) -> None:
    """Add the Exif tag that says how a camera was held. 6: to be shown turned clockwise by 90 degrees."""
    content = jpeg.read_bytes()
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)  # Exif 2.32, 4.6.4: one SHORT
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    jpeg.write_bytes(content[:2] + segment + content[2:])


def _write(path: Path, image: cv2.typing.MatLike) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if path.suffix == ".jpg" else []
    assert cv2.imwrite(str(path), image, options), path
