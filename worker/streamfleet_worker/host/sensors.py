"""The sensors of the machine, and the thread that reads them: a disk or a driver may block.

not throttled ──a cooling device is active, or a counter rises──▶ throttled
throttled ──a minute without──▶ not throttled
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from streamfleet_worker.host.gpu import read_jetson_gpu
from streamfleet_worker.host.heat import (
    COLDEST,
    HOTTEST,
    Throttling,
    read_temperature,
    read_throttling,
    reason,
)
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.host.nvml import GpuReading, Nvml

logger = logging.getLogger(__name__)

HOLD = 60.0  # seconds that throttling counts after its last sign, so that it does not flicker
_INTERVAL = 5.0  # seconds
_MOST_POWER = 10_000.0  # watts of a GPU; what is above is no measurement
_OLD = 30.0  # seconds after which a reading is no longer shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """All sensors at one moment; None: unknown."""

    temperature: float | None = None  # °C of the hottest zone
    throttled: bool | None = None
    throttle_reason: str = ""
    gpu_load: float | None = None  # 0..1
    gpu_power_watts: float | None = None
    disk: int = 0  # bytes of the file system of the data directory; 0: unknown
    disk_available: int = 0  # bytes


class Sensors:
    """Reads all sensors. Only one thread may use it. `root` stands for /."""

    def __init__(self, data_dir: Path, *, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        self._data_dir = data_dir
        self._root = root
        machine = MachineProbe(root).read()
        self._nvml = nvml or (Nvml() if machine.gpu and machine.driver else None)
        self._before = Throttling()
        self._sign: tuple[float, str] | None = None  # of throttling: the last one, and its reason

    def read(self, now: float) -> Readings:
        """Read the current values. `now`: monotonic seconds."""
        gpus = self._nvml.read() if self._nvml is not None else ()
        jetson = read_jetson_gpu(self._root)
        throttled, why = self._throttled(gpus, now)
        disk, available = _disk(self._data_dir)
        return Readings(
            temperature=_highest([read_temperature(self._root), *(each.temperature for each in gpus)]),
            throttled=throttled,
            throttle_reason=why,
            gpu_load=_highest([jetson.load, *(each.load for each in gpus)], least=0.0, most=1.0),
            gpu_power_watts=_total([jetson.power, *(each.power_watts for each in gpus)]),
            disk=disk,
            disk_available=available,
        )

    def _throttled(self, gpus: tuple[GpuReading, ...], now: float) -> tuple[bool | None, str]:
        kernel, before = read_throttling(self._root), self._before
        self._before = kernel
        of_gpus = [each.throttle_reason for each in gpus if each.throttle_reason is not None]
        why = reason(before, kernel) or next(filter(None, of_gpus), "")
        if why:
            self._sign = now, why
        if self._sign is not None and now - self._sign[0] < HOLD:
            return True, self._sign[1]
        return (False if kernel.is_known or of_gpus else None), ""


class SensorThread:
    """Reads the sensors every few seconds."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._stopped = threading.Event()
        self._last: tuple[float, Readings] = float("-inf"), Readings()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)

    def start(self) -> None:
        """Start the thread, which reads at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current reading. Does not wait."""
        self._stopped.set()

    def latest(self) -> Readings:
        """The last readings; empty ones while the thread hangs."""
        at, readings = self._last
        return readings if time.monotonic() - at < _OLD else Readings()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._last = time.monotonic(), self._sensors.read(time.monotonic())
            self._stopped.wait(_INTERVAL)


def _highest(found: Iterable[float | None], *, least: float = COLDEST, most: float = HOTTEST) -> float | None:
    return max((each for each in found if each is not None and least <= each <= most), default=None)


def _total(found: Iterable[float | None]) -> float | None:
    known = [each for each in found if each is not None and 0 <= each <= _MOST_POWER]
    return round(sum(known), 3) if known else None


def _disk(folder: Path) -> tuple[int, int]:
    """The size of a file system and what is available of it, in bytes; zeros: unknown."""
    try:
        stats = os.statvfs(folder)
    except OSError:
        return 0, 0
    return stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize
