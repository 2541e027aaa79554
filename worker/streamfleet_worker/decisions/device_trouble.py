"""What is wrong with a device as a whole, in one text. A change of it makes an event. Pure."""

from __future__ import annotations

from streamfleet_core.protocol.source_reference import cut_reason
from streamfleet_core.protocol.status import MissingAccelerator


def device_trouble(missing: MissingAccelerator | None, throttle_reason: str) -> str:
    """Its accelerator, and why it is slowed down; "" if nothing is wrong."""
    accelerator = "" if missing is None else missing.reason
    throttled = f"throttled: {throttle_reason}" if throttle_reason else ""
    return cut_reason("; ".join(filter(None, (throttled, accelerator))))
