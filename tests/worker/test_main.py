"""What watches over the agent's own loop, and what its options become."""

from __future__ import annotations

import subprocess
import sys

from tests.fakes.patience import PATIENCE

_HANGS = """
import ctypes
from streamfleet_worker import main
main.HANG_TIMEOUT = 0.3
main._rearm_alarm()
ctypes.PyDLL(None).sleep(600)  # holds the lock of the interpreter all the time
"""


def test_an_agent_that_hangs_in_native_code_ends_so_that_it_is_started_again() -> None:
    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=PATIENCE)

    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
