"""What operators are told of a pipeline: pure functions of what is wished for and what was seen."""

from __future__ import annotations

from streamfleet_broker.protocol.requests import DeviceState, PipelineStatus, PipelineView
from streamfleet_broker.protocol.values import Observed, ObservedState
from streamfleet_broker.records import PipelineRecord

_OF_OBSERVED: dict[ObservedState, PipelineStatus] = {
    ObservedState.STARTING: "starting",
    ObservedState.RUNNING: "running",
    ObservedState.PAUSED: "paused",
    ObservedState.RECONNECTING: "reconnecting",
    ObservedState.CRASHED: "backoff",
    ObservedState.BACKOFF: "backoff",
    ObservedState.FAILED: "failed",
    ObservedState.STOPPING: "stopping",
    ObservedState.ENDED: "ended",
}


def status(
    record: PipelineRecord, device_state: DeviceState | None, observed: Observed | None
) -> PipelineStatus:
    """One word for a pipeline. `device_state` is None when it has no device."""
    if record.want == "stop":
        return "stopping"
    match device_state:
        case None | "new" | "left":
            return "pending"
        case "suspect":
            return "unknown"
        case "lost" | "quarantined":
            return "unknown" if record.pinned else "moving"
        case "syncing" | "ready":
            return "starting" if observed is None else _OF_OBSERVED[observed.state]


def view(record: PipelineRecord, device_state: DeviceState | None, observed: Observed | None) -> PipelineView:
    """A pipeline as operators see it. `observed` is of this playing, or None."""
    return PipelineView(
        record.pipeline_id,
        record.gen,
        record.want,
        status(record, device_state, observed),
        record.device,
        record.pinned,
        record.spec,
        None if observed is None else observed.state,
        "" if observed is None else observed.reason,
        0 if observed is None else observed.restarts,
    )


def confirmed(record: PipelineRecord, observed: Observed | None) -> bool | None:
    """Has the device done what is wished for? None: not yet. False: it never will."""
    if observed is None or observed.gen != record.gen:
        return None
    match observed.state, record.want:
        case (ObservedState.PAUSED, "pause") | (ObservedState.RUNNING | ObservedState.RECONNECTING, "run"):
            return True
        case (ObservedState.ENDED | ObservedState.FAILED, "pause" | "run"):
            return False
        case _:
            return None
