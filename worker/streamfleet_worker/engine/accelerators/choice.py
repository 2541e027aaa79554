"""Chooses what runs a model: which providers to try, and what to say if an accelerator is missing. Pure.

    require    an accelerator, or the model fails
    prefer     an accelerator if there is one; if the machine has one that cannot be used, the status says so
    cpu        the CPU

OpenVINO is only used if it is chosen by name: by default it computes in BF16, which is slower on most CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_worker.engine.accelerators.errors import INSTALL
from streamfleet_worker.host.machine import Machine
from streamfleet_worker.ipc.child_messages import AcceleratorUse, ProviderName

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
TENSORRT = "TensorRT"  # the system's module, not a provider of ONNX Runtime

_BY_NAME: dict[ProviderName, tuple[str, ...]] = {
    "auto": (TENSORRT, CUDA),
    "tensorrt": (TENSORRT,),
    "cuda": (CUDA,),
    "openvino": (OPENVINO,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the installed software could use."""

    providers: tuple[str, ...]  # of ONNX Runtime
    wheels: tuple[str, ...] = ()  # of ONNX Runtime, as pip names them
    tensorrt: str = ""  # the version of TensorRT's Python module; "" without


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the owner of the device asked for."""

    use: AcceleratorUse = "prefer"
    provider: ProviderName = "auto"


def accelerators(wanted: Wanted, offer: Offer) -> tuple[str, ...]:
    """The accelerators to try, in order of preference."""
    if wanted.use == "cpu":
        return ()
    offered = (*offer.providers, *((TENSORRT,) if offer.tensorrt else ()))
    return tuple(name for name in _BY_NAME[wanted.provider] if name in offered)


def missing(wanted: Wanted, machine: Machine, offer: Offer) -> MissingAccelerator | None:
    """Why there is no accelerator to try, although one is expected; None if there is, or none is expected."""
    if wanted.use == "cpu" or (
        accelerators(wanted, offer) and (machine.driver or not machine.has_accelerator)
    ):
        return None
    if wanted.provider == "openvino":
        return MissingAccelerator(
            "ONNX Runtime has no OpenVINO",
            "pip uninstall -y onnxruntime && pip install 'streamfleet[worker,openvino]'",
        )
    if not machine.has_accelerator:
        if wanted.use != "require" and wanted.provider == "auto":
            return None
        return MissingAccelerator(
            "no accelerator was found on this machine",
            "--accelerator prefer uses the CPU; in a container, pass the GPU on: --gpus all",
        )
    return _missing_on_jetson(machine) if machine.jetson else _missing_on_gpu(wanted, machine, offer)


def _missing_on_jetson(machine: Machine) -> MissingAccelerator:
    if not machine.driver:
        return MissingAccelerator(
            "this is a Jetson, and its GPU is not visible here",
            "start the container with --runtime nvidia",
        )
    return MissingAccelerator(
        "this is a Jetson, and neither TensorRT's Python module nor an ONNX Runtime for its GPU is installed",
        "apt install nvidia-jetpack python3-libnvinfer, and make the environment with --system-site-packages;"
        " the aarch64 wheel of onnxruntime-gpu on PyPI has no kernels for Orin or Thor",
    )


def _missing_on_gpu(wanted: Wanted, machine: Machine, offer: Offer) -> MissingAccelerator:
    if not machine.driver:
        return MissingAccelerator(
            "this machine has an NVIDIA GPU, and its driver is not loaded or not visible here",
            "nvidia-smi must work here: install NVIDIA's driver, or start the container with --gpus all;"
            " --accelerator cpu if it is not to be used",
        )
    if machine.architecture != "x86_64":
        return MissingAccelerator(
            "this machine has an NVIDIA GPU, and neither TensorRT's Python module nor an ONNX Runtime with"
            " CUDA is installed",
            f"install NVIDIA's python3-libnvinfer for {machine.architecture}, and make the environment with"
            " --system-site-packages",
        )
    if wanted.provider == "tensorrt":
        return MissingAccelerator(
            "TensorRT's Python module is not installed", "pip install tensorrt, or --provider auto"
        )
    if {"onnxruntime", "onnxruntime-gpu"} <= set(offer.wheels):
        return MissingAccelerator(
            "this machine has an NVIDIA GPU, and onnxruntime and onnxruntime-gpu overwrite each other",
            INSTALL,
        )
    return MissingAccelerator(
        f"this machine has an NVIDIA GPU, and {_wheel(offer)} has no CUDA: it is a wheel for CPUs", INSTALL
    )


def _wheel(offer: Offer) -> str:
    return offer.wheels[0] if offer.wheels else "the installed onnxruntime"
