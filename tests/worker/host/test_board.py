"""Devices of one kind have one name, which says what an INT8 model depends on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamfleet_core.protocol.limits import BOARD_PATTERN, whole
from streamfleet_worker.host.board import Cpu, board_name, parse_cpu, read_board
from streamfleet_worker.host.machine import Machine

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
cpu MHz\t\t: 1995.312
flags\t\t: fpu avx avx2 avx512f avx512_vnni

processor\t: 1
model name\t: another
"""
OLD = "model name\t: Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz\nflags\t\t: fpu sse4_1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
PC, BOARD = Machine(architecture="x86_64"), Machine(architecture="aarch64")


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "name", "adds"),
    [
        (PC, INTEL, "Intel Xeon Gold 6338 CPU, avx512_vnni", True),
        (PC, OLD, "Intel Core2 Duo CPU E8400", False),
        (BOARD, ARM, "ARM 0x41 0xd0b, asimddp", True),
        (PC, "", "x86_64", False),
        (
            Machine(architecture="x86_64", gpu=True, accelerator="NVIDIA A2"),
            INTEL,
            "NVIDIA A2, Intel Xeon Gold 6338 CPU, avx512_vnni",
            True,
        ),
    ],
)
def test_a_board_is_named_by_what_inference_depends_on(
    machine: Machine, cpuinfo: str, name: str, adds: bool
) -> None:
    cpu = parse_cpu(cpuinfo)

    assert board_name(machine, cpu) == name
    assert cpu.adds_without_overflow is adds


@pytest.mark.parametrize("name", ["Ω" * 500, "a" * 500, "\0\x1b[31m red", ""])
def test_whatever_the_kernel_says_the_name_can_be_sent(name: str) -> None:
    assert re.match(whole(BOARD_PATTERN), board_name(PC, Cpu(name)))


def test_it_is_read_from_the_files_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(INTEL)

    assert read_board(tmp_path) == "Intel Xeon Gold 6338 CPU, avx512_vnni"
    assert read_board(tmp_path / "nothing")
