"""The status of a pipeline as operators see it, derived from its desired and observed state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamfleet_broker.fleet.capacity.placement import Candidate
from streamfleet_broker.fleet.records import CrashLoop, PipelineRecord
from streamfleet_core.protocol.requests import DeviceState, PipelineStatus, PipelineView
from streamfleet_core.protocol.source_reference import SourceKind, cut_reason, is_movable, kind_of
from streamfleet_core.protocol.values import Labels, Observed, ObservedState, SourceSpec

MAX_NAMED = 3  # devices that a reason names

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


@dataclass(frozen=True, slots=True)
class Holder:
    """The device that holds a pipeline: what the status of the pipeline depends on."""

    device: str
    state: DeviceState
    silent: float | None  # seconds since it was last heard; None if never by this broker
    why_quarantined: str = ""


def status(
    record: PipelineRecord, device_state: DeviceState | None, observed: Observed | None
) -> PipelineStatus:
    """The status of a pipeline. `device_state` is the state of its holder; None without one."""
    if record.desired_status == "stop":
        return "stopping"
    if record.is_poison:
        return "failed"
    if record.leaving is not None:
        return "moving"
    if observed is not None and observed.state is ObservedState.ENDED:
        return "ended"  # whatever the state of its device: an ended pipeline is not started again
    match device_state:
        case None | "new" | "left":
            return "pending"
        case "suspect":
            return "unknown"
        case "lost" | "quarantined":
            return "unknown" if record.pinned else "moving"
        case "syncing" | "ready":
            return "starting" if observed is None else _word(observed)


def _word(observed: Observed) -> PipelineStatus:
    if observed.state is ObservedState.PAUSED and observed.ready is not None:
        return "starting"  # its device was its standby, and is just told to run it
    return _OF_OBSERVED[observed.state]


def is_waiting(record: PipelineRecord, holder: Holder | None, observed: Observed | None) -> bool:
    """Whether it would move to another device if one had room."""
    state = None if holder is None else holder.state
    may_move = holder is None or not record.pinned
    return may_move and record.leaving is None and status(record, state, observed) in ("pending", "moving")


def view(
    record: PipelineRecord, holder: Holder | None, observed: Observed | None, prospect: str = ""
) -> PipelineView:
    """A pipeline as operators see it.

    `holder` is None without a device, and `observed` without a report about this run. `prospect` says where
    a pipeline that is waiting goes next, or why nowhere.
    """
    word = status(record, None if holder is None else holder.state, observed)
    if word in ("pending", "unknown", "moving"):
        reason = "; ".join(filter(None, (record.displaced, _why_away(record, holder, prospect))))
    elif record.is_poison:
        reason = why_crashing(record.crash_loops)
    else:
        reason = "" if observed is None else observed.reason
        if record.is_arriving and record.standby is not None and not reason:
            reason = f"device {record.standby.device} gets ready to take it over"
    return PipelineView(
        pipeline_id=record.pipeline_id,
        generation=record.generation,
        desired_status=record.desired_status,
        status=word,
        device=record.device,
        pinned=record.pinned,
        spec=record.spec,
        observed=None if observed is None else observed.state,
        reason=reason,
        restarts=0 if observed is None else observed.restarts,
        requested=record.requested,
        selector=record.selector,
        on_disconnect=record.requested_on_disconnect,
        labels=record.labels,
        version=record.version,
        created_at=record.created_at,
        order=record.created,
    )


def why_nowhere(
    candidates: Iterable[Candidate],
    *,
    other: bool,
    selector: Labels | None = None,
    exists: bool = True,
    cordoned: Iterable[str] = (),
) -> str:
    """Explain why no device takes a pipeline.

    `candidates` meet its selector. `other`: it already has a device, which is gone. `exists`: some device
    meets the selector but is not ready. `cordoned`: those that meet it and would be ready.
    """
    names = sorted(cordoned)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    verb = "is" if len(names) == 1 else "are"
    closed = f"{', '.join(names[:MAX_NAMED])}{more} {verb} cordoned" if names else ""
    known = sorted(candidates, key=lambda candidate: candidate.device)
    device = "no other device" if other else "no device"
    if selector and not exists:
        return f"{device} has the labels {spelled(selector)}"
    if selector:
        device += f" with the labels {spelled(selector)}"
    if not known:
        return f"{device} takes pipelines: {closed}" if closed else f"{device} is ready"
    named = [_occupation(candidate) for candidate in known[:MAX_NAMED]]
    if len(known) > MAX_NAMED:
        named.append(f"and {len(known) - MAX_NAMED} more")
    sentence = f"{device} has room: {', '.join(named)}"
    return f"{sentence}, and {closed}" if closed else sentence


def spelled(labels: Labels) -> str:
    """Labels as text: `key=value,key=value`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _occupation(candidate: Candidate) -> str:
    text = f"{candidate.device} runs {candidate.assigned} of {candidate.capacity}"
    is_full = candidate.assigned >= candidate.capacity
    return text if is_full else f"{text}, and no more of this size fit into its message"


