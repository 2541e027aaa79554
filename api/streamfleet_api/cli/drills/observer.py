"""Watches a fleet during a drill: every prediction that arrives, and the events. It judges nothing."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path

from streamfleet.results import SubscriberKeys
from streamfleet.subscription import connect
from streamfleet_api.cli.drills.outcome import Arrival
from streamfleet_core.protocol.data_plane import split
from streamfleet_core.protocol.errors import BadData

_POLL_MS = 100
_WAITING = 100_000  # predictions in the receive queue: a drill must lose none itself
_CLOSE_TIMEOUT = 2.0  # seconds


class Observer:
    """Collects predictions in a thread, also those that are out of order. Use it in a `with` block."""

    def __init__(self, keys: SubscriberKeys | None, data_dir: Path) -> None:
        self._context, self._socket = connect(keys=keys, data_dir=data_dir, waiting=_WAITING)
        self._arrivals: dict[str, list[Arrival]] = defaultdict(list)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drill observer", daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_TIMEOUT)
        self._context.destroy(linger=0)

    def arrivals(self, pipeline_id: str, since: float) -> list[Arrival]:
        """What arrived of a pipeline since then, in the order of arrival."""
        return [each for each in list(self._arrivals.get(pipeline_id, ())) if each.at >= since]

    def forget(self) -> None:
        """Drop what arrived until now."""
        for arrivals in list(self._arrivals.values()):
            del arrivals[:-1]

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._socket.poll(_POLL_MS):
                self._take()

    def _take(self) -> None:
        frames = self._socket.recv_multipart()
        try:
            pipeline_id, header, _ = split(frames)
        except BadData:
            return
        self._arrivals[pipeline_id].append(Arrival(time.monotonic(), header.key, header.device))
