"""Trials of another model: what devices are asked to run and to measure, and what they tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from streamfleet_core.protocol.limits import MAX_FIGURES, MAX_MEASURED_MODELS, MAX_SHADOWS
from streamfleet_core.protocol.sampling import Dataset
from streamfleet_core.protocol.values import Finite, Id, ModelId, ModelRef, Natural, Reason, Sha256

FrameShare = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Another model infers some frames of a pipeline, beside its own, and what both find is compared.

    What it finds is published nowhere.
    """

    pipeline_id: Id
    model: ModelRef
    share: FrameShare = 0.25  # of the frames, at most
    dataset: Dataset | None = None  # of samples of frames in which both differ; None: none are kept


@dataclass(frozen=True, slots=True)
class Trials:
    """What a device tries and measures, beside its desired pipelines."""

    # Manifests. It tells `PipelineFigures` of the pipelines that are to use one of these models.
    measured: Annotated[tuple[Sha256, ...], Meta(max_length=MAX_MEASURED_MODELS)] = ()
    shadows: Annotated[tuple[Shadow, ...], Meta(max_length=MAX_SHADOWS)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCounts:
    """What a shadow has done since it began: frames that both models have inferred, and boxes in them.

    Boxes are paired as `models.agreement` does. Latencies are medians of inferences, in seconds.
    """

    frames: Natural = 0
    own_boxes: Natural = 0  # of the pipeline's own model
    boxes: Natural = 0  # of the shadow
    paired: Natural = 0
    same_class: Natural = 0  # pairs
    blind: Natural = 0  # frames in which only the pipeline's own model finds something
    differing: Natural = 0  # frames with a box of only one of them, or with another class
    failed: Natural = 0  # inferences
    samples: Natural = 0  # of differing frames, that were picked
    own_latency: Finite | None = None
    latency: Finite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowStat:
    """The shadow of a pipeline."""

    model: ModelId
    state: Literal["waiting", "running", "failed"]  # waiting: for its engine, or for the pipeline to run
    reason: Reason = ""  # why it waits or has failed; for users
    crashes: Natural = 0  # of its engine on this device, since the shadow began
    counts: ShadowCounts = ShadowCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFigures:
    """What a pipeline does with its model, in counters since the start of its process."""

    pipeline_id: Id
    at: Finite  # seconds of the device's clock, at which the counters were read
    model: Sha256  # in use: the former one until the desired one is ready
    crashes: Natural = 0  # of the engine of this model, since the pipeline was given it
    trouble: Reason = ""  # why the desired model can never be used, so that the former one goes on
    frames: Natural = 0  # emitted
    objects: Natural = 0  # found in them
    latency: Finite | None = None  # seconds from capture to emission, mean of the last frames
    shadow: ShadowStat | None = None


FiguresList = Annotated[tuple[PipelineFigures, ...], Meta(max_length=MAX_FIGURES)]
