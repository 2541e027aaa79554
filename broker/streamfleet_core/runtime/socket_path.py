"""Paths of unix sockets: the kernel allows 107 bytes, and ZeroMQ expects text in UTF-8."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 107


def problem_with(folder: Path, longest: str) -> str:
    """Say why sockets cannot lie in a folder, or "" if they can. `longest`: the longest socket name in it."""
    try:
        length = len(str(folder / longest).encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8, as that of sockets must be"
    if length > MAX_BYTES:
        most = MAX_BYTES - length + len(str(folder).encode())
        return f"the path is {length - MAX_BYTES} bytes too long for the sockets in it, {most} are possible"
    return ""
