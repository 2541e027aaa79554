"""Where unix sockets can lie: the kernel gives a path 107 bytes, and ZeroMQ takes it as text in UTF-8."""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 107


def problem_with(folder: Path, longest: str) -> str:
    """Why no sockets can lie in a folder, for people; "" when they can. `longest`: the longest name there."""
    try:
        length = len(str(folder / longest).encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8, as that of sockets must be"
    if length > MAX_BYTES:
        most = MAX_BYTES - length + len(str(folder).encode())
        return f"the path is {length - MAX_BYTES} bytes too long for the sockets in it, {most} are possible"
    return ""
