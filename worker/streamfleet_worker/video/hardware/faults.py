"""What goes wrong with a decoder's child program, and what is tried then. Pure."""

from __future__ import annotations

import re
import signal
from collections import deque
from typing import Literal

RESTARTS = 2  # within the time below, of a decoder that has worked
RESTART_WINDOW = 60.0  # seconds
FORGOTTEN = 600.0  # seconds after which a decoder that failed is tried again

_MOST = 150  # characters of what GStreamer says

FaultCause = Literal[
    "missing",  # the program or one of its elements is not installed
    "refused",  # it says why it does not decode
    "killed",  # by a signal
    "exited",
    "stalled",  # it runs, and delivers no picture
]


class DecoderFailed(Exception):
    """The child program does not decode any further. The text is the reason, for users."""

    def __init__(self, cause: FaultCause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


def failure_of(output: str, code: int) -> DecoderFailed:
    """Why a child has ended, from what it printed and its exit code; below 0: the signal."""
    if code < 0:
        return DecoderFailed("killed", f"was killed by {_signal(-code)}")
    if missing := re.search(r'no element "([\w-]+)"', output):
        return DecoderFailed("missing", f"GStreamer has no element {missing[1]}")
    if said := re.search(r"erroneous pipeline: (.+)", output) or re.search(r"ERROR: .*?: (.+)", output):
        return DecoderFailed("refused", f"GStreamer says: {said[1].strip()[:_MOST]}")
    return DecoderFailed("exited", f"ended with code {code}")


class RestartLimit:
    """Decides whether a decoder that failed is started again."""

    def __init__(self) -> None:
        self._restarts: deque[float] = deque(maxlen=RESTARTS)  # monotonic seconds

    def allows(self, now: float, *, worked: bool) -> bool:
        """Whether to start it again, which is counted. `worked`: it has delivered a picture."""
        full = len(self._restarts) == RESTARTS and now - self._restarts[0] < RESTART_WINDOW
        if full or not worked:
            return False
        self._restarts.append(now)
        return True


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
