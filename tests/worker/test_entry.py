"""What watches over the agent's own loop, and what its options become."""

from __future__ import annotations

import subprocess
import sys
import time

_HANGS = """
import ctypes
from streamfleet_worker import entry
entry.HANG = 0.3
entry._watch_the_loop()
ctypes.PyDLL(None).sleep(30)  # holds the lock of the interpreter all the time
"""


def test_an_agent_that_hangs_in_native_code_ends_so_that_it_is_started_again() -> None:
    began = time.monotonic()

    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=20)

    assert ended.returncode == 1
    assert time.monotonic() - began < 10
    assert "Timeout" in ended.stderr
