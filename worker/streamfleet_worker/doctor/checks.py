"""All checks of this machine, in the order in which they are shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from streamfleet_core.runtime.finding import Finding, ok
from streamfleet_core.runtime.private_file_check import check_private_files, private_files
from streamfleet_worker.doctor import board, clock, decoders, heat, inference, packages, resources
from streamfleet_worker.host.cgroup import limits
from streamfleet_worker.host.clock import read_clock
from streamfleet_worker.host.heat import read_throttling
from streamfleet_worker.host.host_stats import read_host_stats
from streamfleet_worker.host.machine_probe import MachineProbe


def check_machine(data_dir: Path, *, model: Path | None, root: Path = Path("/")) -> Iterator[Finding]:
    """Check this machine. `model`: an ONNX file that is run; `root`: the folder that stands for /."""
    machine = MachineProbe(root).read()
    versions = packages.installed()
    runnable = packages.check_packages(versions)
    # On other processors the wheel with CUDA has no kernels for most GPUs.
    has_wheel = machine.gpu and machine.architecture == "x86_64"
    yield packages.check_python()
    yield runnable
    yield from packages.check_runtime(versions, gpu=has_wheel)
    if runnable.severity != "ok" or not any(name in versions for name in packages.RUNTIMES):
        yield ok(inference.NAME, "skipped: it needs the packages above")
    elif model is None:
        yield ok(inference.NAME, "skipped: --model FILE runs one")
    else:
        yield from inference.check(inference.attempt(model))
    yield decoders.check(jetson=machine.jetson, gpu=machine.gpu)
    if machine.jetson:
        yield board.check_release(root)
        yield board.check_power_mode(board.power_mode())
        yield board.check_kmod(root)
    yield heat.check_temperature(root)
    yield heat.check_throttling(read_throttling(root))
    yield heat.check_clocks(root)
    yield clock.check(read_clock(), time.time())
    yield resources.check_memory(read_host_stats().memory_available, limits())
    yield resources.check_descriptors(resources.descriptors())
    yield resources.check_shared_memory()
    yield from resources.check_disk(data_dir)
    yield from check_private_files(private_files(data_dir))
