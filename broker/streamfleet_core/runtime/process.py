"""Process attributes that the kernel keeps: name, parent death signal, privileges, core dumps, file mode."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_NAME_SIZE = 15  # bytes of a name that the kernel keeps


def name_process(name: str) -> None:
    """Set the name that `ps` and `top` show for this process. They show 15 bytes of it."""
    buffer = ctypes.create_string_buffer(name.encode()[:_NAME_SIZE])
    _prctl(_libc(), _PR_SET_NAME, ctypes.addressof(buffer))


def forbid_core_dumps() -> None:
    """Disable core dumps, so that keys and tokens in memory are not written to files. (S9)"""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_files_private() -> None:
    """Make all files that this process and its children create private, including logs and sockets. (S8)"""
    os.umask(0o077)


def forbid_new_privileges() -> None:
    """Prevent programs that this process starts from gaining privileges. Raises: OSError."""
    _prctl(_libc(), _PR_SET_NO_NEW_PRIVS, 1)


def tie_to_parent() -> None:
    """Have the kernel kill this process when its parent ends, even while it is stopped or hangs.

    A parent that ended before this call is not noticed. Raises: OSError if the kernel refuses.
    """
    _prctl(_libc(), _PR_SET_PDEATHSIG, signal.SIGKILL)


def dying_with_parent() -> Callable[[], None]:
    """Return a `preexec_fn` that has the kernel kill the child when its parent dies.

    The parent is the *thread* that forks: it must live as long as the process.
    """
    libc = _libc()  # before the fork: afterwards the child must not wait for locks
    parent = os.getpid()

    def prepare() -> None:
        _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return prepare


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(libc: ctypes.CDLL, option: int, argument: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
