"""Small disks, to be filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.ports_and_folders import short_folder

FILLER = "filler"  # the file that takes all room


@contextlib.contextmanager
def small_disk(size: str = "2m") -> Iterator[Path]:
    """A disk of that size; the test is skipped where none can be mounted."""
    with short_folder() as folder, mounted(folder, size) as is_mounted:
        if not is_mounted:
            pytest.skip("only root may mount a small disk")
        yield folder


@contextlib.contextmanager
def mounted(folder: Path, size: str = "2m") -> Iterator[bool]:
    """Make a folder such a disk until the block ends. False: this process may not."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(disk: Path) -> Path:
    """Take all room that is left. The file that takes it."""
    filler = disk / FILLER
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    return filler
