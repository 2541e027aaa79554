"""The memory of this process, with its share of what it shares with others."""

from __future__ import annotations

from pathlib import Path

from streamfleet_worker.host.host_stats import parse_memory

# Seconds between two readings. The kernel visits all pages for one, 4 ms in a camera: memory that has settled
# is read less often.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 160.0


class OwnMemory:
    """Reads the memory now and then."""

    def __init__(self, path: Path = Path("/proc/self/smaps_rollup")) -> None:
        self._path = path
        self._due = float("-inf")
        self._pause = FIRST_PAUSE
        self._bytes = 0

    def at(self, now: float) -> int:
        """Bytes, as read last; 0 if the kernel does not tell. `now`: monotonic seconds."""
        if now >= self._due:
            self._due = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            try:
                self._bytes = parse_memory(self._path.read_text()).get("Pss", 0)
            except (OSError, ValueError):
                self._bytes = 0
        return self._bytes
