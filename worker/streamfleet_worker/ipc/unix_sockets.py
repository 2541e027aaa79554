"""Unix sockets with packets (SOCK_SEQPACKET), for the processes of one device."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from streamfleet_core.runtime.socket_path import MAX_BYTES

PACKETS = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def listen(path: str, *, backlog: int) -> socket.socket:
    """Open a non-blocking listener for this user only. Raises: OSError; ValueError for too long a path."""
    if len(os.fsencode(path)) > MAX_BYTES:
        raise ValueError(f"expected a socket path of at most {MAX_BYTES} bytes, got {path!r}")
    listener = socket.socket(socket.AF_UNIX, PACKETS)
    try:
        Path(path).unlink(missing_ok=True)  # left by a killed process
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
