"""Private files: written atomically with mode 0600, and refused if other users may read them. (S8)"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.runtime.small_file import read_small


class KeyExposed(ProtocolError):
    """A private file that users other than its owner may read or write."""

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(f"{path} has the rights {mode:04o}, expected 0600: run 'chmod 600 {path}'")
        self.path = path
        self.mode = mode


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read. Readers see the old content or the new, never a part."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def read_private(path: Path) -> bytes:
    """Read a small private file. Raises: KeyExposed if other users have rights to it, OSError."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyExposed(path, mode)
    return read_small(path)
