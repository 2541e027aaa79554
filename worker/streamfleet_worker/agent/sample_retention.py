"""The thread that removes samples above their age. One runs in each worker."""

from __future__ import annotations

import logging
import threading
import time

from streamfleet_core.datasets.spool import Spool
from streamfleet_worker.sampling.quota_file import forget_old

logger = logging.getLogger(__name__)

_INTERVAL = 60.0  # seconds


class SampleRetention:
    """Applies the retention of one spool, on a separate thread that may block on the disk."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="sample retention", daemon=True)

    def start(self) -> None:
        """Start the thread, which trims at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current run. Does not wait."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._trim()
            self._stopped.wait(_INTERVAL)

    def _trim(self) -> None:
        try:
            removed = self._spool.trim(time.time())
            forget_old(self._spool.folder, time.time())
        except OSError as exc:
            if not self._failing:
                logger.warning("%s: old samples cannot be removed: %s", self._spool.folder, exc)
            self._failing = True
            return
        self._failing = False
        if removed:
            logger.info("%s: removed %d old samples", self._spool.folder, removed)
