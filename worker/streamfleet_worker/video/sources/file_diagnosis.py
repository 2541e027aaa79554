"""Diagnoses files that FFmpeg does not open or decode, from their bytes."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BOXES = 1000  # of an MP4, at most
_HEAD = 512  # bytes
_INDEX = 1 << 20  # bytes at the start and at the end of a file, where its index is
_MP4 = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_FAMILIES = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"RIFF": "AVI",
    b"OggS": "Ogg",
    b"FLV": "FLV",
    b"0&\xb2u": "ASF",
    b"\x00\x00\x01\xba": "MPEG",
}


def fault_of(path: str) -> str:
    """Say what is wrong with a file, for users; "" if unknown."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
            if head[4:8] in _MP4:
                return _fault_of_mp4(file)
    except OSError:
        return ""
    for mark, family in _FAMILIES.items():
        if head.startswith(mark):
            return f"begins as {family}, and is cut off or damaged"
    return "is not a video that can be decoded"


def codec_of(path: str) -> str:
    """The name of the video codec in the file itself; "" if unknown."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_INDEX)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _INDEX))
            content = head + file.read()
    except OSError:
        return ""
    at = content.find(b"stsd")  # of an MP4: a box with the code of each track
    if at >= 0:
        return _readable(content[at + 16 : at + 20])
    at = content.find(b"V_")  # of a Matroska file
    return _readable(content[at : at + 32]) if at >= 0 else ""


def _readable(code: bytes) -> str:
    text = code.decode("ascii", "replace")
    end = next(
        (index for index, sign in enumerate(text) if not (sign.isalnum() or sign in "_/.-")), len(text)
    )
    return text[:end]


def _fault_of_mp4(file: BinaryIO) -> str:
    kinds = [kind for kind, _ in itertools.islice(_boxes(file), _BOXES)]
    if b"moov" not in kinds:
        return "is cut off: the index of an MP4 (its moov atom) is missing"
    return "begins as MP4, and is cut off or damaged"


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    at = 0
    while True:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
        yield kind, size
        if size < 8:  # it extends to the end of the file, or is not a box
            return
        at += size
