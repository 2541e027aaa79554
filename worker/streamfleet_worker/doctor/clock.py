"""Is the clock synchronised? Predictions carry its time, and certificates and tokens depend on it."""

from __future__ import annotations

import ctypes
import sys
from datetime import datetime, timezone

from streamfleet_core.runtime.finding import Finding, ok, warning

NAME = "clock"
UNSYNCHRONISED = 0x0040  # STA_UNSYNC of adjtimex(2)
_EARLIEST = datetime(2026, 1, 1, tzinfo=timezone.utc)  # this software did not exist before
_SIZE = 512  # bytes, more than a struct timex has
_STATUS = 40  # offset of its field `status` on 64-bit machines


def kernel_status() -> int | None:
    """The status bits of the kernel's clock; None if it does not tell them."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    timex = ctypes.create_string_buffer(_SIZE)  # zeros: `modes` is 0, which only reads
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None
    return int.from_bytes(timex.raw[_STATUS : _STATUS + 4], sys.byteorder)


def check(status: int | None, now: float) -> Finding:
    """`status`: of `kernel_status`; `now`: Unix seconds."""
    shown = datetime.fromtimestamp(now, tz=timezone.utc)
    text = shown.strftime("%Y-%m-%d %H:%M:%S UTC")
    remedy = "sudo timedatectl set-ntp true; on a network without internet, name a time server in chrony.conf"
    if shown < _EARLIEST:
        return Finding(NAME, "error", f"it shows {text}, which is in the past", remedy)
    if status is None:
        return warning(NAME, f"it shows {text}; the kernel does not tell whether it is right", remedy)
    if status & UNSYNCHRONISED:
        return warning(NAME, f"it shows {text}, and no time server sets it", remedy)
    return ok(NAME, f"synchronised: {text}")
