"""Tells from the text of an error that the accelerator is at fault, and not the model. Pure.

The texts are those of ONNX Runtime, CUDA, cuDNN, cuBLAS and TensorRT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import MissingAccelerator

_LONGEST = 4000  # characters to search
_SHOWN = 120  # characters of the original text in a reason

INSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'streamfleet[worker,cuda]'"


_OF_TENSORRT = re.compile(r"CUDA initialization failure with error:? (\d{1,4})\.?")


class AcceleratorUnusable(Exception):
    """An accelerator cannot run models here: its driver, its libraries or its memory is at fault."""

    def __init__(self, missing: MissingAccelerator) -> None:
        super().__init__(f"{missing.reason}; {missing.remedy}")
        self.missing = missing


@dataclass(frozen=True, slots=True)
class _Cause:
    pattern: re.Pattern[str]
    reason: str
    remedy: str


def _cause(pattern: str, reason: str, remedy: str) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), reason, remedy)


_CAUSES = (
    _cause(
        r"(?:CUDA (?:failure|error) 209: )?no kernel image is available|cudaErrorNoKernelImageForDevice",
        "the installed ONNX Runtime has no kernels for this GPU",
        "on a Jetson, use JetPack's TensorRT or NVIDIA's wheel for your JetPack; elsewhere, another version"
        " of onnxruntime-gpu",
    ),
    _cause(
        r"CUDA failure 35\b|CUDA driver version is insufficient|cudaErrorInsufficientDriver",
        "NVIDIA's driver is missing, or too old for the installed CUDA",
        "install or update the driver: nvidia-smi shows the highest version of CUDA that it supports",
    ),
    _cause(
        r"CUDA failure 10[01]\b|no CUDA-capable device|cudaErrorNoDevice",
        "NVIDIA's driver finds no GPU",
        "nvidia-smi must list it; start a container with --gpus all, and check CUDA_VISIBLE_DEVICES",
    ),
    _cause(
        r"CUDA failure 2\b|out of memory|cudaErrorMemoryAllocation|\w+_STATUS_ALLOC_FAILED"
        r"|Failed to allocate memory for requested buffer",
        "the GPU has too little free memory",
        "nvidia-smi shows what uses it; run fewer models on this device, or smaller ones",
    ),
    _cause(
        r"CUDA failure (?:3|46|304|800|802|803|804|999)\b"
        r"|cudaErrorUnknown|cudaErrorSystemDriverMismatch|cudaErrorSystemNotReady",
        "NVIDIA's driver does not work",
        "if nvidia-smi fails too, restart the machine, or load the driver again",
    ),
    _cause(
        r"\blibcuda\.so[.\d]*: cannot open shared object",  # which is no part of CUDA's wheels
        "NVIDIA's driver is not visible here",
        "nvidia-smi must work here: install NVIDIA's driver, or start the container with --gpus all, on a"
        " Jetson with --runtime nvidia; without an NVIDIA GPU, --accelerator cpu",
    ),
    _cause(
        r"\blib[\w.+-]+\.so[\w.]*: .{0,40}?(?:cannot open shared object|undefined symbol|version .{1,40} not"
        r" found)|cannot open shared object file",
        "a library of the accelerator is missing",
        f"on x86_64: {INSTALL}; on a Jetson the libraries belong to JetPack",
    ),
    _cause(
        r"CUDNN[_ ](?:STATUS|FE|BACKEND|failure)|cudnn frontend|libcudnn"
        r"|CUBLAS[_ ](?:STATUS|failure)|libcublas|CUFFT failure|CURAND failure",
        "cuDNN or cuBLAS does not work with this GPU and its driver",
        f"their versions must fit ONNX Runtime's; on x86_64: {INSTALL}",
    ),
    _cause(
        r"CUDA failure \d+|CUDA error|cudaError[A-Z]\w+|CUDA_ERROR_\w+",
        "CUDA failed",
        "nvidia-smi must work here; the log of the engine has the complete error",
    ),
)


def unusable(text: str) -> MissingAccelerator | None:
    """Why an accelerator cannot be used, by the text of an error of it; None if the model may be at fault."""
    text = _OF_TENSORRT.sub(r"CUDA failure \1:", " ".join(text[:_LONGEST].split()))
    for cause in _CAUSES:
        found = cause.pattern.search(text)
        if found is not None:
            return MissingAccelerator(
                reason=shown_reason(f"{cause.reason}: {_around(text, found)}"), remedy=cause.remedy
            )
    return None


def _around(text: str, found: re.Match[str]) -> str:
    """The part of a text that says it, from what was found to the end of the statement."""
    part = text[found.start() : found.start() + _SHOWN]
    return part.split(" ;")[0].rstrip(" ;,.")
