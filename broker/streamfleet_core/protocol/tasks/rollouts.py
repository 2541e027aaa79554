"""Roll-outs of a model: their requests to the broker, and what it tells of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from streamfleet_core.protocol.limits import MAX_OBSERVATION, MAX_ROLLED_OUT
from streamfleet_core.protocol.sampling import Dataset
from streamfleet_core.protocol.tasks.trials import FrameShare
from streamfleet_core.protocol.values import Fraction, Id, Labels, ModelRef, Natural

Seconds = Annotated[float, Meta(gt=0, le=MAX_OBSERVATION)]
Phase: TypeAlias = Literal[
    "measuring",  # what pipelines do with the old model
    "shadow",  # the new model infers some frames of the first pipelines, too
    "canary",  # the first pipelines use it
    "waves",  # the others follow
    "returning",
    "done",
    "returned",
    "stopped",  # cancelled, and each pipeline keeps the model that it has
]
OVER: tuple[Phase, ...] = ("done", "returned", "stopped")
# back: it was told to use the old model again; gone: it was removed, or given a third model
Stage: TypeAlias = Literal["waiting", "switched", "good", "bad", "back", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutLimits:
    """What a new model must keep to."""

    observe: Seconds = 30.0  # of each pipeline, with either model
    # Seconds for which it infers frames beside the old model, before any pipeline uses it; 0: not at all.
    shadow: Annotated[float, Meta(ge=0, le=MAX_OBSERVATION)] = 30.0
    start: Seconds = 120.0  # until a pipeline runs with it
    min_objects: Fraction = 0.5  # objects a frame, of those that the old model found
    min_agreement: Fraction = 0.5  # as a shadow: objects of the old model that it finds, too
    max_latency: Annotated[float, Meta(ge=1, le=1000)] = 2.0  # times that of the old model
    min_fps: Fraction = 0.7  # frames/s, of those with the old model


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What is to be done."""

    old: ModelRef
    new: ModelRef
    selector: Labels = field(default_factory=dict)  # of the pipelines; none: all that use the old model
    canary: FrameShare = 0.05  # of the pipelines, that go first
    # Pipelines that may be down, or not proven yet, at the same time.
    max_unavailable: Annotated[int, Meta(ge=1, le=MAX_ROLLED_OUT)] = 5
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    share: FrameShare = 0.25  # of the frames of a pipeline, that the shadow infers at most
    dataset: Dataset | None = None  # of samples of frames in which both models differ; None: none are kept


@dataclass(frozen=True, slots=True)
class StartRollout:
    """Move pipelines to another model in waves, and back if it is worse. Reply: RolloutView.

    The same request again changes nothing.
    """

    id: Id
    plan: RolloutPlan


@dataclass(frozen=True, slots=True)
class ListRollouts:
    """List the last roll-outs. Reply: tuple[RolloutView, ...], the oldest first, without their pipelines."""


@dataclass(frozen=True, slots=True)
class GetRollout:
    """Look up a roll-out. Reply: RolloutView."""

    id: Id


@dataclass(frozen=True, slots=True)
class CancelRollout:
    """End a roll-out that is not over: all pipelines go back to the old model. Reply: RolloutView."""

    id: Id
    keep: bool = False  # each pipeline keeps the model that it has instead


RolloutRequest = StartRollout | ListRollouts | GetRollout | CancelRollout


@dataclass(frozen=True, slots=True)
class RolloutEntry:
    """One pipeline of a roll-out."""

    pipeline_id: Id
    stage: Stage
    verdict: str = ""  # for users: what it does with both models, or what is wrong
    shadow: str = ""  # for users: the same of the new model beside the old one


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A roll-out as the broker knows it."""

    id: Id
    plan: RolloutPlan
    phase: Phase
    reason: str = ""  # for users: why it returns, or was stopped
    created_at: float = 0.0  # Unix seconds
    ended_at: float | None = None
    canaries: Natural = 0  # pipelines that go first
    stages: dict[Stage, Natural] = field(default_factory=dict)  # pipelines, by stage
    entries: tuple[RolloutEntry, ...] = ()  # in the order in which they are moved
