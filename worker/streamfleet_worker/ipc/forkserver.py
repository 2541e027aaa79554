"""Ties the fork server to the agent. Only the fork server loads this module, as its first one.

Python's fork server ends when the last process with a certain pipe ends, and its children have that pipe too.
By itself it would outlive a killed agent, together with its children.
"""

from __future__ import annotations

from streamfleet_core.runtime.process import name_process, tie_to_parent

tie_to_parent()
name_process("sf-forkserver")
