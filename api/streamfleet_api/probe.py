"""Looks at a running fleet, as its users do: over HTTP. What the looks mean is decided by `patience`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import httpx

from streamfleet_api.patience import Look

INTERVAL = 1.0  # seconds between two looks
TIMEOUT = 2.0  # seconds for an answer


class Probe:
    """A thread that looks about once a second, as whoever waits for a hung process can revive nobody."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False)
        self._looks: queue.SimpleQueue[Look] = queue.SimpleQueue()  # read every 0.1 s, so it stays short
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def looks(self) -> Iterator[Look]:
        """Those since the last time."""
        while not self._looks.empty():
            yield self._looks.get()

    def close(self) -> None:
        """End the thread; quick when the api has gone."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(2 * TIMEOUT)
        self._http.close()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL):
            self._looks.put(self._look())

    def _look(self) -> Look:
        began = time.monotonic()
        if self._get("/healthz") is None:
            return Look(began, api=False, broker=False, silent={})
        answer = self._get("/v2/devices")
        # The api asks the broker for longer than we wait for the api.
        if answer is None or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return Look(began, api=True, broker=False, silent={})
        devices = answer.json()["devices"] if answer.is_success else []
        return Look(began, api=True, broker=True, silent={each["device"]: each["silent"] for each in devices})

    def _get(self, path: str) -> httpx.Response | None:
        try:
            return self._http.get(path)
        except httpx.TransportError:
            return None
