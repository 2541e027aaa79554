"""Default address and data directory of a fleet."""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_DATA_DIR = "~/.streamfleet"
