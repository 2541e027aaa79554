"""Loaded by the fork server as its first module, and by nobody else: it ties the fork server to the agent.

Python's fork server ends when the last holder of a pipe has gone, and its children hold it too. By itself it
would outlive a killed agent, and its children with it.
"""

from __future__ import annotations

from streamfleet_core.runtime.process import name_process, tie_to_parent

tie_to_parent()
name_process("sf-forkserver")
