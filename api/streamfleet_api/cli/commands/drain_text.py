"""Pipelines that move on purpose, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from streamfleet_api.cli.tables import counted

if TYPE_CHECKING:
    from streamfleet.results import Device, Rebalance


def is_drained(device: Device) -> bool:
    """Whether nothing moves any more, and nothing is waited for."""
    return device.draining and all(each.state == "staying" for each in device.remaining)


def progress(device: Device) -> str:
    """One line: what is left of a drain."""
    if not device.remaining:
        return f"{device.device} is drained: nothing is left on it"
    left = counted(len(device.remaining), "pipeline is", "pipelines are")
    word = "drained" if is_drained(device) else "draining"
    return f"{device.device} {word}: {left} left"


def left_lines(device: Device) -> list[str]:
    """A line for each pipeline that is left, and why."""
    return [f"  {each.pipeline_id} {each.state}: {each.reason}" for each in device.remaining]


def rebalance_lines(found: Rebalance, *, dry_run: bool) -> Iterator[str]:
    """What moves, and the load of the devices before and after."""
    if not found.moves:
        yield "no move would lower the load of the devices that have most"
        return
    count = len(found.moves)
    if dry_run:
        yield f"{counted(count, 'pipeline', 'pipelines')} would move:"
    else:
        yield f"{counted(count, 'pipeline moves', 'pipelines move')}, at most four at a time:"
    for move in found.moves:
        yield f"  {move.pipeline_id} from {move.source} to {move.target}"
    for name, load in found.devices.items():
        yield f"{name}: {load.before:.0%} in use, then {load.after:.0%}"
