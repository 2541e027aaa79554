"""Loads a model on the best accelerator that works, and says why a better one does not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.accelerators.batch_trial import Within
from streamfleet_worker.engine.accelerators.choice import CPU, TENSORRT, Offer, Wanted, accelerators, missing
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.engine.tensorrt.build import BuildRequest
from streamfleet_worker.engine.tensorrt.library import installed_version
from streamfleet_worker.engine.tensorrt.plan_loading import PlanMissing, load_plan
from streamfleet_worker.host.machine import Machine
from streamfleet_worker.host.machine_probe import MachineProbe

logger = logging.getLogger(__name__)

_ONLY_IN_WORKER = MissingAccelerator(
    "TensorRT runs models in a worker only, which keeps their plans",
    "run the model in a pipeline of a worker",
)
_WHEELS = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-openvino")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that runs."""

    model: Model
    missing: (
        MissingAccelerator | None
    )  # an accelerator that the machine should have, and that does not run it
    plan: BuildRequest | None = None  # of TensorRT, which would run it faster


def offered(machine: Machine) -> Offer:
    """What the installed software could use. It starts no accelerator."""
    wheels = []
    for name in _WHEELS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            wheels.append(name)
    return Offer(
        providers=tuple(onnx_runtime().get_available_providers()),
        wheels=tuple(wheels),
        # Not where it is of no use: it loads some hundred megabytes.
        tensorrt=installed_version() if machine.has_accelerator else "",
    )


def load_here(weights_path: str, manifest: Manifest) -> Model:
    """Load a model to run one frame at a time, on an accelerator if one works. Raises: BadModel."""
    machine = MachineProbe().read()
    loaded = load(
        weights_path, manifest, wanted=Wanted(), machine=machine, offer=offered(machine), max_batch=1
    )
    return loaded.model


def load(
    weights_path: str,
    manifest: Manifest,
    *,
    wanted: Wanted,
    machine: Machine,
    offer: Offer,
    plans: Path | None = None,
    within: Within = lambda _: contextlib.nullcontext(),
    max_batch: int | None = None,
) -> Loaded:
    """Load and check a model.

    `plans`: the folder for plans of TensorRT; None: TensorRT is not used.

    Raises: BadModel; AcceleratorUnusable if one is required, and none works; PlanMissing if one is required,
    and a plan must be built first.
    """
    request: BuildRequest | None = None

    def load_on(provider: str) -> Model:
        if provider == TENSORRT:
            if plans is None:
                raise AcceleratorUnusable(_ONLY_IN_WORKER)
            return load_plan(weights_path, manifest, plans, offer.tensorrt)
        return Session(weights_path, manifest, within=within, provider=provider, max_batch=max_batch)

    reason = missing(wanted, machine, offer)
    for provider in accelerators(wanted, offer):
        loaded = _attempt(load_on, provider)
        if isinstance(loaded, BuildRequest):
            request = loaded
        elif isinstance(loaded, MissingAccelerator):
            logger.warning("model %s: not on %s: %s", manifest.digest[:12], provider, loaded.reason)
            reason = reason or loaded
        else:
            return _with_plan(loaded, None, request)
    if wanted.use == "require" and request is not None:
        raise PlanMissing(request)
    if wanted.use == "require":
        assert reason is not None
        raise AcceleratorUnusable(reason)
    if reason is not None:
        logger.warning("model %s: on the CPU: %s; %s", manifest.digest[:12], reason.reason, reason.remedy)
    return _with_plan(load_on(CPU), reason, request)


def _attempt(load_on: Callable[[str], Model], provider: str) -> Model | MissingAccelerator | BuildRequest:
    try:
        return load_on(provider)
    except AcceleratorUnusable as exc:
        return exc.missing
    except PlanMissing as exc:
        return exc.request


def _with_plan(model: Model, reason: MissingAccelerator | None, request: BuildRequest | None) -> Loaded:
    """A loaded model, and the plan to build for it, if TensorRT can run it."""
    if request is None or not isinstance(model, Session) or not model.varies:
        return Loaded(model, reason, request)
    varies = MissingAccelerator(
        "TensorRT does not run models whose number of boxes varies with the picture",
        "export the model with a fixed number of boxes, or without NMS",
    )
    return Loaded(model, (reason or varies) if model.on_cpu else reason)
