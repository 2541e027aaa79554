"""A camera process whose connection breaks again and again keeps nothing of what it lost.

`STREAMFLEET_TEST_RECONNECTS=300 pytest -s tests/worker/video/test_source_reader_soak.py` is the long run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamfleet_core.protocol.values import Manifest
from tests.fakes.cutter import Cutter
from tests.fakes.http_camera import HttpCamera
from tests.fakes.peers import wait_for
from tests.fakes.process_harness import Child, ProcessHarness
from tests.fakes.rtsp import RtspServer

RECONNECTS = int(os.environ.get("STREAMFLEET_TEST_RECONNECTS", "3"))
LOOKS = 3  # the first when the libraries' pools and caches have their size
_LIMIT = 60_000  # bytes that each connection gets: a dozen pictures

pytestmark = pytest.mark.timeout(120 + 6 * RECONNECTS)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the kernel counts of a process."""

    memory: int  # kB, resident
    descriptors: int
    threads: int

    @property
    def counts(self) -> tuple[int, int]:
        """What must be the same again."""
        return self.descriptors, self.threads


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
def http() -> Iterator[HttpCamera]:
    """MJPEG without end."""
    camera = HttpCamera(sizes=((640, 480),))
    yield camera
    camera.close()


@pytest.fixture
def cut() -> Iterator[Callable[[int], Cutter]]:
    """Makes cables that break."""
    made: list[Cutter] = []

    def make(port: int) -> Cutter:
        made.append(Cutter(port, limit=_LIMIT))
        return made[-1]

    yield make
    for cutter in made:
        cutter.close()


def held_after(child: Child, cutter: Cutter, cuts: int) -> Holdings:
    """What the process holds when its cable broke so often, and it has a steady picture again."""
    wait_for(lambda: cutter.cuts >= cuts, f"{cuts} cuts", timeout=30 + 5 * cuts)
    cutter.limit = None
    known = child.reports[-1].sources[0].received
    wait_for(lambda: child.reports[-1].sources[0].received > known + 20, "a steady picture")
    held = settled(child.process.pid or 0)
    cutter.limit = _LIMIT
    return held


def settled(pid: int) -> Holdings:
    """When nothing changes any more: what is looked at between two steps of a process may be more or less."""
    looks: list[Holdings] = []

    def are_alike() -> bool:
        looks.append(holdings(pid))
        if looks[-1].counts != looks[0].counts:
            del looks[:-1]
        return len(looks) == 10

    wait_for(are_alike, "nothing changes")
    return looks[-1]


def stays_flat(child: Child, cutter: Cutter) -> None:
    """From one look to the next."""
    looks = [held_after(child, cutter, RECONNECTS * look // LOOKS) for look in range(1, LOOKS + 1)]

    print(*looks, sep="\n")
    first, last = looks[0], looks[-1]
    assert last.counts == first.counts
    assert last.memory - first.memory < 4096


def test_broken_http_connections_leave_nothing(
    stand: ProcessHarness, quick: Manifest, http: HttpCamera, cut: Callable[[int], Cutter]
) -> None:
    cutter = cut(http.port)
    stand.publisher()  # or the camera would look for one in each frame, with a descriptor for a moment
    child = stand.camera(quick, f"http://127.0.0.1:{cutter.port}/live")

    stays_flat(child, cutter)


def test_broken_rtsp_connections_leave_nothing(
    stand: ProcessHarness, quick: Manifest, rtsp: Callable[..., RtspServer], cut: Callable[[int], Cutter]
) -> None:
    cutter = cut(rtsp(codec="jpeg", fps=30).start().port)
    stand.publisher()
    child = stand.camera(quick, f"rtsp://127.0.0.1:{cutter.port}/live")

    stays_flat(child, cutter)
