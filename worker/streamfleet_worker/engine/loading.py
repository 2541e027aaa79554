"""Loads a model on the best accelerator that works, and says why a better one does not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass

from streamfleet_core.protocol.status import MissingAccelerator
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.accelerators.choice import CPU, Offer, Wanted, accelerators, missing
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.onnx_runtime import onnx_runtime
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.host.machine import Machine
from streamfleet_worker.host.machine_probe import MachineProbe

logger = logging.getLogger(__name__)

_WHEELS = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-openvino")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that runs."""

    model: Model
    missing: (
        MissingAccelerator | None
    )  # an accelerator that the machine should have, and that does not run it


def offered() -> Offer:
    """What the installed software could use. It starts no accelerator."""
    wheels = []
    for name in _WHEELS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            wheels.append(name)
    return Offer(providers=tuple(onnx_runtime().get_available_providers()), wheels=tuple(wheels))


def load_here(weights_path: str, manifest: Manifest) -> Model:
    """Load a model to run one frame at a time, on an accelerator if one works. Raises: BadModel."""
    machine = MachineProbe().read()
    loaded = load(weights_path, manifest, wanted=Wanted(), machine=machine, offer=offered(), max_batch=1)
    return loaded.model


def load(
    weights_path: str,
    manifest: Manifest,
    *,
    wanted: Wanted,
    machine: Machine,
    offer: Offer,
    within: Callable[[int], contextlib.AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
    max_batch: int | None = None,
) -> Loaded:
    """Load and check a model. Raises: BadModel; AcceleratorUnusable if one is required, and none works."""

    def load_on(provider: str) -> Model:
        return Session(weights_path, manifest, within=within, provider=provider, max_batch=max_batch)

    reason = missing(wanted, machine, offer)
    for provider in accelerators(wanted, offer):
        loaded = _attempt(load_on, provider)
        if not isinstance(loaded, MissingAccelerator):
            return Loaded(loaded, None)
        logger.warning("model %s: not on %s: %s", manifest.digest[:12], provider, loaded.reason)
        reason = reason or loaded
    if wanted.use == "require":
        assert reason is not None
        raise AcceleratorUnusable(reason)
    if reason is not None:
        logger.warning("model %s: on the CPU: %s; %s", manifest.digest[:12], reason.reason, reason.remedy)
    return Loaded(load_on(CPU), reason)


def _attempt(load_on: Callable[[str], Model], provider: str) -> Model | MissingAccelerator:
    try:
        return load_on(provider)
    except AcceleratorUnusable as exc:
        return exc.missing
