"""Devices of the fleet by their names, for commands that need one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from streamfleet_api.cli.context import did_you_mean
from streamfleet_api.client.errors import CommandFailed

if TYPE_CHECKING:
    from streamfleet.results import Device


def known_device(devices: Iterable[Device], name: str) -> Device:
    """The device of this name. Raises: CommandFailed, with a similar name if there is one."""
    by_name = {each.device: each for each in devices}
    if name not in by_name:
        hint = did_you_mean(name, list(by_name)) or "'streamfleet devices' lists them"
        raise CommandFailed(f"no device {name}", hint)
    return by_name[name]


def ready_device(devices: Iterable[Device], name: str) -> Device:
    """The same, if it is ready. Raises: CommandFailed."""
    found = known_device(devices, name)
    if found.state != "ready":
        raise CommandFailed(
            f"{name} is {found.state}, expected a device that is ready",
            f"'streamfleet doctor {name}' tells what is wrong",
        )
    return found
