"""The few calls of CUDA's runtime that plans need, through ctypes: JetPack has the library, and no bindings.

Nothing else calls CUDA, so that a fake library can stand for it.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyHostToDevice, …DeviceToHost


class Cuda:
    """CUDA on the first GPU. Methods raise RuntimeError with its number and text; any thread may use it."""

    def __init__(self, library: Any = None) -> None:
        """Load the library. Raises: RuntimeError if there is none."""
        self._library = _load() if library is None else library

    def compute_capability(self) -> str:
        """The kind of GPU: 8.7 is that of Orin."""
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._check(self._library.cudaGetDevice(ctypes.byref(device)))
        for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
            self._check(self._library.cudaDeviceGetAttribute(ctypes.byref(value), attribute, device))
        return f"{major.value}.{minor.value}"

    def stream(self) -> int:
        """Create a stream: what is queued in it runs in order."""
        stream = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreate(ctypes.byref(stream)))
        return stream.value or 0

    def allocate(self, size: int) -> int:
        """Allocate memory of the GPU, and return its address. It is kept until the process ends."""
        address = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)))
        return address.value or 0

    def upload(self, numbers: np.ndarray[Any, Any], address: int, stream: int) -> None:
        """Queue a copy of an array to the GPU. The array must live until `wait` returns."""
        self._copy(address, numbers.ctypes.data, numbers.nbytes, _TO_DEVICE, stream)

    def download(self, address: int, into: np.ndarray[Any, Any], stream: int) -> None:
        """Queue a copy from the GPU into an array. It is complete when `wait` returns."""
        self._copy(into.ctypes.data, address, into.nbytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """Wait until all that was queued is done. Errors of runs are raised here."""
        self._check(self._library.cudaStreamSynchronize(ctypes.c_void_p(stream)))

    def _copy(self, to: int, origin: int, size: int, kind: int, stream: int) -> None:
        call = self._library.cudaMemcpyAsync
        pointers = ctypes.c_void_p(to), ctypes.c_void_p(origin)
        self._check(call(*pointers, ctypes.c_size_t(size), kind, ctypes.c_void_p(stream)))

    def _check(self, code: int) -> None:
        if code != 0:
            text = self._library.cudaGetErrorString(code)
            raise RuntimeError(f"CUDA failure {code}: {(text or b'').decode(errors='replace')}")


def _load() -> Any:
    failure = ""
    for name in (*_NAMES, *_in_wheels()):
        try:
            library = ctypes.CDLL(name)
        except OSError as exc:
            failure = str(exc)
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    raise RuntimeError(failure)


def _in_wheels() -> list[str]:
    """The library in NVIDIA's wheels, which the system's linker does not search; the newest first."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = (path for folder in folders for path in Path(folder).glob("*/lib/libcudart.so.*"))
    return [str(path) for path in sorted(found, key=_major, reverse=True)]


def _major(path: Path) -> int:
    number = path.name.partition(".so.")[2].partition(".")[0]
    return int(number) if number.isdecimal() else 0
