"""No child of the agent outlives it, also when the agent is killed with SIGKILL."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from streamfleet_core.runtime.process import name_process, tie_to_parent
from streamfleet_core.runtime.program import log_as


def die_with_parent() -> None:
    """To be called first in each child of the agent. Ends the process if the agent has gone already."""
    tie_to_parent()
    agent = multiprocessing.parent_process()
    if os.getppid() == 1 or (agent is not None and not agent.is_alive()):
        os._exit(1)


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
