"""What tests ask about GStreamer's programs, and about the decoders that run now."""

from __future__ import annotations

import os
from pathlib import Path

from streamfleet_worker.video.hardware.elements import has_element

PACKAGES = "gstreamer1.0-tools gstreamer1.0-plugins-bad gstreamer1.0-libav"


def is_missing() -> bool:
    """Can no film be decoded by GStreamer here?"""
    return not all(map(has_element, ("gdppay", "h264parse", "h265parse", "avdec_h264", "avdec_h265")))


def decoders(parent: int | None = None) -> list[int]:
    """The process ids of the decoders that this process, or another, has started and not reaped."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if _is_of(pid, parent or os.getpid())]


def command_of(pid: int) -> str:
    """Its command line, as `ps` shows it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def is_running(pid: int) -> bool:
    """Does it run, or was it only stopped? One that was not reaped yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _is_of(pid: int, parent: int) -> bool:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return False
    return int(rest.split()[1]) == parent and name.startswith(("gst-launch", "setpriv"))
