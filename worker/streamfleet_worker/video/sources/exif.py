"""How a camera was held, as it says in the Exif tag of a JPEG (Exif 2.32, 4.6.4). Pure.

FFmpeg tells the rotation of a picture, and PyAV does not tell whether it is mirrored.
"""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT = 3  # the type of its value
_UPRIGHT = 1
_MOST = 64  # segments of a JPEG, and entries of its tag, that are looked at


def orientation_of(jpeg: bytes) -> int:
    """The orientation from 1 to 8; 1, upright, if it says none."""
    at = 2  # behind the start of the image
    for _ in range(_MOST):
        marker = jpeg[at : at + 4]
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] == 0xDA:  # the picture itself begins
            return _UPRIGHT
        end = at + 2 + int.from_bytes(marker[2:], "big")
        if marker[1] == 0xE1 and jpeg[at + 4 : at + 10] == b"Exif\0\0":
            return _in_tag(jpeg[at + 10 : end])
        at = end
    return _UPRIGHT


def _in_tag(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is not None:
            (first,) = struct.unpack_from(f"{order}I", tiff, 4)
            (count,) = struct.unpack_from(f"{order}H", tiff, first)
            for number in range(min(count, _MOST)):
                entry = struct.unpack_from(f"{order}HHIH", tiff, first + 2 + 12 * number)
                if entry[:3] == (_ORIENTATION, _SHORT, 1) and 1 <= entry[3] <= 8:
                    return int(entry[3])
    except struct.error:  # it is cut off
        pass
    return _UPRIGHT
