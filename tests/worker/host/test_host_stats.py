"""What the device's status says of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamfleet_worker.config import default_capacity
from streamfleet_worker.host.cgroup import Limits, limits
from streamfleet_worker.host.host_stats import cores, parse_memory, read_host_stats

MEMORY = """\
MemTotal:        8116960 kB
MemFree:          155980 kB
MemAvailable:    5131420 kB
HugePages_Total:       0
DirectMap4k:      168912 kB
"""


def test_amounts_of_memory_are_bytes() -> None:
    assert parse_memory(MEMORY) == {
        "MemTotal": 8_311_767_040,
        "MemFree": 159_723_520,
        "MemAvailable": 5_254_574_080,
        "DirectMap4k": 172_965_888,
    }


def test_this_machine_has_cores_and_memory() -> None:
    machine = read_host_stats()

    assert machine.cores >= 1
    assert machine.load >= 0
    assert 0 < machine.memory_available <= machine.memory


def lay(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        pytest.param(
            "0::/pod/box",
            {"cpu.max": "max 100000", "pod/cpu.max": "150000 100000", "pod/box/cpu.max": "400000 100000"},
            Limits(cores=1.5),
            id="the lowest of the groups around",
        ),
        pytest.param("0::/", {"cpu.max": "50000 100000"}, Limits(cores=0.5), id="half a core"),
        pytest.param("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, Limits(), id="none"),
        pytest.param("0::/../..", {"cpu.max": "200000 100000"}, Limits(cores=2.0), id="outside"),
        pytest.param(
            "0::/box",
            {
                "box/memory.max": "1000000",
                "box/memory.current": "700000",
                "box/memory.stat": "anon 5\ninactive_file 200000\n",
            },
            Limits(memory=1_000_000, memory_available=500_000),
            id="caches are given up",
        ),
        pytest.param(
            "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/x",
            {
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "2000000",
                "memory/memory.usage_in_bytes": "500000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100000",
            },
            Limits(cores=3.0, memory=2_000_000, memory_available=1_600_000),
            id="version 1, its own group as the root",
        ),
        pytest.param(
            "4:memory:/\n2:cpu:/",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            Limits(),
            id="version 1, none",
        ),
        pytest.param("", {}, Limits(), id="no groups at all"),
    ],
)
def test_what_a_container_may_have_is_what_there_is(
    tmp_path: Path, own: str, files: dict[str, str], expected: Limits
) -> None:
    lay(tmp_path, {"own": own})
    lay(tmp_path / "cgroup", files)

    assert limits(tmp_path / "own", tmp_path / "cgroup") == expected


@pytest.mark.parametrize(("share", "expected"), [(None, 1), (0.1, 1), (1.5, 1), (64.0, 1)])
def test_no_more_cores_count_than_we_may_run_on(share: float | None, expected: int) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores(Limits(cores=share)) == expected
        assert default_capacity() == 8
    finally:
        os.sched_setaffinity(0, allowed)


def test_as_many_cores_count_as_a_container_gets_time() -> None:
    allowed = len(os.sched_getaffinity(0))

    shares = (0.2, 1.0, 1.4, float(allowed), 1000.0)
    assert [cores(Limits(cores=share)) for share in shares] == [1, 1, 1, allowed, allowed]
