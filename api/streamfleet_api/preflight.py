"""What must hold before a fleet starts on this machine; else an error that names the option."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamfleet_api.commands import CommandFailed
from streamfleet_api.options import Options

_LONGEST_SOCKET = "workers/local-99/run/publisher-direct.ipc"
_MAX_SOCKET_PATH = 107  # bytes


def check(options: Options) -> None:
    """Raises: CommandFailed for what would only fail later, and less clearly."""
    longest = options.data_dir / _LONGEST_SOCKET
    if len(os.fsencode(longest)) > _MAX_SOCKET_PATH:
        room = _MAX_SOCKET_PATH - len(_LONGEST_SOCKET) - 1
        raise CommandFailed(
            f"expected a data directory of at most {room} characters, as unix sockets lie in it; "
            f"came {options.data_dir}",
            "choose a shorter --data-dir",
        )
    missing = [name for name in ("cv2", "onnxruntime") if importlib.util.find_spec(name) is None]
    if options.workers and missing:
        hint = "pip install 'streamfleet[api,worker,cpu]', or run it with --workers 0"
        raise CommandFailed(f"a worker on this machine needs {' and '.join(missing)}", hint)


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Make the data directory, and keep others out of it. Raises: CommandFailed."""
    with contextlib.ExitStack() as stack:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = stack.enter_context((data_dir / "up.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            hint = "stop it first, or choose another --data-dir"
            raise CommandFailed(f"another 'streamfleet up' runs on {data_dir}", hint) from exc
        except OSError as exc:
            raise CommandFailed(f"--data-dir {data_dir}: {exc.strerror}") from exc
        yield


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Option → port. Raises: CommandFailed that names all that are taken, or --host."""
    taken = [f"{option} {port}" for option, port in ports.items() if not _is_free(host, option, port)]
    if not taken:
        return
    *first, last = taken
    named = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    hint = "stop it, or choose other ports with these options"
    raise CommandFailed(f"{named} taken: something else listens there on {host}", hint)


def free_port(host: str) -> int:
    """A port that nobody has at this moment. Raises: CommandFailed."""
    try:
        with _bound(host, 0) as probe:
            return int(probe.getsockname()[1])
    except OSError as exc:
        raise CommandFailed(f"--host {host}: {exc.strerror}") from exc


def _is_free(host: str, option: str, port: int) -> bool:
    try:
        _bound(host, port).close()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return False
        named = f"{option} {port}" if exc.errno == errno.EACCES else f"--host {host}"
        raise CommandFailed(f"{named}: {exc.strerror}") from exc
    return True


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens to nobody. Raises: OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
