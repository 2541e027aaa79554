"""How good the clock of this machine is, as the kernel says: see adjtimex(2)."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

UNSYNCHRONISED = 0x0040  # STA_UNSYNC
_SIZE = 512  # bytes, more than a struct timex has
_MAX_ERROR, _STATUS = 24, 40  # offsets of fields on 64-bit machines: 8 bytes in µs, and 4 bytes


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What the kernel says. It takes the word of the program that sets the clock."""

    synchronised: bool
    max_error: float  # seconds


def read_clock() -> ClockReading | None:
    """Ask the kernel; None if it does not tell."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    timex = ctypes.create_string_buffer(_SIZE)  # zeros: `modes` is 0, which only reads
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None
    return decode(timex.raw)


def decode(timex: bytes) -> ClockReading:
    """Decode a struct timex of a 64-bit machine."""
    status = int.from_bytes(timex[_STATUS : _STATUS + 4], sys.byteorder)
    micros = int.from_bytes(timex[_MAX_ERROR : _MAX_ERROR + 8], sys.byteorder, signed=True)
    return ClockReading(synchronised=not status & UNSYNCHRONISED, max_error=max(0, micros) / 1e6)
