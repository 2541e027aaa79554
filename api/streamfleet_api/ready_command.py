"""`streamfleet ready`: what `/readyz` says, for whoever supervises a fleet or waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamfleet_api import arguments
from streamfleet_api.commands import CommandFailed, Unreachable
from streamfleet_api.settings import Settings, as_json_option

if TYPE_CHECKING:
    from streamfleet_api.client import Client

T = TypeVar("T")

_TIMEOUT = 4.0  # seconds for an answer; the api asks the broker for two of them
_PAUSE = 0.25  # seconds between two attempts


class NotReady(CommandFailed):
    """The fleet answers that nothing can run."""


@click.command()
@click.option("--wait", default="0s", show_default=True, metavar="TIME", help="Wait so long for it: 30s, 2m.")
@as_json_option
@click.pass_obj
def ready(settings: Settings, wait: str, as_json: bool) -> None:
    """Whether pipelines can run.

    Exits with 0 if the broker answers and a device is ready.

    \b
      streamfleet ready --wait 30s
    """
    client = settings.client(timeout=_TIMEOUT)
    found = patiently(lambda: _look(client), arguments.seconds(wait, "--wait"))
    text = f"{found['devices_ready']} of {found['devices']} devices are ready"
    click.echo(json.dumps(found) if as_json else text)


def _look(client: Client) -> dict[str, Any]:
    """Raises: CommandFailed."""
    status, found = client.look("/readyz")
    if status != 200:
        said = found.get("message") or found.get("detail") or found.get("status") or f"HTTP {status}"
        raise NotReady(str(said), "'streamfleet devices' tells which devices there are")
    return found


def patiently(attempt: Callable[[], T], patience: float) -> T:
    """What it gives, as soon as the fleet is there. Raises: what the last attempt after `patience` raises."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            return attempt()
        except (Unreachable, NotReady):  # noqa: PERF203 (it waits)
            time.sleep(_PAUSE)
    return attempt()