def _why_away(record: PipelineRecord, holder: Holder | None, prospect: str) -> str:
    """Explain why a pipeline does not run, or why its state is unknown."""
    if holder is None:
        return prospect
    if record.leaving is not None:
        silent = f", which {whereabouts(holder)}" if holder.state == "suspect" else ""
        target = record.device or "another device"
        return f"it goes to {target} when device {holder.device} has stopped it{silent}"
    if holder.state == "new":
        return f"its device {holder.device} {whereabouts(holder)}"
    where = f"device {holder.device} {whereabouts(holder)}"
    if holder.state == "suspect":
        return where
    return f"{where}; {why_pinned(record)}" if record.pinned else f"{where}, and {prospect}"


def whereabouts(holder: Holder) -> str:
    """The end of a sentence about a device that is not ready."""
    silent = (
        "not heard since the broker began" if holder.silent is None else f"silent for {holder.silent:.0f} s"
    )
    match holder.state:
        case "suspect":
            return f"is {silent}"
        case "new":
            return "has not joined yet"
        case "left":
            return "has left"
        case "quarantined":
            return f"is quarantined, as {holder.why_quarantined}"
        case _:
            return f"is {holder.state}, {silent}"


def why_crashing(loops: Iterable[CrashLoop]) -> str:
    """On which devices a pipeline crashed, and why."""
    each = [
        f"{loop.crashes} times in a row on {loop.device}{f' ({loop.reason})' if loop.reason else ''}"
        for loop in loops
    ]
    return cut_reason(f"it crashed {' and '.join(each)}")


def why_pinned(record: PipelineRecord) -> str:
    """Why a pipeline never moves from its device."""
    bound = [(number, source) for number, source in enumerate(record.spec.sources) if not _movable(source)]
    if not bound and record.requested is not None:
        return "a pipeline that names its device waits for it"
    if not bound:
        return "a pipeline that continues without the broker stays with its device"
    number, source = bound[0]
    what = "a file" if kind_of(source.reference) is SourceKind.FILE else "a local camera"
    if len(record.spec.sources) > 1:
        what = f"source {number}, {what},"
    return f"{what} waits for its device"


def _movable(source: SourceSpec) -> bool:
    return is_movable(source.reference)


def confirmed(record: PipelineRecord, observed: Observed | None) -> bool | None:
    """Whether the device has confirmed the change. None: not yet. False: never, as this run is over."""
    if observed is None or record.desired_status == "stop":
        return None
    if observed.state in (ObservedState.ENDED, ObservedState.FAILED):
        return False
    match observed.state, record.desired_status:
        case (ObservedState.PAUSED, "pause") | (ObservedState.RUNNING | ObservedState.RECONNECTING, "run"):
            return True if observed.generation == record.generation else None
        case _:
            return None
