"""Files for a device, which are in the fleet only as long as they are needed."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamfleet_api.client.errors import CommandFailed
from streamfleet_core.models.digest import digest_of

if TYPE_CHECKING:
    from streamfleet_api.client.http_client import Client

MAX_FILE = 256 * 1024**2  # bytes that a device fetches
_REMOVALS = 10  # attempts to remove a file that a pipeline has just stopped to need
_EVERY = 0.2  # seconds between two of them


@contextlib.contextmanager
def uploaded(client: Client, files: Sequence[Path]) -> Iterator[list[str]]:
    """Upload files, yield their references, and remove those that were not there before.

    Raises: CommandFailed, OSError.
    """
    digests, ours = [], set()
    try:
        for file in files:
            if (size := file.stat().st_size) > MAX_FILE:
                raise CommandFailed(f"{file}: expected at most {MAX_FILE} bytes, got {size}")
            digests.append(digest_of(file))
            if client.upload_weights(digests[-1], file):
                ours.add(digests[-1])
        yield [f"blob:{digest}" for digest in digests]
    finally:
        with undisturbed():
            for digest in ours:
                _remove_blob(client, digest)


def _remove_blob(client: Client, digest: str) -> None:
    for _ in range(_REMOVALS):
        with contextlib.suppress(CommandFailed):
            client.remove_blob(digest)
            return
        time.sleep(_EVERY)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C not keep the fleet from being cleaned up."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
