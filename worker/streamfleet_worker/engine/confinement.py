"""Limits the resources of a model: memory, processor time, privileges. A process confines itself.

A model is an untrusted program. A small file may need unlimited resources, so each engine is a separate
process, which the kernel stops before it affects others. (S21)
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from streamfleet_core.protocol.values import Manifest
from streamfleet_core.runtime.process import forbid_new_privileges

_MIB = 1024**2
OF_DRIVER = 16 * 1024 * _MIB  # bytes that the libraries of a GPU may map
_FLOOR = 512 * _MIB  # bytes allowed for any model
# While loading, ONNX Runtime holds four copies of the weights, and 8-bit weights also as floats.
_OF_WEIGHTS = 12
_OF_INPUT = 128  # a running detector holds a few dozen times its input
_OF_THREAD = 16 * _MIB  # bytes: stack, and memory kept by the allocator
_FLOAT = 4  # bytes


def confine(manifest: Manifest, *, runs: int, accelerated: bool) -> None:
    """Limit this process to the needs of such a model with `runs` parallel runs. Raises: OSError."""
    forbid_new_privileges()
    # With several threads, the model may be loaded twice, and one more inference may run.
    sessions = 2 if runs > 1 else 1
    needed = memory_for(manifest, runs=runs + sessions - 1, sessions=sessions)
    limit_memory(needed + (OF_DRIVER if accelerated else 0))


def memory_for(manifest: Manifest, *, runs: int, sessions: int = 1) -> int:
    """The memory limit of such a model, in bytes, loaded `sessions` times."""
    input_size = 3 * manifest.input_width * manifest.input_height * _FLOAT
    return (
        _FLOOR + _OF_WEIGHTS * manifest.weights.size * sessions + (_OF_INPUT * input_size + _OF_THREAD) * runs
    )


def limit_memory(memory: int) -> None:
    """Limit the memory that this process may allocate from now on, in bytes."""
    # Limit data, not address space: GPU drivers reserve terabytes of addresses.
    limit = _data_now() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


@contextlib.contextmanager
def limited_time(seconds: int, *, times: int = 1) -> Iterator[None]:
    """Limit the processor time within the context: the kernel ends the process with SIGXCPU."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds * times
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _data_now() -> int:
    """The data size of this process in bytes, as the kernel counts it for the limit."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
