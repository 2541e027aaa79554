"""The figures of NVIDIA's library, which a fake has: no machine of the tests has a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from streamfleet_worker.host.nvml import GpuReading, Nvml, throttle_reason


@dataclass
class FakeLibrary:
    """Answers as libnvidia-ml.so.1 does: 0 for success, and values through pointers."""

    count: int = 1
    broken: tuple[str, ...] = ()
    starts: int = 0

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVIDIA's name
        self.starts += 1
        return 9 if "init" in self.broken else 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index.value + 1
        return 15 if "handle" in self.broken else 0

    def nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, degrees: Any) -> int:  # noqa: N802
        degrees._obj.value = 60 + handle.value
        return 3 if "temperature" in self.broken else 0

    def nvmlDeviceGetPowerUsage(self, _handle: Any, milliwatts: Any) -> int:  # noqa: N802
        milliwatts._obj.value = 70_500
        return 3 if "power" in self.broken else 0

    def nvmlDeviceGetUtilizationRates(self, _handle: Any, used: Any) -> int:  # noqa: N802
        used._obj.gpu = 85
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: Any, bits: Any) -> int:  # noqa: N802
        bits._obj.value = 0x05
        return 0


def test_each_gpu_is_read() -> None:
    library = FakeLibrary(count=2)
    nvml = Nvml(lambda _name: library)

    readings = [nvml.read(), nvml.read()]

    first = GpuReading(temperature=61, load=0.85, power_watts=70.5, throttle_reason="")
    second = GpuReading(temperature=62, load=0.85, power_watts=70.5, throttle_reason="")
    assert readings == [(first, second)] * 2
    assert library.starts == 1


def test_what_a_gpu_does_not_tell_is_unknown() -> None:
    library = FakeLibrary(broken=("temperature", "power"))

    assert Nvml(lambda _name: library).read() == (GpuReading(load=0.85, throttle_reason=""),)
    assert Nvml(lambda _name: FakeLibrary(broken=("handle",))).read() == (GpuReading(),)


def test_a_driver_that_does_not_work_is_asked_once() -> None:
    library = FakeLibrary(broken=("init",))
    nvml = Nvml(lambda _name: library)

    assert [nvml.read(), nvml.read()] == [(), ()]
    assert library.starts == 1


def test_without_the_library_there_is_no_gpu() -> None:
    assert Nvml().read() == ()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0, ""),
        (0x01, ""),
        (0x04, ""),
        (0x20, "the GPU is too hot"),
        (0x48, "the GPU is too hot"),
        (0x88, "the power supply of the GPU is too weak"),
        (0x08, "the hardware of the GPU slows it down"),
    ],
)
def test_only_heat_and_a_weak_supply_are_throttling(bits: int, expected: str) -> None:
    assert throttle_reason(bits) == expected
