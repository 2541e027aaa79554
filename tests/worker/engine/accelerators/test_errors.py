"""Errors of an accelerator are told from those of a model, by texts that users of ONNX Runtime have met."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.limits import MAX_REASON
from streamfleet_worker.engine.accelerators.errors import unusable

CUDA_CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:121 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, ERRTYPE, "
    "const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; "
    "std::conditional_t<THRW, void, onnxruntime::common::Status> = void] "
)
AT = "; GPU=0 ; hostname=edge ; file=/onnxruntime_src/core/providers/cuda/cuda_execution_provider.cc"
NODE = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'Conv_0' "

NO_KERNELS = "the installed ONNX Runtime has no kernels for this GPU"
OLD_DRIVER = "NVIDIA's driver is missing, or too old for the installed CUDA"
NO_GPU = "NVIDIA's driver finds no GPU"
NO_MEMORY = "the GPU has too little free memory"
BROKEN_DRIVER = "NVIDIA's driver does not work"
NO_DRIVER = "NVIDIA's driver is not visible here"
NO_LIBRARY = "a library of the accelerator is missing"
NO_CUDNN = "cuDNN or cuBLAS does not work with this GPU and its driver"
OTHER = "CUDA failed"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"{NODE}Status Message: CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available "
            "for execution on the device",
            f"{NO_KERNELS}: cudaErrorNoKernelImageForDevice:no kernel image is available for execution on "
            "the device",
        ),
        (
            f"{CUDA_CALL}CUDA failure 209: no kernel image is available for execution on the device {AT}",
            f"{NO_KERNELS}: CUDA failure 209: no kernel image is available for execution on the device",
        ),
        (
            f"{CUDA_CALL}CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version {AT}",
            f"{OLD_DRIVER}: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
        (
            "[W] CUDA initialization failure with error: 35. Please check your CUDA installation",
            f"{OLD_DRIVER}: CUDA failure 35: Please check your CUDA installation",
        ),
        (
            "[TensorRT] ERROR: CUDA initialization failure with error 3. Please check your CUDA installation",
            f"{BROKEN_DRIVER}: CUDA failure 3: Please check your CUDA installation",
        ),
        (
            f"{CUDA_CALL}CUDA failure 100: no CUDA-capable device is detected {AT}",
            f"{NO_GPU}: CUDA failure 100: no CUDA-capable device is detected",
        ),
        (
            "libcuda.so.1: cannot open shared object file: No such file or directory",
            f"{NO_DRIVER}: libcuda.so.1: cannot open shared object file: No such file or directory",
        ),
        (
            f"{CUDA_CALL}CUDA failure 999: unknown error {AT}",
            f"{BROKEN_DRIVER}: CUDA failure 999: unknown error",
        ),
        (
            f"{CUDA_CALL}CUDA failure 803: system has unsupported display driver / cuda driver {AT}",
            f"{BROKEN_DRIVER}: CUDA failure 803: system has unsupported display driver / cuda driver",
        ),
        (f"{CUDA_CALL}CUDA failure 2: out of memory {AT}", f"{NO_MEMORY}: CUDA failure 2: out of memory"),
        (
            f"{NODE}Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
            "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to "
            "allocate memory for requested buffer of size 9600",
            f"{NO_MEMORY}: Failed to allocate memory for requested buffer of size 9600",
        ),
        (
            "libcudnn.so.9: cannot open shared object file: No such file or directory",
            f"{NO_LIBRARY}: libcudnn.so.9: cannot open shared object file: No such file or directory",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with "
            "error: libcublasLt.so.12: cannot open shared object file: No such file or directory",
            f"{NO_LIBRARY}: libcublasLt.so.12: cannot open shared object file: No such file or directory",
        ),
        (
            "/lib/libcudnn.so.9: undefined symbol: cudnnGetVersion, version libcudnn.so.9",
            f"{NO_LIBRARY}: libcudnn.so.9: undefined symbol: cudnnGetVersion, version libcudnn.so.9",
        ),
        (
            f"{CUDA_CALL}CUDNN failure 1: CUDNN_STATUS_NOT_INITIALIZED {AT}",
            f"{NO_CUDNN}: CUDNN failure 1: CUDNN_STATUS_NOT_INITIALIZED",
        ),
        (
            f"{NODE}Status Message: CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR {AT}",
            f"{NO_CUDNN}: CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR",
        ),
        (
            f"{NODE}Status Message: CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED {AT}",
            f"{NO_CUDNN}: CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED",
        ),
        (
            "[ONNXRuntimeError] : 11 : EP_FAIL : Non-zero status code returned while running Conv node. Name:"
            "'/features/features.0/Conv' Status Message: Failed to initialize CUDNN Frontend",
            f"{NO_CUDNN}: CUDNN Frontend",
        ),
        (
            f"{CUDA_CALL}CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED {AT}",
            f"{NO_CUDNN}: CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED",
        ),
        (
            f"{CUDA_CALL}CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED {AT}",
            f"{NO_MEMORY}: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (
            f"{CUDA_CALL}CUDA failure 700: an illegal memory access was encountered {AT}",
            f"{OTHER}: CUDA failure 700: an illegal memory access was encountered",
        ),
    ],
)
def test_an_error_of_an_accelerator_is_recognized(text: str, reason: str) -> None:
    missing = unusable(text)

    assert missing is not None
    assert missing.reason == reason
    assert missing.remedy
    assert len(missing.reason) <= MAX_REASON


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[ONNXRuntimeError] : 1 : FAIL : Unsupported model IR version: 99, max supported IR version: 13",
        "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Convolve is not a registered function/op",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape "
        "node. Name:'' Status Message: The input tensor cannot be reshaped to the requested shape",
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for ConvInteger(10)",
    ],
)
def test_an_error_of_a_model_is_none_of_an_accelerator(text: str) -> None:
    assert unusable(text) is None
