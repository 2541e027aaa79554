"""The memory of this process, with its share of what it shares with others."""

from __future__ import annotations

from pathlib import Path

from streamfleet_worker.host.host_stats import parse_memory

INTERVAL = 10.0  # seconds between two readings: the kernel visits all pages for one


class OwnMemory:
    """Reads the memory now and then."""

    def __init__(self, path: Path = Path("/proc/self/smaps_rollup")) -> None:
        self._path = path
        self._read_at = float("-inf")
        self._bytes = 0

    def at(self, now: float) -> int:
        """Bytes, as read within the last seconds; 0 if the kernel does not tell. `now`: monotonic seconds."""
        if now - self._read_at >= INTERVAL:
            self._read_at = now
            try:
                self._bytes = parse_memory(self._path.read_text()).get("Pss", 0)
            except (OSError, ValueError):
                self._bytes = 0
        return self._bytes
