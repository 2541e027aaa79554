"""The locks have a wheel of each package for a Jetson: aarch64, and the Python of its JetPack.

It asks the package registry and installs nothing: `make locks-check` runs it, and a plain `pytest` does not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import compose
from tests.fakes.ports_and_folders import ROOT
from tools.create_environment import environment

UV = Path(sys.executable).parent / "uv"
# What the image of a worker installs, with either ONNX Runtime; the rest of a fleet; and one without images.
LOCKS = [
    *("compose/locks/build.txt", "compose/locks/worker-cpu.txt", "compose/locks/worker-jetson.txt"),
    *("compose/locks/broker.txt", "compose/locks/api.txt", "requirements-run.lock"),
]


@pytest.mark.parametrize("python", sorted(compose.JETPACKS.values()))
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_resolves_for_a_jetson(lock: str, python: str, tmp_path: Path) -> None:
    # The oldest C library that wheels for aarch64 are built for today: older than that of both JetPacks.
    platform = ["--python-platform", "aarch64-manylinux_2_28", "--python-version", python]
    fixed = ["--only-binary", ":all:", "--require-hashes", "--requirement", str(ROOT / lock)]
    command = [str(UV), "pip", "install", "--dry-run", "--target", str(tmp_path / "none"), *platform, *fixed]

    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr
