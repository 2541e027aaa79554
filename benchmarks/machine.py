"""The environment of a measurement: machine, versions and date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_PACKAGES = ("streamfleet", "onnxruntime", "opencv-python", "pyzmq", "numpy", "starlette", "uvicorn")


def about() -> dict[str, Any]:
    """Return everything that is necessary to compare two results."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_mb": _memory(),
            "kernel": platform.release(),
            "load_average": [round(load, 2) for load in os.getloadavg()],  # near 0 if the machine was idle
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
            "commit": commit(),
        },
    }


def caption(known: dict[str, Any]) -> str:
    """Return the caption of a chart."""
    machine, versions = known["machine"], known["versions"]
    return (
        f"{known['date'][:16].replace('T', ' ')} · {machine['cpu']}, {machine['cores']} cores · "
        f"Python {versions['python']} · ONNX Runtime {versions['onnxruntime']} · {versions['commit'][:12]}"
    )


def _cpu_model() -> str:
    """Return the kernel's name of the CPU, or the architecture: ARM kernels give no name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit, and whether the working tree has changes."""
    try:
        found = _git("rev-parse", "HEAD")
        return found + (" with changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
