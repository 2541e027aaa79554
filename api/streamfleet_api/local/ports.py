"""Checks whether the ports of a fleet are free on this machine.

`tools/ports.py` uses it before anything is installed, so it imports nothing that needs more than the standard
library.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from streamfleet_api.client.errors import CommandFailed


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Check all ports, given as option → port. Raises: CommandFailed that names those taken, or --host."""
    if taken := taken_ports(host, ports):
        raise CommandFailed(named(taken, host), "stop it, or choose other ports with these options")


def taken_ports(host: str, ports: Mapping[str, int]) -> dict[str, int]:
    """The options whose port is taken. Raises: CommandFailed that names --host."""
    return {option: port for option, port in ports.items() if not is_free(host, option, port)}


def named(taken: Mapping[str, int], host: str) -> str:
    """A sentence that names the ports that are taken."""
    *first, last = (f"{option} {port}" for option, port in taken.items())
    subject = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    return f"{subject} taken: something else listens there on {host}"


def free_port(host: str) -> int:
    """A port that is free at the moment. Raises: CommandFailed."""
    try:
        with _bound(host, 0) as probe:
            return int(probe.getsockname()[1])
    except OSError as exc:
        raise CommandFailed(f"--host {host}: {exc.strerror}") from exc


def is_free(host: str, option: str, port: int) -> bool:
    """Whether we can listen there. Raises: CommandFailed that names the wrong option."""
    try:
        _bound(host, port).close()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return False
        named = f"{option} {port}" if exc.errno == errno.EACCES else f"--host {host}"
        raise CommandFailed(f"{named}: {exc.strerror}") from exc
    return True


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen. Raises: OSError."""
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
