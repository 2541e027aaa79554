"""What is special to a Jetson: its software, its power mode, and containers on it. `root` stands for /."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from streamfleet_core.runtime.finding import Finding, ok, warning
from streamfleet_worker.host.kernel_files import text

_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
_JETPACKS = {32: "4", 35: "5", 36: "6", 38: "7", 39: "7"}  # by major version of L4T
_OLDEST = 35
_MODE = re.compile(r"NV Power Mode: *([\w .+-]+)")
_TIMEOUT = 5.0  # seconds
_FULL = "MAXN"


def power_mode(timeout: float = _TIMEOUT) -> str | None:
    """What `nvpmodel -q` prints; None if there is no such program, or it does not work."""
    if (program := shutil.which("nvpmodel")) is None:
        return None
    try:
        done = subprocess.run(
            [program, "-q"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def check_release(root: Path) -> Finding:
    """Which JetPack is installed?"""
    name, path = "jetpack", root / "etc/nv_tegra_release"
    found = _RELEASE.search(text(path))
    if found is None:
        remedy = "if this is a container, mount it: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        return warning(name, "this is a Jetson, and /etc/nv_tegra_release does not tell its L4T", remedy)
    major = int(found[1])
    jetpack = f" (JetPack {_JETPACKS[major]})" if major in _JETPACKS else ""
    shown = f"L4T {major}.{found[2]}{jetpack}"
    if major < _OLDEST:
        return warning(name, f"{shown} is older than current packages expect", "install a newer JetPack")
    return ok(name, shown)


def check_power_mode(printed: str | None) -> Finding:
    """Is the board allowed its full power? `printed`: by `nvpmodel -q`."""
    name = "power mode"
    found = _MODE.search(printed or "")
    if found is None:
        return warning(name, "nvpmodel does not tell it", "on the host, not in a container: sudo nvpmodel -q")
    mode = found[1].strip()
    if not mode.startswith(_FULL):
        remedy = "if power supply and cooling allow it: sudo nvpmodel -m 0, the highest mode of most boards"
        return warning(name, f"{mode} limits the clocks", remedy)
    return ok(name, mode)


def check_kmod(root: Path, which: Callable[[str], str | None] = shutil.which) -> Finding:
    """Libraries of a Jetson call `lsmod` in a container, and do not find their GPU without it."""
    name = "kmod"
    if not in_container(root):
        return ok(name, "not in a container")
    if which("lsmod") is None:
        remedy = "in the image: apt-get install --no-install-recommends kmod"
        return warning(
            name, "lsmod is missing, and libraries of NVIDIA look for their driver with it", remedy
        )
    return ok(name, "lsmod is installed")


def in_container(root: Path) -> bool:
    """Whether this is a container of Docker, Podman or containerd."""
    groups = text(root / "proc/1/cgroup")
    files = (root / ".dockerenv", root / "run/.containerenv")
    return any(path.exists() for path in files) or "docker" in groups or "kubepods" in groups
