"""Looks for accelerators of NVIDIA in the files of the kernel. It loads no library and no driver."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

from streamfleet_worker.host.machine import Machine

_JETSON_RELEASE = "etc/nv_tegra_release"  # which containers usually lack
_DEVICE_TREE = "proc/device-tree/compatible"  # which containers have
_MODEL = "proc/device-tree/model"
_GPUS = "proc/driver/nvidia/gpus"
_TEGRA = b"nvidia,tegra"
_BUS = "sys/bus/pci/devices"
_NVIDIA = "0x10de"  # its number as a vendor of PCI devices
_DISPLAY = "0x03"  # the start of the class of graphics cards
_DEVICES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu/igpu0", "dxg")  # the last: of WSL


class MachineProbe:
    """Reads what a machine has. `root`: the folder that stands for /, so that tests can make machines."""

    def __init__(self, root: Path = Path("/"), architecture: str | None = None) -> None:
        self._root = root
        self._architecture = architecture or platform.machine()

    def read(self) -> Machine:
        """Read the current state. It never fails: what cannot be read is not there."""
        jetson = (self._root / _JETSON_RELEASE).exists() or _TEGRA in self._bytes(_DEVICE_TREE)
        devices = any(any((self._root / "dev").glob(pattern)) for pattern in _DEVICES)
        driver = (self._root / "proc/driver/nvidia/version").exists()
        return Machine(
            architecture=self._architecture,
            gpu=not jetson and (driver or devices or self._has_card()),
            jetson=jetson,
            driver=devices,
            accelerator=self._name(),
        )

    def _name(self) -> str:
        """The name of the first GPU, or of the Jetson."""
        with contextlib.suppress(OSError):
            for folder in sorted((self._root / _GPUS).iterdir()):
                for line in self._bytes(f"{_GPUS}/{folder.name}/information").splitlines():
                    if line.startswith(b"Model:"):
                        return line.removeprefix(b"Model:").strip().decode("ascii", "replace")
        model = self._bytes(_MODEL).rstrip(b"\0").decode("ascii", "replace")
        return model if "NVIDIA" in model else ""

    def _has_card(self) -> bool:
        with contextlib.suppress(OSError):
            for device in (self._root / _BUS).iterdir():
                where = f"{_BUS}/{device.name}"
                vendor, kind = self._bytes(f"{where}/vendor"), self._bytes(f"{where}/class")
                if vendor.strip() == _NVIDIA.encode() and kind.startswith(_DISPLAY.encode()):
                    return True
        return False

    def _bytes(self, name: str) -> bytes:
        try:
            with (self._root / name).open("rb") as file:
                return file.read(4096)
        except OSError:
            return b""
