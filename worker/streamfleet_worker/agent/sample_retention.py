"""The thread that keeps a device's samples within their age. One of it runs in a worker."""

from __future__ import annotations

import logging
import threading
import time

from streamfleet_core.datasets.spool import Spool
from streamfleet_worker.sampling.quota_file import forget_old

logger = logging.getLogger(__name__)

_INTERVAL = 60.0  # seconds


class Sweeper:
    """Waits for a disk that nobody else should wait for."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="sample sweeper", daemon=True)

    def start(self) -> None:
        """Begin, with a look at once."""
        self._thread.start()

    def stop(self) -> None:
        """Do not begin another look. Waits for nothing."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._sweep()
            self._stopped.wait(_INTERVAL)

    def _sweep(self) -> None:
        try:
            removed = self._spool.trim(time.time())
            forget_old(self._spool.folder, time.time())
        except OSError as exc:
            if not self._failing:
                logger.warning("%s: samples are not looked after: %s", self._spool.folder, exc)
            self._failing = True
            return
        self._failing = False
        if removed:
            logger.info("%s: %d samples were too old", self._spool.folder, removed)
