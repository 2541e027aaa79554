"""`streamfleet ready`: the answer of `/readyz`, for supervisors and scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from streamfleet_api.cli import parameters
from streamfleet_api.cli.context import Settings, as_json_option
from streamfleet_api.cli.tables import document
from streamfleet_api.client.errors import CommandFailed, Rejected, Unreachable

if TYPE_CHECKING:
    from streamfleet.results import Readiness
    from streamfleet_api.client.http_client import Client

T = TypeVar("T")

_TIMEOUT = 4.0  # seconds for an answer; the api asks the broker for two of them
_PAUSE = 0.25  # seconds between two attempts
_HINT = "'streamfleet devices' tells which devices there are"


class NotReady(CommandFailed):
    """The fleet responds, but cannot run pipelines."""


@click.command()
@click.option(
    "--wait", default="0s", show_default=True, metavar="TIME", help="Time to wait until it is ready: 30s, 2m."
)
@as_json_option
@click.pass_obj
def ready(settings: Settings, wait: str, as_json: bool) -> None:
    """Check whether pipelines can run.

    Exits with 0 if the broker answers and a device is ready.

    \b
      streamfleet ready --wait 30s
    """
    client = settings.client(timeout=_TIMEOUT)
    found = retry_until_ready(lambda: _fetch(client), parameters.seconds(wait, "--wait"))
    click.echo(document(found) if as_json else f"{found.devices_ready} of {found.devices} devices are ready")


def _fetch(client: Client) -> Readiness:
    """Raises: CommandFailed."""
    try:
        found = client.ready()
    except Rejected as exc:
        raise NotReady(str(exc), _HINT) from exc
    if not found.is_ready:
        raise NotReady(found.status, _HINT)
    return found


def retry_until_ready(attempt: Callable[[], T], timeout: float) -> T:
    """Retry until an attempt succeeds. After `timeout`, raise what the last attempt raises."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            return attempt()
        except (Unreachable, NotReady):  # noqa: PERF203 (it waits)
            time.sleep(_PAUSE)
    return attempt()
