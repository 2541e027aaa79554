"""The events of `reconciler.Reconcile`, and the values in them."""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_core.protocol.tasks.trials import Shadow
from streamfleet_core.protocol.values import Assignment, Manifest, ModelRef, Variant
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport

# children ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CameraId:
    """One process of one pipeline."""

    pipeline_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class EngineId:
    """One process of one model."""

    digest: str  # of the manifest
    run: int


@dataclass(frozen=True, slots=True)
class PublisherId:
    """One process of the publisher."""

    run: int


ChildId = CameraId | EngineId | PublisherId
Report = CameraReport | EngineReport | PublisherReport


# pipelines --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Stored state of a pipeline. It survives a power failure."""

    pipeline_id: str
    generation: int  # the highest adopted: an assignment of a lower one is refused
    run_generation: int
    incarnation: int  # +1 before each start
    ended_run_generation: int | None = None  # this run has ended and is never started again
    # The assignment of this generation, if it continues without the broker: it also starts without it.
    assignment: Assignment | None = None
    # The models of its cameras in this run, until others take over: its own, then that of each stage.
    serving: tuple[ModelRef, ...] = ()
    # The generation under which they go on although it is to have others, which can never work; 0: none.
    served: int = 0


# events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adopted:
    """The desired state: these assignments, and no others."""

    assignments: tuple[Assignment, ...]
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokerAbsent:
    """The broker did not answer since the start: what continues without it starts as stored."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another device may run our movable pipelines."""


@dataclass(frozen=True, slots=True)
class Unfenced:
    """The broker expects this device to run all that is assigned to it."""


@dataclass(frozen=True, slots=True)
class ModelFetched:
    """A model is on the disk, and so is its variant for this board, if there is one."""

    digest: str
    manifest: Manifest
    variant: Variant | None = None


@dataclass(frozen=True, slots=True)
class ModelRefused:
    """A model could not be fetched. Unless the failure is permanent, fetching continues by itself."""

    digest: str
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Reported:
    """A child reported its state."""

    child: ChildId
    report: Report


@dataclass(frozen=True, slots=True)
class Exited:
    """A child has ended."""

    child: ChildId
    code: int | None  # negative: the signal that ended it; None: it could not be started


@dataclass(frozen=True, slots=True)
class Stored:
    """These rows are on the disk, or writing failed and only this process has them."""

    rows: tuple[Row, ...]


Event = Adopted | BrokerAbsent | Fenced | Unfenced | ModelFetched | ModelRefused | Reported | Exited | Stored
