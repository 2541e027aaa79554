"""The accelerators of a machine, whatever software is installed on it. Pure: `machine_probe` reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the kernel shows of a machine or container."""

    architecture: str  # as `uname -m`: x86_64, aarch64
    gpu: bool = False  # a graphics card of NVIDIA on its bus
    jetson: bool = False  # a Jetson, whose GPU is a part of the processor
    driver: bool = False  # NVIDIA's driver is loaded, and its devices are visible here
    accelerator: str = ""  # its name; "" if the kernel does not show one

    @property
    def has_accelerator(self) -> bool:
        """Whether models are expected to run on something other than the CPU."""
        return self.gpu or self.jetson
