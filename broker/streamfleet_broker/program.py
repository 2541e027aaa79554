"""How each program of ours begins. It loads nothing but the standard library."""

from __future__ import annotations

import logging


def log_as(part: str) -> None:
    """On stderr, a line an event, from every part in the same order: when, how grave, who, what."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {part}: %(message)s")
