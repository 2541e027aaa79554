"""Python and the packages that a worker needs."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping

from streamfleet_core.runtime.finding import Finding, error, ok, warning

OLDEST = (3, 10)  # of Python
NEEDED = ("av", "numpy", "opencv-python", "scipy", "supervision")  # a worker's, without its ONNX Runtime
SAME_AS = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python")}
# The variants of ONNX Runtime all install the module `onnxruntime`.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def installed() -> dict[str, str]:
    """The version of each of these packages that is installed."""
    names = (*NEEDED, *RUNTIMES, *(other for others in SAME_AS.values() for other in others))
    return {name: version for name in names if (version := _version(name))}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Is this Python new enough?"""
    shown = ".".join(map(str, version))
    if version < OLDEST:
        expected = ".".join(map(str, OLDEST))
        return error(
            "python", f"{shown}, expected {expected} or newer", "make the environment with a newer one"
        )
    return ok("python", shown)


def check_packages(versions: Mapping[str, str]) -> Finding:
    """Are the packages of a worker installed?"""
    missing = [
        name for name in NEEDED if not any(each in versions for each in (name, *SAME_AS.get(name, ())))
    ]
    if missing:
        found = f"skipped: {', '.join(missing)} not installed, so no worker can run here"
        return warning("packages", found, "if one should: pip install 'streamfleet[worker,cpu]'")
    return ok("packages", ", ".join(f"{name} {versions[name]}" for name in NEEDED if name in versions))


def check_runtime(versions: Mapping[str, str], *, gpu: bool) -> Iterator[Finding]:
    """Is there exactly one ONNX Runtime, and the right one?

    `gpu`: the machine has a GPU of NVIDIA's, for which PyPI has a wheel.
    """
    name = "onnx runtime"
    variants = [each for each in RUNTIMES if each in versions]
    shown = " and ".join(f"{each} {versions[each]}" for each in variants)
    if not variants:
        remedy = "if a worker should run here: pip install 'streamfleet[worker,cpu]'"
        yield warning(name, "skipped: not installed, so no worker can run here", remedy)
    elif len(variants) > 1:
        best = "cuda" if gpu else "openvino" if "onnxruntime-openvino" in variants else "cpu"
        remedy = f"pip uninstall -y {' '.join(variants)} && pip install 'streamfleet[worker,{best}]'"
        yield error(name, f"{shown} overwrite each other", remedy)
    elif gpu and variants == ["onnxruntime"]:
        remedy = "pip uninstall -y onnxruntime && pip install 'streamfleet[worker,cuda]'"
        yield warning(name, f"{shown} runs models on the CPU, and this machine has an NVIDIA GPU", remedy)
    else:
        yield ok(name, shown)
