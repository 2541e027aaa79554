"""What the machine has: its GPU, the driver, and the doctor's findings."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from streamfleet_api.local.demo import demo_model
from streamfleet_core.runtime.finding import Finding, decode
from streamfleet_worker.engine.accelerators.choice import CPU, CUDA, TENSORRT
from streamfleet_worker.engine.tensorrt.library import installed_version
from streamfleet_worker.host.machine import Machine
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.host.nvml import Nvml
from tests.gpu.outcome import Outcome, failed, ok, skipped
from tests.gpu.setting import Setting

_ASKED = 15.0  # seconds for nvidia-smi


def driver(_: Setting) -> Outcome:
    """Is there a GPU with its driver?"""
    machine = MachineProbe().read()
    if not has_gpu(machine):
        return failed(f"expected {EXPECTED}, got {described(machine)}")
    readings = Nvml().read()
    figures: dict[str, float | str | None] = {"driver and GPU": _smi() or _proc_version()}
    for number, reading in enumerate(readings):
        figures[f"GPU {number}, °C"] = reading.temperature
        figures[f"GPU {number}, W"] = reading.power_watts
    if not readings and not machine.jetson:
        return failed("expected NVML to tell of a GPU, got nothing", figures)
    return ok(described(machine), figures)


EXPECTED = "a machine with an NVIDIA GPU or a Jetson, and its driver"


def has_gpu(machine: Machine) -> bool:
    """Whether the steps that need a GPU can run."""
    return machine.has_accelerator and machine.driver


def described(machine: Machine) -> str:
    """The machine in a line."""
    kind = "a Jetson" if machine.jetson else "an NVIDIA GPU" if machine.gpu else "no NVIDIA GPU"
    loaded = "its driver is there" if machine.driver else "no driver"
    return f"{machine.architecture} with {kind}, {loaded}, Python {platform.python_version()}"


def _smi() -> str:
    """Driver and names of the GPUs, as nvidia-smi tells them; "" without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = ["--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    done = subprocess.run([program, *query], capture_output=True, text=True, timeout=_ASKED, check=False)
    return "; ".join((done.stdout or done.stderr).split("\n")).strip("; ")


def _proc_version() -> str | None:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.exists() else None


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def gpu_memory() -> float | None:
    """MB in use of the first GPU; None if its driver does not tell, as on a Jetson."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, memory = ctypes.c_void_p(), _Memory()
    if (
        library.nvmlInit_v2()
        or library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(handle))
        or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    ):
        return None
    return float(memory.used) / 1000**2


def doctor(setting: Setting) -> Outcome:
    """What does `streamfleet-worker doctor` say, with a model?"""
    model = setting.folder / "demo.onnx"
    model.write_bytes(demo_model())
    command = [sys.executable, "-m", "streamfleet_worker", "doctor", "--json"]
    command += ["--data-dir", str(setting.folder / "doctor"), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, timeout=setting.seconds_left(), check=False)
    if not done.stdout:
        return failed(f"the doctor said nothing, and ended with {done.returncode}: {done.stderr.decode()}")
    return judged(decode(done.stdout), gpu=setting.gpu)


def judged(findings: Sequence[Finding], *, gpu: bool) -> Outcome:
    """Does a model run, on the GPU if there is one? What else was found is shown. Pure."""
    by_name = {each.name: each for each in findings}
    figures: dict[str, float | str | None] = {
        f"{each.severity}, {each.name}": f"{each.found} → {each.remedy}"
        for each in findings
        if each.severity != "ok"
    }
    provider, inference = by_name.get("provider"), by_name.get("inference")
    if provider is None or inference is None or inference.severity != "ok":
        found = inference.found if inference else "no finding"
        return failed(f"expected a model that runs, got {found}", figures)
    figures["inference"] = inference.found
    expected = (CUDA, TENSORRT) if gpu else (CPU,)
    # Without a GPU, an ONNX Runtime with CUDA says that it runs models on the CPU.
    if not provider.found.startswith(expected) or (gpu and provider.severity != "ok"):
        return failed(f"expected a model on {' or '.join(expected)}, got {provider.found}", figures)
    return ok(provider.found, figures)


def tensorrt(setting: Setting) -> Outcome:
    """Is TensorRT's Python module there?"""
    version = installed_version()
    if version:
        return ok(f"TensorRT {version}")
    return skipped("the module tensorrt is not installed, or does not load: --tensorrt installs it from PyPI")
