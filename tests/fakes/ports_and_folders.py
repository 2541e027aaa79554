"""Where tests put what they start: ports and folders that nobody else has."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout
SHARED = ROOT.parent / "shared"  # real films and models, which only some checkouts have beside them

# Below those that the kernel gives to outgoing connections, and apart for each process that runs tests: what
# is free now stays so until its program binds it.
_FIRST, _EACH = 12_000, 4_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5
_numbers = itertools.count(random.randrange(_EACH))


def free_port() -> int:
    """A port of this host that nobody has."""
    for _ in range(_EACH):
        port = _FIRST + _EACH * _worker + next(_numbers) % _EACH
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {_FIRST + _EACH * _worker}")


def free_ports(count: int) -> list[int]:
    """Several of them."""
    return [free_port() for _ in range(count)]


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for unix sockets in it (107 bytes in all)."""
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_to_others(folder: Path) -> list[Path]:
    """All below it with which anybody else may do anything. Programs may make and remove files meanwhile."""
    found = []
    for root, folders, files in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):
                if path.lstat().st_mode & 0o077:
                    found.append(path)
    return found
