"""What building variants of a model is asked for, what it has found, and which variant may be used. Pure.

The worker builds and measures in a process of its own; the command line starts it, and shows what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from streamfleet_core.models.agreement import Agreement
from streamfleet_core.protocol.values import Fraction, Manifest, Natural, Precision, Provider, Weights

LEAST_AGREEMENT = 0.98  # that a variant must have
LEAST_SPEEDUP = 1.05  # below that, a second file is not worth its place
MOST_SHIFT = 0.05  # of the mean confidence: thresholds of pipelines must keep their meaning
MOST_FRAMES = 256  # for the ranges of activations, and as many again to compare
LEAST_FRAMES = 8

Figure = Annotated[float, Meta(ge=0, le=1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The variants to build."""

    manifest: Manifest
    weights_path: str
    pictures: str  # a film, a folder of pictures, or a generated scene
    folder: str  # where the variants are written
    least_agreement: Fraction = LEAST_AGREEMENT
    frames: Annotated[int, Meta(ge=LEAST_FRAMES, le=MOST_FRAMES)] = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A variant that was built and compared with the model on the same frames."""

    precision: Precision
    path: str
    weights: Weights
    ms: Figure  # of one inference: the model's time divided by `speedup`
    speedup: Figure  # the median of the ratios within rounds that alternate with those of the model
    agreement: Fraction | None  # None: neither finds anything
    class_agreement: Fraction | None
    shift: Annotated[float, Meta(ge=-1, le=1)] | None  # mean, of the confidence of the same objects
    blind_frames: Natural  # where it finds nothing, and the model does
    refusal: str = ""  # why it must not be used; "": it may


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A variant that could not be built, or does not run."""

    precision: Precision
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found out about all variants."""

    board: str
    provider: Provider
    calibrated: Natural  # frames that the ranges of activations were taken from
    compared: Natural  # other frames
    boxes: Natural  # that the model finds in them
    ms: Figure  # of one inference of the model
    trials: tuple[Trial, ...]
    failed: tuple[Failed, ...] = ()

    @property
    def winner(self) -> Trial | None:
        """The fastest one that may be used."""
        usable = [trial for trial in self.trials if not trial.refusal]
        return min(usable, key=lambda trial: trial.ms, default=None)


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
