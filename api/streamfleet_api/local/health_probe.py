"""Observes a running fleet over HTTP, as its users do. `hang_detector` decides what the observations mean."""

from __future__ import annotations

import queue
import ssl
import threading
import time
from collections.abc import Iterator

import httpx

from streamfleet_api.local.hang_detector import Observation

INTERVAL = 1.0  # seconds between two observations
TIMEOUT = 2.0  # seconds for an answer


class HealthProbe:
    """Observes the fleet about once a second, in a thread of its own: a hung process must not block `up`."""

    def __init__(self, url: str, token: str, verify: ssl.SSLContext | bool) -> None:
        headers = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False, verify=verify
        )
        self._observations: queue.SimpleQueue[Observation] = (
            queue.SimpleQueue()
        )  # read every 0.1 s, so it stays short
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def observations(self) -> Iterator[Observation]:
        """Yield the observations made since the last call."""
        while not self._observations.empty():
            yield self._observations.get()

    def close(self) -> None:
        """End the thread. That is quick when the api is gone."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(2 * TIMEOUT)
        self._http.close()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL):
            self._observations.put(self._observe())

    def _observe(self) -> Observation:
        began = time.monotonic()
        answer = self._get("/v2/devices")
        if answer is None or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            # The api asks the broker for longer than we wait for the api.
            answers = answer is not None or self._get("/healthz") is not None
            return Observation(began, api=answers, broker=False, silent={})
        devices = answer.json()["devices"] if answer.is_success else []
        return Observation(
            began, api=True, broker=True, silent={each["device"]: each["silent"] for each in devices}
        )

    def _get(self, path: str) -> httpx.Response | None:
        try:
            return self._http.get(path)
        except httpx.TransportError:
            return None
