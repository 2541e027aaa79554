"""Loads the variant of a model that was built for this kind of board, or else the model itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.values import Manifest, Variant
from streamfleet_worker.engine.accelerators.choice import CPU, Offer, Wanted, accelerators
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.loading import Loaded
from streamfleet_worker.engine.onnx_session import BadModel, DamagedModel

logger = logging.getLogger(__name__)

LoadFile = Callable[[str, Manifest], Loaded]  # raises what `loading.load` raises


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was loaded."""

    loaded: Loaded
    sha256: str  # of its file
    variant: str = ""  # its precision; "": the model itself
    trouble: str = ""  # why a variant does not run


def load_best(
    load_file: LoadFile,
    weights_path: str,
    manifest: Manifest,
    *,
    variant: Variant | None,
    variant_path: str,
    provider: str,
) -> Chosen:
    """Load the variant if `provider` is the one that it was built for. Raises: what `load_file` raises."""
    trouble = ""
    if variant is not None and variant.provider != provider:
        trouble = f"it was built for {variant.provider}, and models run on {provider} here"
    elif variant is not None:
        try:
            loaded = _load_variant(load_file, variant_path, manifest, variant)
        except (BadModel, AcceleratorUnusable) as exc:
            trouble = shown_reason(str(exc))
            if isinstance(exc, DamagedModel):
                Path(variant_path).unlink(missing_ok=True)  # so that the next start fetches it again
        else:
            return Chosen(loaded, variant.weights.sha256, variant.precision)
    if variant is not None:
        logger.warning("model %s: not its %s variant: %s", manifest.digest[:12], variant.precision, trouble)
    return Chosen(load_file(weights_path, manifest), manifest.weights.sha256, trouble=trouble)


def first_provider(wanted: Wanted, offer: Offer) -> str:
    """What models run on here, if it works."""
    return next(iter(accelerators(wanted, offer)), CPU)


def _load_variant(load_file: LoadFile, path: str, manifest: Manifest, variant: Variant) -> Loaded:
    loaded = load_file(path, replace(manifest, weights=variant.weights))
    if loaded.model.provider != variant.provider:
        raise BadModel(f"expected it to run on {variant.provider}, it ran on {loaded.model.provider}")
    return loaded
