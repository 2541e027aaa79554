"""The name of a kind of device: two with the same name run the same file of a model equally well.

It consists of the accelerator, if there is one, the processor, and the fastest instructions of it that
inference uses: an INT8 model that is exact with some of them loses numbers without them.

    python -m streamfleet_worker.host.board      writes the name of this machine's kind
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from streamfleet_core.protocol.limits import MAX_BOARD
from streamfleet_worker.host.machine import Machine
from streamfleet_worker.host.machine_probe import MachineProbe

# The fastest first, as /proc/cpuinfo names them.
_INSTRUCTIONS = (
    *("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "avx"),
    *("i8mm", "asimddp", "asimd", "neon"),
)
_WITHOUT_OVERFLOW = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
_MARKS = re.compile(r"\((?:R|TM|C)\)", re.IGNORECASE)
_UNSHOWN = re.compile(r"[^!-~]+")
_LONGEST = 262_144  # bytes of /proc/cpuinfo


@dataclass(frozen=True, slots=True)
class Cpu:
    """The first processor; all of them count as equal."""

    name: str = ""  # "" if the kernel does not show one
    instructions: str = ""  # of `_INSTRUCTIONS`; "" if it has none of them

    @property
    def adds_without_overflow(self) -> bool:
        """Whether it adds products of 8 bits without overflow: else weights of INT8 have 7 bits."""
        return self.instructions in _WITHOUT_OVERFLOW


def parse_cpu(text: str) -> Cpu:
    """Parse /proc/cpuinfo of x86 and ARM."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values.setdefault(key.strip().lower(), value.strip())
    flags = set((values.get("flags") or values.get("features") or "").split())
    part = f"{values.get('cpu implementer', '')} {values.get('cpu part', '')}".strip()
    name = values.get("model name") or values.get("hardware") or (f"ARM {part}" if part else "")
    return Cpu(name, next((each for each in _INSTRUCTIONS if each in flags), ""))


def board_name(machine: Machine, cpu: Cpu) -> str:
    """The name of a machine of this kind, in printable ASCII."""
    processor = _shown(_MARKS.sub("", cpu.name.partition("@")[0])) or machine.architecture
    parts = (_shown(machine.accelerator), processor, cpu.instructions)
    return ", ".join(part for part in parts if part)[:MAX_BOARD]


def _shown(text: str) -> str:
    return _UNSHOWN.sub(" ", text).strip()


def read_cpu(root: Path = Path("/")) -> Cpu:
    """Read the processor of this machine. What cannot be read is not there."""
    try:
        with (root / "proc/cpuinfo").open("rb") as file:
            return parse_cpu(file.read(_LONGEST).decode("ascii", "replace"))
    except OSError:
        return Cpu()


def read_board(root: Path = Path("/")) -> str:
    """Read the name of this machine's kind."""
    return board_name(MachineProbe(root, platform.machine()).read(), read_cpu(root))


if __name__ == "__main__":
    sys.stdout.write(read_board())
