"""Memory, file descriptors, shared memory and disk: what a worker needs of them, and what there is."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from streamfleet_core.runtime.finding import Finding, error, ok, warning
from streamfleet_worker.host.cgroup import Limits

_GB = 1e9  # bytes
_LEAST_MEMORY = 0.5e9  # bytes for a small model and a camera
_GOOD_MEMORY = 1.5e9  # bytes
_LEAST_DESCRIPTORS, _GOOD_DESCRIPTORS = 256, 4096
_LEAST_DISK, _GOOD_DISK = 0.1e9, 1e9  # bytes
_LEAST_INODES = 1000


def check_memory(available: int, limits: Limits) -> Finding:
    """`available`: bytes that programs can still use, of the machine or container."""
    limit = "" if limits.memory is None else f", of the container's limit of {limits.memory / _GB:.1f} GB"
    found = f"{available / _GB:.1f} GB available{limit}"
    remedy = (
        "stop other programs" if limits.memory is None else "raise the limit: docker run --memory, MemoryMax"
    )
    if available < _LEAST_MEMORY:
        return error("memory", found, remedy)
    return warning("memory", found, remedy) if available < _GOOD_MEMORY else ok("memory", found)


def descriptors() -> int:
    """The hard limit, to which every program of ours raises its own."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def check_descriptors(limit: int) -> Finding:
    """Each camera needs about twenty. `limit`: -1 for none."""
    name, found = "file descriptors", f"a limit of {limit}"
    remedy = "LimitNOFILE=65536 in the unit, or docker run --ulimit nofile=65536"
    if limit == resource.RLIM_INFINITY:
        return ok(name, "no limit")
    if limit < _LEAST_DESCRIPTORS:
        return error(name, found, remedy)
    return warning(name, found, remedy) if limit < _GOOD_DESCRIPTORS else ok(name, found)


def check_shared_memory(size: int = 2**20) -> Finding:
    """Frames travel in memory of memfd_create, for which no size of /dev/shm counts."""
    name = "shared memory"
    try:
        descriptor = os.memfd_create("streamfleet-doctor")
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError as exc:
        remedy = "a security profile forbids memfd_create: run the container without it"
        return error(name, f"memfd_create: {exc.strerror}", remedy)
    return ok(name, "memfd_create works")


def check_disk(folder: Path) -> Iterator[Finding]:
    """Space and inodes where a folder is, or would be."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        stats = os.statvfs(place)
    except OSError as exc:
        yield error("disk", f"{place}: {exc.strerror}", "choose another --data-dir")
        return
    if stats.f_flag & os.ST_RDONLY:
        yield error("disk", f"{place} is read-only", "mount it with rw, or choose another --data-dir")
    elif not os.access(place, os.W_OK):
        yield error("disk", f"{place} belongs to another user", "choose another --data-dir")
    yield _space(stats.f_bavail * stats.f_frsize, place)
    if stats.f_files:  # file systems such as btrfs have no fixed number of inodes, and tell 0 of 0
        yield _inodes(stats.f_favail, place)


def _space(free: int, place: Path) -> Finding:
    found, remedy = (
        f"{free / _GB:.1f} GB free in {place}",
        f"find what fills it: du -xh {place} | sort -h | tail",
    )
    if free < _LEAST_DISK:
        return error("disk", found, remedy)
    return warning("disk", found, remedy) if free < _GOOD_DISK else ok("disk", found)


def _inodes(free: int, place: Path) -> Finding:
    if free < _LEAST_INODES:
        remedy = f"find where many files are: du -x --inodes {place} | sort -h | tail"
        return error("inodes", f"{free} free in {place}", remedy)
    return ok("inodes", f"{free} free in {place}")
