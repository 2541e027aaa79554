"""All sensors of a machine, and how long throttling counts."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from streamfleet_core.protocol.status import DeviceStat
from streamfleet_worker.host.nvml import GpuReading, Nvml
from streamfleet_worker.host.sensors import HOLD, Readings, Sensors, SensorThread
from tests.fakes.kernel_files import lay
from tests.fakes.patience import PATIENCE

COUNTER = "sys/class/hwmon/hwmon3/oc1_event_cnt"
WEAK = "the power supply is too weak for the load (over-current)"


class Gpus(Nvml):
    """GPUs that tell this."""

    def __init__(self, *readings: GpuReading) -> None:
        super().__init__()
        self.readings = readings

    def read(self) -> tuple[GpuReading, ...]:
        return self.readings


def test_throttling_counts_for_a_minute_after_its_last_sign(tmp_path: Path) -> None:
    sensors = Sensors(tmp_path, root=lay(tmp_path, {COUNTER: "4\n"}))

    found = []
    for now, count in ((0.0, "4"), (5.0, "5"), (10.0, "5"), (5.0 + HOLD, "5"), (100.0, "6")):
        lay(tmp_path, {COUNTER: count})
        readings = sensors.read(now)
        found.append((readings.throttled, readings.throttle_reason))

    assert found == [(False, ""), (True, WEAK), (True, WEAK), (False, ""), (True, WEAK)]


def test_a_machine_without_sensors_has_a_disk(tmp_path: Path) -> None:
    found = Sensors(tmp_path, root=tmp_path).read(0.0)

    assert found == Readings(disk=found.disk, disk_available=found.disk_available)
    assert 0 < found.disk_available <= found.disk
    assert Sensors(tmp_path / "none", root=tmp_path).read(0.0) == Readings()


def test_the_figures_of_a_gpu_are_the_devices(tmp_path: Path) -> None:
    lay(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "41000"})
    hot = GpuReading(temperature=83.0, load=0.9, power_watts=70.5, throttle_reason="the GPU is too hot")
    mad = GpuReading(temperature=4e9, load=42.0, power_watts=4e6, throttle_reason="")

    found = Sensors(tmp_path, root=tmp_path, nvml=Gpus(mad, hot, GpuReading())).read(0.0)

    assert (found.temperature, found.gpu_load, found.gpu_power_watts) == (83.0, 0.9, 70.5)
    assert (found.throttled, found.throttle_reason) == (True, "the GPU is too hot")


def test_the_thread_reads_at_once_and_stops(tmp_path: Path) -> None:
    read = threading.Event()

    class Told(Sensors):
        def read(self, now: float) -> Readings:
            try:
                return super().read(now)
            finally:
                read.set()

    thread = SensorThread(Told(tmp_path, root=tmp_path))
    before = thread.latest()
    thread.start()
    assert read.wait(PATIENCE)
    thread.stop()
    thread._thread.join(PATIENCE)

    assert before == Readings()
    assert thread.latest().disk > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 200.5),
        ("temperature", -101),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("throttled", 1),
        ("gpu_load", 1.5),
        ("gpu_power_watts", float("inf")),
        ("disk", -1),
        ("throttle_reason", "r" * 301),
    ],
)
def test_a_device_cannot_claim_what_no_sensor_shows(name: str, value: object) -> None:
    stat = {"device": "d", "session": "", "capacity": 1, "pipelines": 0, "engines": [], "at": 0.0}
    msgspec.msgpack.decode(msgspec.msgpack.encode(stat), type=DeviceStat)

    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({**stat, name: value}), type=DeviceStat)
