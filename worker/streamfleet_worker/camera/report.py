"""What a camera says of itself to the agent. Pure: made from the ledger and a few facts."""

from __future__ import annotations

from streamfleet_broker.protocol.values import ObservedState

_LOST = ("ERROR", "RESTARTING")


def observed_state(
    source_state: str, *, paused: bool, done: bool, attempts: int, engine_met: bool
) -> ObservedState:
    """The pipeline's state, from that of its source, which has the original's names.

    `attempts` counts those to open the source that failed since the last success.
    """
    if done:
        return ObservedState.ENDED
    if paused:
        return ObservedState.PAUSED
    if source_state in _LOST or attempts:
        return ObservedState.RECONNECTING
    if source_state in ("RUNNING", "ENDED") and engine_met:
        return ObservedState.RUNNING  # the last frames of a file that was read to its end are still under way
    return ObservedState.STARTING


def shown_source_state(source_state: str, *, finite: bool, paused: bool, done: bool) -> str:
    """The source's state as people see it: a file is paused where a live source is muted."""
    if source_state == "ENDED" and not done:
        source_state = "RUNNING"
    if source_state == "RUNNING" and paused:
        return "PAUSED" if finite else "MUTED"
    return source_state
