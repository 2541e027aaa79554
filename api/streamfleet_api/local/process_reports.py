"""Reports restarts of local processes to the broker, which adds them to the events."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import zmq.asyncio

from streamfleet_api.broker_client import BrokerClient, BrokerClientError
from streamfleet_core.protocol.limits import MAX_REASON
from streamfleet_core.protocol.requests import ReportProcess

_INTERVAL = 1.0  # seconds between two attempts to send
_TIMEOUT = 1.0  # seconds for an answer
_MOST = 100  # reports that wait for a broker


class ProcessReports:
    """Sends reports in order, in a thread of its own. It retries: the broker itself may have crashed."""

    def __init__(self, broker: str) -> None:
        self._endpoint = broker  # endpoint of the operators' ROUTER
        self._waiting: deque[ReportProcess] = deque(maxlen=_MOST)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process reports", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, name: str, text: str) -> None:
        """Queue a report about a process."""
        self._waiting.append(ReportProcess(name, text[:MAX_REASON]))

    def close(self) -> None:
        """End the thread. Reports that are still queued are lost."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(1.5 * _TIMEOUT)

    def _run(self) -> None:
        while not self._closing.wait(_INTERVAL):
            if self._waiting:
                asyncio.run(self._send())

    async def _send(self) -> None:
        context = zmq.asyncio.Context()
        broker = BrokerClient(context, self._endpoint)
        await broker.start()
        try:
            while self._waiting and not self._closing.is_set():
                await broker.ask(self._waiting[0], object, timeout=_TIMEOUT)
                self._waiting.popleft()
        except BrokerClientError:
            return  # the next round tries again
        finally:
            await broker.close()
            context.destroy(linger=0)
