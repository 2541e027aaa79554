"""Building variants of a model: what is asked of a device, what its status says of it, what was found out.

POST /v2/optimisations ──▶ broker ──desired state: Optimisation──▶ device ──status: OptimisationStat──▶
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from streamfleet_core.protocol.limits import PICTURES_PATTERN, whole
from streamfleet_core.protocol.values import (
    Board,
    Fraction,
    Id,
    ModelRef,
    Natural,
    Precision,
    Provider,
    Reason,
    Weights,
)

LEAST_AGREEMENT = 0.98  # that a variant must have
MOST_FRAMES = 256  # for the ranges of activations, and as many again to compare
LEAST_FRAMES = 8
TIMEOUT = 1800.0  # seconds for all variants
MOST_PICTURES = 256 * 1024**2  # bytes of a film, or of a ZIP archive of pictures, for a device

MAX_TRIALS = 8  # of one model
Figure = Annotated[float, Meta(ge=0, le=1e9)]
Frames = Annotated[int, Meta(ge=LEAST_FRAMES, le=MOST_FRAMES)]
# `blob:SHA256` of a film or of a ZIP archive of pictures, or a generated scene; "": samples of the device.
Pictures = Annotated[str, Meta(pattern=whole(f"{PICTURES_PATTERN}?"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """Variants of a model that a device is to build and to measure. It uploads the best of them."""

    id: Id  # what it uploads is for this one only
    model: ModelRef
    board: Board  # its own, as the API knows it
    pictures: Pictures = ""
    frames: Frames = 64
    least_agreement: Fraction = LEAST_AGREEMENT
    dry_run: bool = False  # it uploads nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A variant that was built and compared with the model on the same frames."""

    precision: Precision
    path: str  # "" on another machine
    weights: Weights
    ms: Figure  # of one inference: the model's time divided by `speedup`
    speedup: Figure  # the median of the ratios within rounds that alternate with those of the model
    agreement: Fraction | None  # None: neither finds anything
    class_agreement: Fraction | None
    shift: Annotated[float, Meta(ge=-1, le=1)] | None  # mean, of the confidence of the same objects
    blind_frames: Natural  # where it finds nothing, and the model does
    refusal: Reason = ""  # why it must not be used; "": it may


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A variant that could not be built, or does not run."""

    precision: Precision
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found out about all variants."""

    board: str
    provider: Provider
    calibrated: Natural  # frames that the ranges of activations were taken from
    compared: Natural  # other frames
    boxes: Natural  # that the model finds in them
    ms: Figure  # of one inference of the model
    trials: Annotated[tuple[Trial, ...], Meta(max_length=MAX_TRIALS)]
    failed: Annotated[tuple[Failed, ...], Meta(max_length=MAX_TRIALS)] = ()

    @property
    def winner(self) -> Trial | None:
        """The fastest one that may be used."""
        usable = [trial for trial in self.trials if not trial.refusal]
        return min(usable, key=lambda trial: trial.ms, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationStat:
    """How far a device is with the last optimisation that it was asked for."""

    id: Id
    model: ModelRef
    progress: Reason = ""  # for users: what it does now
    outcome: Outcome | None = None  # as soon as all variants are measured
    registered: bool = False  # the API has taken its best variant
    failure: Reason = ""  # for users: why there is no outcome, or why the API has not taken the variant
    ended: bool = False
