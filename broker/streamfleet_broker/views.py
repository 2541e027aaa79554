"""What operators are told of a pipeline: pure functions of what is wished for and what was seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamfleet_broker.placement import Candidate
from streamfleet_broker.protocol.reference import SourceKind, is_movable, kind_of
from streamfleet_broker.protocol.requests import DeviceState, PipelineStatus, PipelineView
from streamfleet_broker.protocol.values import Labels, Observed, ObservedState, SourceSpec
from streamfleet_broker.records import PipelineRecord

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
class Home:
    """The device that holds a pipeline, as far as it concerns the pipeline."""

    device: str
    state: DeviceState
    silent: float | None  # seconds since it was last heard; None: never by this broker


def status(
    record: PipelineRecord, device_state: DeviceState | None, observed: Observed | None
) -> PipelineStatus:
    """One word for a pipeline. `device_state` is of its holder, None when it has none."""
    if record.want == "stop":
        return "stopping"
    if record.leaving is not None:
        return "moving"
    if observed is not None and observed.state is ObservedState.ENDED:
        return "ended"  # wherever its device is: what has ended is not begun again
    match device_state:
        case None | "new" | "left":
            return "pending"
        case "suspect":
            return "unknown"
        case "lost" | "quarantined":
            return "unknown" if record.pinned else "moving"
        case "syncing" | "ready":
            return "starting" if observed is None else _OF_OBSERVED[observed.state]


def is_waiting(record: PipelineRecord, home: Home | None, observed: Observed | None) -> bool:
    """Would it go to another device than it has, if there were one?"""
    state = None if home is None else home.state
    may_move = home is None or not record.pinned
    return may_move and record.leaving is None and status(record, state, observed) in ("pending", "moving")


def view(
    record: PipelineRecord, home: Home | None, observed: Observed | None, prospect: str = ""
) -> PipelineView:
    """A pipeline as operators see it.

    `home` is None when it has no device; `observed` is of this playing, or None; `prospect` says of one that
    is waiting where it goes, or why nowhere.
    """
    word = status(record, None if home is None else home.state, observed)
    if word in ("pending", "unknown", "moving"):
        reason = _why_away(record, home, prospect)
    else:
        reason = "" if observed is None else observed.reason
    return PipelineView(
        record.pipeline_id,
        record.gen,
        record.want,
        word,
        record.device,
        record.pinned,
        record.spec,
        None if observed is None else observed.state,
        reason,
        0 if observed is None else observed.restarts,
        record.requested,
        record.selector,
        record.labels,
        record.version,
        record.created_at,
    )


def why_nowhere(
    candidates: Iterable[Candidate], *, other: bool, selector: Labels | None = None, exists: bool = True
) -> str:
    """Why no device takes a pipeline.

    `candidates` meet its selector; `other`: it has a device already, which is gone; `exists`: there are
    devices that would meet the selector, if they were ready.
    """
    known = sorted(candidates, key=lambda candidate: candidate.device)
    device = "no other device" if other else "no device"
    if selector and not exists:
        return f"{device} has the labels {spelled(selector)}"
    if selector:
        device += f" with the labels {spelled(selector)}"
    if not known:
        return f"{device} is ready"
    named = [_occupation(candidate) for candidate in known[:MAX_NAMED]]
    if len(known) > MAX_NAMED:
        named.append(f"and {len(known) - MAX_NAMED} more")
    return f"{device} has room: {', '.join(named)}"


def spelled(labels: Labels) -> str:
    """Labels as people write them."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _occupation(candidate: Candidate) -> str:
    text = f"{candidate.device} runs {candidate.assigned} of {candidate.capacity}"
    return text if candidate.room <= 0 else f"{text}, and no more of this size fit into its message"


def _why_away(record: PipelineRecord, home: Home | None, prospect: str) -> str:
    """Why nothing is known of it, or nothing runs."""
    if home is None:
        return prospect
    if record.leaving is not None:
        silent = f", which {whereabouts(home)}" if home.state == "suspect" else ""
        return (
            f"it goes to {record.device or 'another device'} when device {home.device} has stopped it{silent}"
        )
    if home.state == "new":
        return f"its device {home.device} {whereabouts(home)}"
    where = f"device {home.device} {whereabouts(home)}"
    if home.state == "suspect":
        return where
    return f"{where}; {_why_pinned(record)}" if record.pinned else f"{where}, and {prospect}"


def whereabouts(home: Home) -> str:
    """Where a device is that is not ready, as the end of a sentence about it."""
    silent = "not heard since the broker began" if home.silent is None else f"silent for {home.silent:.0f} s"
    match home.state:
        case "suspect":
            return f"is {silent}"
        case "new":
            return "has not joined yet"
        case "left":
            return "has left"
        case "quarantined":
            return "is quarantined, as two machines use its key"
        case _:
            return f"is {home.state}, {silent}"


def _why_pinned(record: PipelineRecord) -> str:
    bound = [(number, source) for number, source in enumerate(record.spec.sources) if not _movable(source)]
    if not bound:
        return "a pipeline that names its device waits for it"
    number, source = bound[0]
    what = "a file" if kind_of(source.reference) is SourceKind.FILE else "a local camera"
    if len(record.spec.sources) > 1:
        what = f"source {number}, {what},"
    return f"{what} waits for its device"


def _movable(source: SourceSpec) -> bool:
    return is_movable(source.reference)


def confirmed(record: PipelineRecord, observed: Observed | None) -> bool | None:
    """Has the device done what is wished for? None: not yet. False: never, this playing is over."""
    if observed is None or record.want == "stop":
        return None
    if observed.state in (ObservedState.ENDED, ObservedState.FAILED):
        return False
    match observed.state, record.want:
        case (ObservedState.PAUSED, "pause") | (ObservedState.RUNNING | ObservedState.RECONNECTING, "run"):
            return True if observed.gen == record.gen else None
        case _:
            return None
