"""Resource limits of a container, from the kernel's control groups, version 2 or 1.

A limit may be set at any group from ours to the root; the lowest applies. A container that sees its own group
as the root has no folder at the path that the kernel reports: the root folder is read then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 2**60  # bytes: version 1 expresses "no limit" as the largest number of pages


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits; None: no limit."""

    cores: float | None = None
    memory: int | None = None  # bytes
    memory_available: int | None = None  # bytes of it that are still available


def limits(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Limits:
    """Read the current limits of this process. Unreadable limits are ignored."""
    cores: list[float] = []
    memory: list[tuple[int, int]] = []  # limit, and how much of it is left
    for controllers, path in _groups(own):
        for folder in _folders(controllers, path, root):
            cores += _cores(folder)
            memory += _memory(folder)
    return Limits(
        min(cores, default=None),
        min((limit for limit, _ in memory), default=None),
        min((left for _, left in memory), default=None),
    )


def _groups(own: Path) -> Iterator[tuple[list[str], str]]:
    """The controllers (none for version 2) and the path of each of our groups."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers.split(",") if controllers else [], path


def _folders(controllers: list[str], path: str, root: Path) -> Iterator[Path]:
    """The existing folders of a group and of its parents."""
    tops = [root / name for name in controllers if name in ("cpu", "memory")] if controllers else [root]
    for top in tops:
        folder = top / path.lstrip("/")
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(top) and each.is_dir())


def _cores(folder: Path) -> Iterator[float]:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    with contextlib.suppress(ValueError, ZeroDivisionError):  # "max", or no such file
        if int(quota) > 0:
            yield int(quota) / int(period)


def _memory(folder: Path) -> Iterator[tuple[int, int]]:
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        with contextlib.suppress(ValueError):  # "max", or no such file
            most = int(_text(folder / limit))
            if most < _NO_LIMIT:
                lines = _text(folder / "memory.stat").splitlines()
                freed = [int(line.removeprefix(cache)) for line in lines if line.startswith(cache)]
                yield most, max(0, most - int(_text(folder / used)) + sum(freed))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
