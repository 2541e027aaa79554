"""What the device's status says of its machine."""

from __future__ import annotations

from streamfleet_worker.machine import look, parse_memory

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
    machine = look()

    assert machine.cores >= 1
    assert machine.load >= 0
    assert 0 < machine.memory_available <= machine.memory
