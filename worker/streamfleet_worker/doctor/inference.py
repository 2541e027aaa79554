"""Runs a model a few times as an engine would, in a process of its own, which a broken driver may end.

python -m streamfleet_worker.doctor.inference FILE      writes an `Inference` as JSON
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_core.runtime.finding import Finding, error, ok, warning
from streamfleet_worker.host.machine_probe import MachineProbe

NAME = "inference"
TIMEOUT = 120.0  # seconds; the first start of CUDA on a Jetson takes half a minute
_RUNS = 10
_SHOWN = 200  # characters of an error
_REINSTALL = "install ONNX Runtime again: pip install --force-reinstall 'streamfleet[worker,cpu]' (or cuda)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What a few runs of a model have shown."""

    provider: str  # that ran it, in the words of ONNX Runtime
    load_time: float  # seconds, with the first runs
    run_time: float  # seconds, the median
    missing: MissingAccelerator | None  # why not on the accelerator that is expected here
    awaits_plan: bool = False  # TensorRT would run it, when a worker has built its plan


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there were none."""

    reason: str


def attempt(model: Path, timeout: float = TIMEOUT) -> Inference | Failure:
    """Run a model in a process of its own."""
    command = [sys.executable, "-m", "streamfleet_worker.doctor.inference", str(model)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return Failure(f"it did not end within {timeout:.0f} s")
    except OSError as exc:
        return Failure(str(exc.strerror))
    if done.returncode < 0:
        return Failure(f"signal {-done.returncode} ended it")
    if done.returncode:
        *_, last = ["it said nothing", *done.stderr.decode("utf-8", "replace").strip().splitlines()]
        return Failure(last[-_SHOWN:])
    try:
        return msgspec.json.decode(done.stdout, type=Inference)
    except msgspec.DecodeError as exc:
        return Failure(f"it wrote something else: {exc}")


def check(found: Inference | Failure) -> Iterator[Finding]:
    """Which provider runs models here, and how fast?"""
    if isinstance(found, Failure):
        yield error(NAME, f"a model does not run here: {found.reason}", _REINSTALL)
        return
    if found.awaits_plan:
        later = "TensorRT, for which a worker first builds a plan of each model, for minutes"
        yield ok("provider", f"{later}; until then {found.provider}")
    elif found.missing is None:
        yield ok("provider", found.provider)
    else:
        yield warning("provider", f"{found.provider}: {found.missing.reason}", found.missing.remedy)
    rate = 1 / found.run_time if found.run_time else 0.0
    times = f"{found.run_time * 1000:.1f} ms, which is {rate:.0f} frames per second; loaded in"
    yield ok(NAME, f"the demo's model on {found.provider}: {times} {found.load_time:.1f} s")


def run(model: Path, probe: MachineProbe) -> Inference:
    """Load a model and run it. Raises: BadModel, OSError, one of `run_errors`."""
    # Imported here, so that the checks run where numpy or ONNX Runtime is missing.
    from streamfleet_core.models.digest import digest_of
    from streamfleet_core.models.model_folder import read_file
    from streamfleet_core.models.model_validation import validate_model
    from streamfleet_worker.engine.accelerators.choice import Wanted
    from streamfleet_worker.engine.loading import load, offered
    from streamfleet_worker.ipc.shared_memory import create_memory, map_slots

    file = read_file(model)
    manifest = validate_model(file.weights, digest_of(file.weights), family=file.family, labels=file.labels)
    machine = probe.read()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as plans:  # an empty one: to build a plan would take minutes
        loaded = load(
            str(file.weights),
            manifest,
            wanted=Wanted(),
            machine=machine,
            offer=offered(machine),
            plans=Path(plans),
            max_batch=1,
        )
    load_time = time.perf_counter() - began
    layout, runner = loaded.model.layout(1), loaded.model.runner()
    slots = map_slots(create_memory(layout), layout)
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        runner.run(slots)
        times.append(time.perf_counter() - began)
    return Inference(
        provider=loaded.model.provider,
        load_time=load_time,
        run_time=statistics.median(times),
        missing=loaded.missing,
        awaits_plan=loaded.plan is not None,
    )


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(run(Path(sys.argv[1]), MachineProbe())))
