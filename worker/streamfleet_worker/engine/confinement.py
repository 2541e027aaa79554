"""What a model may take of the machine: memory, processor time, no privileges. A process confines itself.

A model is a program of somebody else's. Its file may be small and its needs without end, so each engine is a
process of its own, which the kernel stops before others notice. (S21)
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
_FLOOR = 512 * _MIB  # bytes that any model may take
# ONNX Runtime holds four copies of the weights while it loads, and those of 8 bits as floats besides.
_OF_WEIGHTS = 12
_OF_INPUT = 128  # detectors hold a few dozen times their input while they run
_OF_THREAD = 16 * _MIB  # bytes: its stack, and what its allocator keeps
_OF_DRIVER = 16 * 1024 * _MIB  # bytes that the libraries of a GPU may map
_FLOAT = 4  # bytes


def confine(manifest: Manifest, *, runs: int, accelerated: bool) -> None:
    """Limit this process to what such a model needs for so many runs at a time. Raises: OSError."""
    forbid_new_privileges()
    limit_memory(memory_for(manifest, runs=runs) + (_OF_DRIVER if accelerated else 0))


def memory_for(manifest: Manifest, *, runs: int) -> int:
    """Bytes that such a model may take."""
    input_size = 3 * manifest.input_width * manifest.input_height * _FLOAT
    return _FLOOR + _OF_WEIGHTS * manifest.weights.size + (_OF_INPUT * input_size + _OF_THREAD) * runs


def limit_memory(memory: int) -> None:
    """From now on this process may take so many bytes in addition to what it has."""
    # Of data, not of addresses: drivers of GPUs reserve those by the terabyte.
    limit = _data_now() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


@contextlib.contextmanager
def limited_time(seconds: int, *, times: int = 1) -> Iterator[None]:
    """What happens within may take so much processor time, or the kernel ends the process by SIGXCPU."""
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
    """Bytes of data of this process, as the kernel counts them against the limit."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
