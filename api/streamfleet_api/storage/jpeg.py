"""Whether bytes are a JPEG that can be decoded, at a bounded cost. Called in threads."""

from __future__ import annotations

import io
import os

from PIL import Image

MAX_PIXELS = 40_000_000  # more than any camera of ours has; the decoder takes a few bytes for each
MAX_SCANS = 32  # a progressive picture is gone through once for each
# Of one decoder, as libjpeg reads it. A progressive picture is kept as a whole while it is decoded, and
# one of 40 million pixels, which may come as half a megabyte, took 320 MB.
MAX_MEMORY = "96M"
_MAGIC = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"  # a marker: where it stands in the data of a picture, a zero is between these two bytes


class BadJpeg(Exception):
    """Bytes that are not the picture that they should be."""


def limit_memory() -> None:
    """Limit what each decoder of this process may take."""
    os.environ["JPEGMEM"] = MAX_MEMORY  # libjpeg reads it for each picture


def check_picture(image: bytes, width: int, height: int) -> None:
    """Check that bytes are a complete JPEG of this size. Raises: BadJpeg."""
    if not image.startswith(_MAGIC):
        raise BadJpeg(f"expected a JPEG, got {len(image)} bytes that are none")
    if width * height > MAX_PIXELS:
        raise BadJpeg(f"expected at most {MAX_PIXELS} pixels, got {width}x{height}")
    if (scans := image.count(_SCAN)) > MAX_SCANS:
        raise BadJpeg(f"expected at most {MAX_SCANS} scans, got {scans}")
    try:
        with Image.open(io.BytesIO(image), formats=("JPEG",)) as picture:
            if picture.size != (width, height):
                got = "x".join(map(str, picture.size))
                raise BadJpeg(f"expected a JPEG of {width}x{height} pixels, got one of {got}")
            picture.draft("L", (1, 1))  # an eighth of the size: all of it is read, and little is computed
            picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as exc:
        raise BadJpeg(f"expected a JPEG that can be decoded: {str(exc)[:100]}") from exc
