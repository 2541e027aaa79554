"""A draft beside the file that it becomes, locked while it is written.

One that can be locked was left by a process that was killed, and is replaced.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class DraftInUse(OSError):
    """Another process is writing this draft."""


def lock_draft(draft: Path) -> int:
    """Create an empty private draft, and return its descriptor, which holds the lock until it is closed.

    Rename or remove the draft before the descriptor is closed. Raises: DraftInUse, OSError.
    """
    while True:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            _remove_abandoned(draft)
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(draft, descriptor):
            return descriptor
        os.close(descriptor)  # before it was locked, another process took it for abandoned


def _remove_abandoned(draft: Path) -> None:
    """Remove a draft that no process is writing. Raises: DraftInUse, OSError."""
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(draft, descriptor):
            draft.unlink()
    except BlockingIOError as exc:
        raise DraftInUse(exc.errno, "another process is writing it", str(draft)) from exc
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path leads to an open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
