"""What building variants of a model is asked for, what it has found, and which variant may be used. Pure.

The worker builds and measures in a process of its own. The command line or the agent of a device starts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfleet_core.models.agreement import Agreement
from streamfleet_core.protocol.tasks.optimisation import LEAST_AGREEMENT, Frames, Outcome
from streamfleet_core.protocol.values import Fraction, Manifest

LEAST_SPEEDUP = 1.05  # below that, a second file is not worth its place
MOST_SHIFT = 0.05  # of the mean confidence: thresholds of pipelines must keep their meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The variants to build."""

    manifest: Manifest
    weights_path: str
    pictures: str  # a film, a folder or a ZIP archive of pictures, or a generated scene
    folder: str  # where the variants are written
    least_agreement: Fraction = LEAST_AGREEMENT
    frames: Frames = 64
    # As the options of the worker.
    accelerator: Literal["require", "prefer", "cpu"] = "prefer"
    provider: Literal["auto", "tensorrt", "cuda", "openvino"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One line of the process: how far it is, or its last word."""

    progress: str = ""
    outcome: Outcome | None = None
    failure: str = ""


def refusal_of(found: Agreement, *, speedup: float, least_agreement: float) -> str:
    """Why a variant must not be used, the worst first; "" if it may.

    A model that is blind on some frame is refused whatever it finds on others: a mean hides that.
    """
    if found.blind_frames:
        return f"blind on {found.blind_frames} of {found.frames} frames"
    if found.f1 is None:
        return "nothing to compare: the model finds nothing"
    if found.f1 < least_agreement:
        return f"expected an agreement of {least_agreement:g}, got {found.f1:.3f}"
    if found.mean_shift is not None and abs(found.mean_shift) > MOST_SHIFT:
        return f"expected a mean shift of confidence of at most {MOST_SHIFT:g}, got {found.mean_shift:+.3f}"
    if speedup < LEAST_SPEEDUP:
        return "not faster"
    return ""
