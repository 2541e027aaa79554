"""No process of ours outlives the one that it works for, also when that one is killed with SIGKILL.

The kernel does it (PR_SET_PDEATHSIG), so a process that is stopped or hangs ends as well.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from streamfleet_broker.program import log_as

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def tie_to_parent() -> None:
    """From now on this process is killed when its parent ends. Raises: OSError where the kernel refuses."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent() -> None:
    """To be called first in each child of the agent. Ends the process if the agent has gone already."""
    tie_to_parent()
    agent = multiprocessing.parent_process()
    if os.getppid() == 1 or (agent is not None and not agent.is_alive()):
        os._exit(1)


def name_process(name: str) -> None:
    """What `ps` and `top` show of this process, at most 15 bytes of it."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def run_child(entry: str, name: str, config: object, connection: Connection) -> None:
    """The first thing that a child of the agent runs: it then becomes `entry`, a `module:function`.

    The entry is loaded here and not in the agent, which so never holds OpenCV or ONNX Runtime.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then stops us in order
    name_process(name)
    log_as(name)
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(config, connection)
