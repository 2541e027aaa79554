"""Predictions as they happen, on as many connections as it takes: an api that restarts interrupts nobody."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from streamfleet_api.commands import CommandFailed, Rejected, Unreachable
from streamfleet_api.pipelines import short_ids

if TYPE_CHECKING:
    from streamfleet_api.client import Client

PATIENCE = 30.0  # seconds without a connection
_PAUSE = 0.5  # seconds between two attempts

Warn = Callable[[str], None]


def follow(
    client: Client, path: str, warn: Warn, *, patience: float = PATIENCE
) -> Generator[str, None, None]:
    """The JSON of each prediction; `warn` gets what a person should know of those that do not come.

    Raises: CommandFailed, at once when the first connection fails.
    """
    connected = silent = False
    lost_at: float | None = None
    while True:
        try:
            for name, data in client.events(path):
                connected, lost_at = True, None
                if name == "message":
                    yield data
                elif name == "gap":
                    warn(f"{json.loads(data)['gap']} predictions are missing here")
                elif name == "silence" and not silent:
                    silent = True
                    warn("no predictions for 5 s; 'streamfleet pipelines' tells what runs")
        except CommandFailed as exc:
            if not (connected and _may_heal(exc)):
                raise
        if lost_at is None:
            lost_at = time.monotonic()
            warn("the connection to the api was lost, trying again …")
        if time.monotonic() - lost_at > patience:
            raise CommandFailed("the fleet does not answer any more")
        time.sleep(_PAUSE)


def _may_heal(failure: CommandFailed) -> bool:
    """Nobody is there, or an api that has no broker yet."""
    return isinstance(failure, Unreachable) or (isinstance(failure, Rejected) and failure.status == 503)


class ShortIds:
    """The ids of the fleet's pipelines as the table of them shows them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def __call__(self, pipeline_id: str) -> str:
        """The short id; an id that is new is a reason to ask the fleet again."""
        if pipeline_id not in self._known:
            self._known[pipeline_id] = pipeline_id
            with contextlib.suppress(CommandFailed):
                ids = [entry["pipeline_id"] for entry in self._client.list("pipelines")]
                self._known |= short_ids({*ids, *self._known})
        return self._known[pipeline_id]


def line(message: dict[str, Any], name: Callable[[str], str]) -> str:
    """One prediction for people."""
    about = message["inference_metadata"]
    found = " ".join(_object(prediction) for prediction in message["predictions"]) or "nothing"
    return f"{name(about['pipeline_id'])} {about['device']} #{about['frame_id']} {found}"


def _object(prediction: dict[str, Any]) -> str:
    track = f"#{prediction['tracker_id']}" if "tracker_id" in prediction else ""
    place = f"({prediction['x']:.0f},{prediction['y']:.0f})"
    return f"{prediction['class']}{track} {prediction['confidence']:.2f} {place}"
