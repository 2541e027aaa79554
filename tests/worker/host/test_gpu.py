"""Load and power of a Jetson's GPU, as its kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_worker.host.gpu import GpuStats, read_jetson_gpu
from tests.fakes.kernel_files import lay

CHIP = "sys/class/hwmon/hwmon2"
POWER = {
    f"{CHIP}/name": "ina3221\n",
    f"{CHIP}/in1_label": "VDD_IN\n",
    f"{CHIP}/in1_input": "19000\n",
    f"{CHIP}/curr1_input": "900\n",
    f"{CHIP}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{CHIP}/in2_input": "19000\n",
    f"{CHIP}/curr2_input": "500\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, GpuStats()),
        ({"sys/devices/gpu.0/load": "425\n"}, GpuStats(load=0.425)),
        ({"sys/devices/platform/gpu.0/load": "1000\n"}, GpuStats(load=1.0)),
        ({"sys/devices/gpu.0/load": "-5\n"}, GpuStats()),
        (POWER, GpuStats(power=9.5)),
        (POWER | {f"{CHIP}/name": "coretemp"}, GpuStats()),
        (POWER | {f"{CHIP}/curr2_input": ""}, GpuStats()),
    ],
)
def test_load_and_power_are_read(tmp_path: Path, files: dict[str, str], expected: GpuStats) -> None:
    assert read_jetson_gpu(lay(tmp_path, files)) == expected
