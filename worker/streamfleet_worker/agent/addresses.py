"""Network addresses: how this device reaches the broker's sockets, and how others reach the device's."""

from __future__ import annotations

import fcntl
import socket
import struct
from urllib.parse import urlsplit

from streamfleet_core.protocol.limits import MAX_ADDRESSES
from streamfleet_worker.config import WorkerConfig

_SIOCGIFADDR = 0x8915  # see netdevice(7)


def reached_by(address: str, host: str) -> str:
    """Replace `*` in an address of the broker by the host under which this device reached it."""
    return address.replace("*", _in_url(host), 1)


def publish_endpoints(config: WorkerConfig, broker: str) -> tuple[str, ...]:
    """Return the endpoints of the device's own PUB socket as others reach it; none without such a socket.

    The address towards the broker is the first one. Those of other networks follow.
    """
    if config.publish_port is None:
        return ()
    hosts = [config.publish_host]
    if config.publish_host == "*":
        hosts = [_address_towards(broker)]
        others = [each for each in _addresses() if each not in hosts]
        hosts += others[:MAX_ADDRESSES]
    return tuple(f"tcp://{_in_url(host)}:{config.publish_port}" for host in hosts)


def _addresses() -> list[str]:
    """Return the IPv4 address of each network interface, but for those of this host alone."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    return [each for each in found if not each.startswith("127.")]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _address_towards(endpoint: str) -> str:
    """Return this host's address on the route to the broker, or its name if there is no route now."""
    parts = urlsplit(endpoint)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
