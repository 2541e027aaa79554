"""What is tried to run a model, and what is said if an accelerator is expected and missing."""

from __future__ import annotations

import pytest

from streamfleet_worker.engine.accelerators.choice import (
    CPU,
    CUDA,
    OPENVINO,
    TENSORRT,
    Offer,
    Wanted,
    accelerators,
    missing,
)
from streamfleet_worker.host.machine import Machine

PLAIN = Machine(architecture="x86_64")
GPU = Machine(architecture="x86_64", gpu=True, driver=True)
NO_DRIVER = Machine(architecture="x86_64", gpu=True)
SERVER = Machine(architecture="aarch64", gpu=True, driver=True)
JETSON = Machine(architecture="aarch64", jetson=True, driver=True)
CONTAINER = Machine(architecture="aarch64", jetson=True)

ON_CPU = Offer(providers=(CPU,), wheels=("onnxruntime",))
BOTH = Offer(providers=(CPU,), wheels=("onnxruntime-gpu", "onnxruntime"))
ON_CUDA = Offer(providers=(CUDA, CPU), wheels=("onnxruntime-gpu",))
ON_TENSORRT = Offer(providers=(CPU,), wheels=("onnxruntime",), tensorrt="10.3.0")
ON_OPENVINO = Offer(providers=(OPENVINO, CPU), wheels=("onnxruntime-openvino",))
AUTO, REQUIRED, ONLY_CPU = Wanted(), Wanted("require"), Wanted("cpu")


@pytest.mark.parametrize(
    ("wanted", "offer", "tried"),
    [
        (AUTO, ON_CPU, ()),
        (AUTO, ON_CUDA, (CUDA,)),
        (AUTO, Offer(providers=(CUDA, CPU), tensorrt="10.3.0"), (TENSORRT, CUDA)),
        (AUTO, ON_OPENVINO, ()),
        (Wanted(provider="openvino"), ON_OPENVINO, (OPENVINO,)),
        (Wanted(provider="cuda"), Offer(providers=(CUDA, CPU), tensorrt="10.3.0"), (CUDA,)),
        (Wanted("require", "tensorrt"), Offer(providers=(CUDA, CPU)), ()),
        (ONLY_CPU, ON_CUDA, ()),
        (Wanted("cpu", "cuda"), ON_CUDA, ()),
    ],
)
def test_accelerators_are_tried_in_order_and_openvino_only_by_name(
    wanted: Wanted, offer: Offer, tried: tuple[str, ...]
) -> None:
    assert accelerators(wanted, offer) == tried


@pytest.mark.parametrize(
    ("wanted", "machine", "offer"),
    [
        (AUTO, PLAIN, ON_CPU),
        (AUTO, GPU, ON_CUDA),
        (AUTO, JETSON, ON_TENSORRT),
        (REQUIRED, GPU, ON_CUDA),
        (REQUIRED, PLAIN, ON_CUDA),  # a card that the kernel shows in a way that we do not know
        (ONLY_CPU, GPU, ON_CPU),
        (Wanted(provider="openvino"), PLAIN, ON_OPENVINO),
    ],
)
def test_nothing_is_missing_where_an_accelerator_can_be_tried_or_none_is_expected(
    wanted: Wanted, machine: Machine, offer: Offer
) -> None:
    assert missing(wanted, machine, offer) is None


@pytest.mark.parametrize(
    ("wanted", "machine", "offer", "reason", "remedy"),
    [
        (AUTO, GPU, ON_CPU, "an NVIDIA GPU, and onnxruntime has no CUDA", "'streamfleet[worker,cuda]'"),
        (
            AUTO,
            GPU,
            BOTH,
            "onnxruntime and onnxruntime-gpu overwrite each other",
            "pip uninstall -y onnxruntime",
        ),
        (AUTO, NO_DRIVER, ON_CUDA, "its driver is not loaded or not visible", "--gpus all"),
        (AUTO, SERVER, ON_CPU, "neither TensorRT's Python module nor an ONNX Runtime", "for aarch64"),
        (AUTO, JETSON, ON_CPU, "this is a Jetson, and neither TensorRT's", "no kernels for Orin or Thor"),
        (AUTO, CONTAINER, ON_TENSORRT, "its GPU is not visible here", "--runtime nvidia"),
        (REQUIRED, PLAIN, ON_CPU, "no accelerator was found", "--accelerator prefer"),
        (Wanted(provider="cuda"), PLAIN, ON_CPU, "no accelerator was found", "--gpus all"),
        (
            Wanted(provider="tensorrt"),
            GPU,
            ON_CUDA,
            "TensorRT's Python module is not",
            "pip install tensorrt",
        ),
        (Wanted(provider="openvino"), PLAIN, ON_CPU, "has no OpenVINO", "'streamfleet[worker,openvino]'"),
    ],
)
def test_what_is_missing_is_said_with_what_mends_it(
    wanted: Wanted, machine: Machine, offer: Offer, reason: str, remedy: str
) -> None:
    found = missing(wanted, machine, offer)

    assert found is not None
    assert reason in found.reason
    assert remedy in found.remedy
