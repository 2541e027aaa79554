"""Which elements GStreamer has on this machine. Each is looked for once in a process."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

INSPECT = "gst-inspect-1.0"
_TIMEOUT = 20.0  # seconds; the first call on a machine loads all plug-ins


@cache
def program(name: str) -> str | None:
    """The path of one of GStreamer's programs; None if it is not installed."""
    return shutil.which(name)


@cache
def has_element(name: str) -> bool:
    """Whether there is such an element. A decoder of hardware exists only where its hardware does."""
    inspect = program(INSPECT)
    if inspect is None:
        return False
    try:
        done = subprocess.run(
            [inspect, "--exists", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
