"""The actions of `reconciler.Reconcile`, which the agent performs in order."""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_core.protocol.tasks.trials import Shadow
from streamfleet_core.protocol.values import Assignment, Manifest, Variant
from streamfleet_worker.decisions.reconcile_events import CameraId, ChildId, EngineId, PublisherId, Row


@dataclass(frozen=True, slots=True)
class Persist:
    """Store this before the next action."""

    row: Row


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove what is stored of a pipeline: it is no longer desired."""

    pipeline_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Log that an assignment had no effect: its generation is lower than the known one."""

    pipeline_id: str
    generation: int
    known_generation: int


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Fetch a model, however long it takes."""

    digest: str


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """Stop fetching a model: no pipeline needs it any more."""

    digest: str


@dataclass(frozen=True, slots=True)
class StartPublisher:
    """Start the publisher."""

    child: PublisherId


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Start an engine."""

    child: EngineId
    manifest: Manifest
    variant: Variant | None = None  # to run in place of the model itself


@dataclass(frozen=True, slots=True)
class StartCamera:
    """Start a camera."""

    child: CameraId
    assignment: Assignment
    manifests: tuple[Manifest, ...]  # of the pipeline's model, and of each of its stages


@dataclass(frozen=True, slots=True)
class ChangeCamera:
    """Send a running camera its new assignment: the same sources under a later generation."""

    child: CameraId
    assignment: Assignment
    # Of the models that take over, in the order of `ordered_models`; None: that one stays. (): all stay.
    manifests: tuple[Manifest | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowCamera:
    """Let another model infer some frames of a running camera, too. A camera starts without one."""

    child: CameraId
    shadow: Shadow | None  # None: no longer
    manifest: Manifest | None = None  # of the shadow


@dataclass(frozen=True, slots=True)
class ShowPictures:
    """Tell a running camera whether previews are wanted. A camera starts without previews."""

    child: CameraId
    wanted: bool


@dataclass(frozen=True, slots=True)
class StopChild:
    """Ask a child to end."""

    child: ChildId


@dataclass(frozen=True, slots=True)
class KillChild:
    """End a child now."""

    child: ChildId
    reason: str


Action = (
    Persist
    | Forget
    | Refuse
    | FetchModel
    | CancelFetch
    | StartPublisher
    | StartEngine
    | StartCamera
    | ChangeCamera
    | ShadowCamera
    | ShowPictures
    | StopChild
    | KillChild
)
