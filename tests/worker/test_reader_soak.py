"""A camera process that is dropped again and again keeps no memory, descriptor or thread of what it lost.

`STREAMFLEET_TEST_RECONNECTS=300 pytest -s tests/worker/test_reader_soak.py` is the long run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamfleet_broker.protocol.values import Manifest
from streamfleet_worker.control import CameraReport
from tests.http_camera import HttpCamera
from tests.worker.peers import wait_for
from tests.worker.stand import Child, Stand

RECONNECTS = int(os.environ.get("STREAMFLEET_TEST_RECONNECTS", "6"))
SETTLING = RECONNECTS // 3  # until every pool and cache of the libraries has its size
_FRAMES = 5  # that a connection gets


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the kernel counts of a process."""

    memory: int  # kB, resident
    descriptors: int
    threads: int


def holdings(pid: int) -> Holdings:
    """At this moment."""
    process = Path(f"/proc/{pid}")
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Holdings(
        memory=int(fields["VmRSS"].split()[0]),
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(fields["Threads"]),
    )


@pytest.fixture
def dropping() -> Iterator[HttpCamera]:
    """Hangs up after a few frames."""
    camera = HttpCamera(sizes=((640, 480),), frames_each=_FRAMES)
    yield camera
    camera.close()


def reconnected(child: Child, camera: HttpCamera, times: int) -> Holdings:
    """What the process holds when it has been dropped so often, and is connected again."""

    def reached() -> bool:
        report = child.reports[-1] if child.reports else None
        return isinstance(report, CameraReport) and report.sources[0].received >= times * _FRAMES

    wait_for(reached, f"{times} connections", timeout=30 + 3 * times)
    camera.frames_each = None
    before = child.reports[-1].sources[0].received
    wait_for(lambda: child.reports[-1].sources[0].received > before + 2 * _FRAMES, "a steady picture")
    now = holdings(child.process.pid or 0)
    camera.frames_each = _FRAMES
    return now


@pytest.mark.timeout(120 + 4 * RECONNECTS)
def test_reconnecting_costs_nothing_that_stays(stand: Stand, quick: Manifest, dropping: HttpCamera) -> None:
    child = stand.camera(quick, dropping.url())

    seen = [
        reconnected(child, dropping, times)
        for times in range(SETTLING, RECONNECTS + 1, max(1, SETTLING // 2))
    ]

    print(*seen, sep="\n")
    first, last = seen[0], seen[-1]
    assert (last.descriptors, last.threads) == (first.descriptors, first.threads)
    assert last.memory - first.memory < 4096
