"""Streams of the api, which reconnect when the api restarts."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from streamfleet_api.cli.pipeline_text import short_ids
from streamfleet_api.client.errors import CommandFailed, Rejected, Unreachable

if TYPE_CHECKING:
    from streamfleet_api.client.http_client import Client

RECONNECT_TIMEOUT = 30.0  # seconds without a connection
_PAUSE = 0.5  # seconds between two attempts
_SILENT = "no predictions for 5 s; 'streamfleet pipelines' tells what runs"
_NO_BROKER = "the broker does not answer; missed events follow later"

Warn = Callable[[str], None]


def follow(
    client: Client,
    path: str,
    warn: Warn,
    *,
    what: str = "predictions",
    silent: str = _SILENT,
    after: str | None = None,
    timeout: float = RECONNECT_TIMEOUT,
) -> Generator[str, None, None]:
    """Yield the JSON of each message. `warn` is called with problems, such as missing messages.

    With `after` it starts after the message of this id, and continues after the last one on the next
    connection. `silent` is the warning after 5 s of silence. Raises: CommandFailed, at once if the first
    connection fails.
    """
    connected = False
    once = _Once(warn)
    lost_at: float | None = None
    while True:
        try:
            for name, data, message_id in client.connect(path, after or ""):
                connected, lost_at = True, None
                if name == "message":
                    after = message_id if after is not None else None
                    yield data
                elif name == "gap":
                    warn(_missing(json.loads(data), what))
                elif name == "silence":
                    once(_NO_BROKER if data else silent)
        except CommandFailed as exc:
            if not (connected and _may_heal(exc)):
                raise
        if lost_at is None:
            lost_at = time.monotonic()
            warn("the connection to the api was lost, trying again …")
        if time.monotonic() - lost_at > timeout:
            raise CommandFailed("the fleet does not answer any more")
        time.sleep(_PAUSE)


class _Once:
    """Prints each warning once, and no empty one."""

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._said = {""}

    def __call__(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)


def _may_heal(failure: CommandFailed) -> bool:
    """Whether the api is unreachable, or has no broker yet."""
    return isinstance(failure, Unreachable) or (isinstance(failure, Rejected) and failure.status == 503)


def _missing(gap: dict[str, Any], what: str) -> str:
    return f"{'some' if gap['gap'] is None else gap['gap']} {what} are missing here"


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
                ids = [entry.pipeline_id for entry in self._client.list_pipelines()]
                self._known |= short_ids({*ids, *self._known})
        return self._known[pipeline_id]


def prediction_line(message: dict[str, Any], name: Callable[[str], str]) -> str:
    """Format a prediction as a line."""
    about = message["inference_metadata"]
    source = f" source {about['source_id']}" if about.get("source_id") else ""
    found = " ".join(_object(prediction) for prediction in message["predictions"]) or "nothing"
    return f"{name(about['pipeline_id'])} {about['device']}{source} #{about['frame_id']} {found}"


def _object(prediction: dict[str, Any]) -> str:
    track = f"#{prediction['tracker_id']}" if "tracker_id" in prediction else ""
    # The class of a whole picture has no place, and only an oriented box has a rotation.
    place = f" ({prediction['x']:.0f},{prediction['y']:.0f})" if "x" in prediction else ""
    turned = f" {prediction['rotation']:.0f}°" if "rotation" in prediction else ""
    found = f"{prediction['class']}{track} {prediction['confidence']:.2f}{place}{turned}"
    return found + "".join(_stage(name, result) for name, result in prediction.get("stages", {}).items())


def _stage(name: str, result: dict[str, Any]) -> str:
    """What a stage found in an object. Its places are left out: they are those of the object."""
    if "top" in result:
        return f" [{name}: {result['top']} {result['confidence']:.2f}]"
    found = ", ".join(f"{each['class']} {each['confidence']:.2f}" for each in result["predictions"])
    return f" [{name}: {found or 'nothing'}]"


def event_line(event: dict[str, Any], name: Callable[[str], str], now: float) -> str:
    """Format an event as a line: time, name, states, device and reason."""
    then, today = time.localtime(event["at"]), time.localtime(now)
    form = "%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S"
    who = name(event["id"]) if event["subject"] == "pipeline" else event["id"]
    is_step = event["previous"] not in ("", event["state"])
    step = f"{event['previous']} → {event['state']}" if is_step else event["state"]
    where = f" on {event['device']}" if event["device"] else ""
    why = f": {event['reason']}" if event["reason"] else ""
    return f"{time.strftime(form, then)}  {event['subject']} {who}  {step}{where}{why}"
