"""Is the clock synchronised? Predictions carry its time, and certificates and tokens depend on it."""

from __future__ import annotations

from datetime import datetime, timezone

from streamfleet_core.runtime.finding import Finding, ok, warning
from streamfleet_worker.host.clock import ClockReading

NAME = "clock"
_EARLIEST = datetime(2026, 1, 1, tzinfo=timezone.utc)  # this software did not exist before


def check(reading: ClockReading | None, now: float) -> Finding:
    """`now`: Unix seconds."""
    shown = datetime.fromtimestamp(now, tz=timezone.utc)
    text = shown.strftime("%Y-%m-%d %H:%M:%S UTC")
    remedy = "sudo timedatectl set-ntp true; on a network without internet, name a time server in chrony.conf"
    if shown < _EARLIEST:
        return Finding(NAME, "error", f"it shows {text}, which is in the past", remedy)
    if reading is None:
        return warning(NAME, f"it shows {text}; the kernel does not tell whether it is right", remedy)
    if not reading.synchronised:
        return warning(NAME, f"it shows {text}, and no time server sets it", remedy)
    return ok(NAME, f"synchronised to {reading.max_error:.3f} s: {text}")
