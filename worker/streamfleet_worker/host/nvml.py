"""What the driver of NVIDIA tells of its GPUs, through its own library, `libnvidia-ml.so.1`.

The driver brings the library, so no package is needed. It is loaded at the first question. A call may block
for seconds: ask on a thread of its own.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

_LIBRARY = "libnvidia-ml.so.1"
_MOST = 16  # GPUs that are asked
# Bits of nvmlClocksThrottleReasons, in nvml.h. Idle clocks and the limit of power are none of them: every
# busy GPU reaches its limit.
_REASONS = {
    0x08: "the hardware of the GPU slows it down",
    0x20: "the GPU is too hot",
    0x40: "the GPU is too hot",
    0x80: "the power supply of the GPU is too weak",
}


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t, in percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU at one moment; None: it does not tell."""

    temperature: float | None = None  # °C
    load: float | None = None  # 0..1
    power_watts: float | None = None
    throttle_reason: str | None = None  # "" if it is not throttled


class Nvml:
    """The GPUs of this machine. `load`: loads a library by its name."""

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._load = load
        self._library: Any = None
        self._is_absent = False

    def read(self) -> tuple[GpuReading, ...]:
        """Read all GPUs; none without the library, or if it does not work."""
        library = self._opened()
        count = ctypes.c_uint()
        if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return ()
        return tuple(_reading(library, index) for index in range(min(count.value, _MOST)))

    def _opened(self) -> Any:
        if self._library is None and not self._is_absent:
            try:
                library = self._load(_LIBRARY)
                failed = library.nvmlInit_v2()
            except OSError as exc:
                failed, library = str(exc), None
            if failed:
                logger.info("no figures of the GPU: %s: %s", _LIBRARY, failed)
            self._is_absent = bool(failed)
            self._library = None if failed else library
        return self._library


def _reading(library: Any, index: int) -> GpuReading:
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)):
        return GpuReading()
    degrees, milliwatts = ctypes.c_uint(), ctypes.c_uint()
    used, bits = _Utilization(), ctypes.c_ulonglong()
    has_degrees = not library.nvmlDeviceGetTemperature(handle, ctypes.c_uint(0), ctypes.byref(degrees))
    has_power = not library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts))
    has_load = not library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(used))
    has_reasons = not library.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(bits))
    return GpuReading(
        temperature=float(degrees.value) if has_degrees else None,
        load=used.gpu / 100 if has_load else None,
        power_watts=milliwatts.value / 1000 if has_power else None,
        throttle_reason=throttle_reason(bits.value) if has_reasons else None,
    )


def throttle_reason(bits: int) -> str:
    """Why a GPU is throttled, by the bits of NVML; "" if it is not."""
    return next((reason for bit, reason in reversed(_REASONS.items()) if bits & bit), "")
