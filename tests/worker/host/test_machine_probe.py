"""The accelerators of a machine are found in the files of its kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_worker.host.machine import Machine
from streamfleet_worker.host.machine_probe import MachineProbe

CARD = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
}
SOUND = {
    "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
}
OTHER = {
    "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
}
ORIN = {"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"}


@pytest.mark.parametrize(
    ("files", "machine"),
    [
        ({}, Machine(architecture="x86_64")),
        (OTHER, Machine(architecture="x86_64")),
        (SOUND, Machine(architecture="x86_64")),
        (CARD, Machine(architecture="x86_64", gpu=True)),
        (
            CARD | {"dev/nvidia0": "", "dev/nvidiactl": ""},
            Machine(architecture="x86_64", gpu=True, driver=True),
        ),
        ({"dev/nvidia0": ""}, Machine(architecture="x86_64", gpu=True, driver=True)),
        ({"dev/nvidiactl": ""}, Machine(architecture="x86_64")),
        ({"proc/driver/nvidia/version": "NVRM"}, Machine(architecture="x86_64", gpu=True)),
        (ORIN, Machine(architecture="x86_64", jetson=True)),
        (ORIN | {"dev/nvhost-gpu": ""}, Machine(architecture="x86_64", jetson=True, driver=True)),
        (
            {"proc/driver/nvidia/gpus/0000:01:00.0/information": "IRQ: \t 5\nModel: \t NVIDIA A2\n"},
            Machine(architecture="x86_64", accelerator="NVIDIA A2"),
        ),
        (
            ORIN | {"proc/device-tree/model": "NVIDIA Jetson Orin Nano\0"},
            Machine(architecture="x86_64", jetson=True, accelerator="NVIDIA Jetson Orin Nano"),
        ),
        ({"proc/device-tree/model": "Raspberry Pi 5\0"}, Machine(architecture="x86_64")),
        ({"etc/nv_tegra_release": "# R36"}, Machine(architecture="x86_64", jetson=True)),
        (ORIN | {"dev/nvidia0": ""}, Machine(architecture="x86_64", jetson=True, driver=True)),
    ],
)
def test_a_machine_is_what_its_kernel_shows(tmp_path: Path, files: dict[str, str], machine: Machine) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    assert MachineProbe(tmp_path, "x86_64").read() == machine


def test_this_machine_can_be_read() -> None:
    assert MachineProbe().read().architecture
