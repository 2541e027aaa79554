"""CUDA's runtime is called as its documentation says; an error of it has its number and its text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamfleet_worker.engine.accelerators.errors import unusable
from streamfleet_worker.engine.tensorrt import cuda
from streamfleet_worker.engine.tensorrt.cuda import Cuda
from tests.fakes.accelerators import FakeCudaLibrary


def test_numbers_go_to_the_gpu_and_back() -> None:
    gpu = Cuda(FakeCudaLibrary())
    numbers, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    stream, address = gpu.stream(), gpu.allocate(numbers.nbytes)

    gpu.upload(numbers, address, stream)
    gpu.download(address, back, stream)
    gpu.wait(stream)

    np.testing.assert_array_equal(back, numbers)
    assert gpu.compute_capability() == "8.7"


def test_an_error_has_the_number_and_the_text_of_cuda() -> None:
    gpu = Cuda(FakeCudaLibrary(fails=100))

    with pytest.raises(RuntimeError, match="CUDA failure 100: no CUDA-capable device is detected") as caught:
        gpu.compute_capability()

    assert unusable(str(caught.value)) is not None


def test_a_machine_without_cuda_lacks_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_NAMES", ("libcudart.so.0",))
    monkeypatch.setattr(cuda, "_in_wheels", list)
    with pytest.raises(RuntimeError, match="libcudart") as caught:
        Cuda()

    missing = unusable(str(caught.value))
    assert missing is not None
    assert missing.reason.startswith("a library of the accelerator is missing: libcudart")


def test_the_library_of_nvidias_wheels_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        tmp_path / "nvidia/cu13/lib/libcudart.so.13",
        tmp_path / "nvidia/cuda_runtime/lib/libcudart.so.12",
    ]
    for path in found:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cuda, "_NAMES", ())

    with pytest.raises(RuntimeError, match=r"libcudart\.so\.12"):  # the last one that was tried
        Cuda()

    assert cuda._in_wheels()[:2] == [str(path) for path in found]
