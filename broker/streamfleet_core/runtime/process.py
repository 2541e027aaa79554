"""What a process tells the kernel about itself: its name, its parent, its rights, who reads its files."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_NAME_SIZE = 15  # bytes that the kernel keeps of a name


def name_process(name: str) -> None:
    """Let `ps` and `top` show this process under a name, of which they show 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:_NAME_SIZE])
    _prctl(_libc(), _PR_SET_NAME, ctypes.addressof(buffer))


def forbid_core_dumps() -> None:
    """Keep keys and tokens in memory out of files. (S9)"""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_files_private() -> None:
    """Let nobody but our user read what this process and its children create, logs and sockets too. (S8)"""
    os.umask(0o077)


def forbid_new_privileges() -> None:
    """Let no program that this process starts get more rights than it has. Raises: OSError."""
    _prctl(_libc(), _PR_SET_NO_NEW_PRIVS, 1)


def tie_to_parent() -> None:
    """Let the kernel kill this process when its parent ends, also while it is stopped or hangs.

    Raises: OSError where the kernel refuses. A parent that ended before this call is not noticed.
    """
    _prctl(_libc(), _PR_SET_PDEATHSIG, signal.SIGKILL)


def dying_with_parent() -> Callable[[], None]:
    """What a child runs between fork and exec, so that the kernel kills it when its parent dies.

    The parent is the thread that forks: it must be one that lives as long as the process.
    """
    libc = _libc()  # before the fork, after which a child must not wait for locks
    parent = os.getpid()

    def prepare() -> None:
        _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(libc: ctypes.CDLL, option: int, argument: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
