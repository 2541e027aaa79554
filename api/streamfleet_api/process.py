"""What only the kernel can do for a process."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def name_process(name: str) -> None:
    """Let `ps` and `top` show this process under a name of at most 15 characters."""
    _libc().prctl(_PR_SET_NAME, name.encode("ascii"), 0, 0, 0)


def forbid_core_dumps() -> None:
    """Keep keys and tokens in memory out of files. (S9)"""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def dying_with_parent() -> Callable[[], None]:
    """What a child runs between fork and exec, so that the kernel kills it when its parent dies.

    The parent is the thread that forks: it must be one that lives as long as the process.
    """
    libc, parent = _libc(), os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
