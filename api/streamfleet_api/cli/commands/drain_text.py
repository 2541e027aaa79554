"""How far the drain of a device is, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamfleet_api.cli.tables import counted

if TYPE_CHECKING:
    from streamfleet.results import Device


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
