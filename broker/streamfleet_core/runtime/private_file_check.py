"""Checks private files: do they belong to us, closed to others, readable, and with content?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from streamfleet_core.runtime.finding import Finding, error, ok

NAME = "keys"
# In the data directory of a broker, an API, a worker, or of `streamfleet up` with all of them.
_PRIVATE = ("keys/*.key", "token", "identity.json", "tls-key.pem")
_FOLDERS = ("", "broker/", "api/", "workers/*/")


def private_files(data_dir: Path) -> list[Path]:
    """The private files that exist in a data directory."""
    return [path for folder in _FOLDERS for each in _PRIVATE for path in sorted(data_dir.glob(folder + each))]


def check_private_files(paths: Iterable[Path]) -> Iterator[Finding]:
    """A finding for each file that is wrong, or one that all are right. Files that do not exist are fine."""
    known = [path for path in paths if path.exists() or path.is_symlink()]
    wrong = [found for path in known if (found := _check(path)) is not None]
    yield from wrong
    if not wrong:
        count = f"{len(known)} private files" if len(known) != 1 else "1 private file"
        yield ok(NAME, f"{count}, closed to others" if known else "none yet")


def _check(path: Path) -> Finding | None:
    try:
        status = path.stat()
    except OSError as exc:
        return error(NAME, f"{path}: {exc.strerror}", f"look at it: ls -la {path}")
    if mode := stat.S_IMODE(status.st_mode) & 0o077:
        return error(NAME, f"{path} has rights {mode:03o} for others, and is refused", f"chmod 600 {path}")
    if not os.access(path, os.R_OK):
        return error(NAME, f"{path} belongs to another user", f"sudo chown $(id -un) {path}")
    if not status.st_size:
        return error(
            NAME,
            f"{path} is empty",
            "remove it, or restore a backup; a device then joins again with a new token",
        )
    return None
