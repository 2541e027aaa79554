"""Temperature and throttling of a machine, as its kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_worker.host.heat import Throttling, read_temperature, read_throttling, reason
from tests.fakes.kernel_files import lay

THERMAL = "sys/class/thermal"
CPU = {f"{THERMAL}/cooling_device0/type": "cpufreq-cpu0\n", f"{THERMAL}/cooling_device0/cur_state": "2\n"}
FAN = {f"{THERMAL}/cooling_device1/type": "pwm-fan\n", f"{THERMAL}/cooling_device1/cur_state": "3\n"}
CURRENT = {"sys/class/hwmon/hwmon3/oc1_event_cnt": "4\n", "sys/class/hwmon/hwmon3/oc3_event_cnt": "1\n"}
HOT = {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n"}
OVER_CURRENT = "the power supply is too weak for the load (over-current)"


@pytest.mark.parametrize(
    ("temperatures", "expected"),
    [
        ([], None),
        (["41500\n"], 41.5),
        (["41500\n", "63250\n", "50000\n"], 63.25),
        (["-12000\n"], -12.0),
        (["-256000\n", "38000\n"], 38.0),  # what an unpowered part of a Jetson shows
        (["nan\n", "", "38000\n"], 38.0),
        (["99999999\n"], None),
    ],
)
def test_the_hottest_zone_counts(tmp_path: Path, temperatures: list[str], expected: float | None) -> None:
    lay(tmp_path, {f"{THERMAL}/thermal_zone{n}/temp": each for n, each in enumerate(temperatures)})

    assert read_temperature(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Throttling()),
        (FAN, Throttling()),
        (CPU | FAN, Throttling(("cpufreq-cpu0",), {})),
        (CPU | {f"{THERMAL}/cooling_device0/cur_state": "0"}, Throttling((), {})),
        (CPU | {f"{THERMAL}/cooling_device0/cur_state": "-1"}, Throttling((), {})),
        (CURRENT, Throttling((), {OVER_CURRENT: 5})),
        (HOT | CURRENT, Throttling((), {OVER_CURRENT: 5, "the processor is too hot": 7})),
    ],
)
def test_what_slows_a_machine_down_is_read(
    tmp_path: Path, files: dict[str, str], expected: Throttling
) -> None:
    assert read_throttling(lay(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (Throttling(), Throttling(), ""),
        (Throttling((), {}), Throttling(("a", "b"), {}), "too hot: the kernel slows down a, b"),
        (Throttling((), {"weak": 1}), Throttling((), {"weak": 2}), "weak"),
        (Throttling((), {"weak": 2}), Throttling((), {"weak": 2}), ""),
        (Throttling((), {}), Throttling((), {"weak": 9}), ""),  # counted before we looked
    ],
)
def test_a_counter_that_rises_and_a_device_that_is_active_are_throttling(
    before: Throttling, now: Throttling, expected: str
) -> None:
    assert reason(before, now) == expected
