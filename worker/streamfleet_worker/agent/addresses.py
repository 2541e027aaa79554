"""Network addresses: how this device reaches the broker's sockets, and how others reach the device's."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from streamfleet_worker.config import WorkerConfig


def reached_by(address: str, host: str) -> str:
    """Replace `*` in an address of the broker by the host under which this device reached it."""
    return address.replace("*", _in_url(host), 1)


def publish_endpoint(config: WorkerConfig, broker: str) -> str:
    """Return the endpoint of the device's own PUB socket as others reach it, or "" without such a socket."""
    if config.publish_port is None:
        return ""
    host = config.publish_host if config.publish_host != "*" else _address_towards(broker)
    return f"tcp://{_in_url(host)}:{config.publish_port}"


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
