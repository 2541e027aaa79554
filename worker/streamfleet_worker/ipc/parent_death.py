"""Ends children together with the agent, even if the agent is killed with SIGKILL."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from streamfleet_core.runtime.process import name_process, tie_to_parent
from streamfleet_core.runtime.startup import log_as


def die_with_parent() -> None:
    """Call it first in each child of the agent. Ends the process if the agent has ended already."""
    tie_to_parent()
    agent = multiprocessing.parent_process()
    if os.getppid() == 1 or (agent is not None and not agent.is_alive()):
        os._exit(1)


def run_child(entry: str, name: str, config: object, connection: Connection) -> None:
    """Start a child of the agent, and run its `entry`, a `module:function`.

    The module is loaded here and not in the agent, so that the agent never loads OpenCV or ONNX Runtime.
    """
    die_with_parent()
    # Ctrl-C goes to the agent, which then stops its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name_process(name)
    log_as(name)
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(config, connection)
