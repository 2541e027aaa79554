"""Parses hosts of UDP sinks: a name, an IPv4 address, or an IPv6 address with or without brackets."""

from __future__ import annotations

import ipaddress
import re

from streamfleet_core.protocol.limits import HOST_PATTERN

EXPECTED = "a host's name, an IPv4 address, or an IPv6 address such as ::1, [::1] or fe80::1%eth0"

_HOST = re.compile(HOST_PATTERN)


def host_of(given: str) -> str:
    """Normalize a host for a resolver. Raises: ValueError with what was expected."""
    bracketed = given.startswith("[") and given.endswith("]")
    host = given[1:-1].replace("%25", "%", 1) if bracketed else given
    if _HOST.fullmatch(host) is None or (bracketed and ":" not in host):
        raise ValueError(f"expected {EXPECTED}")
    if ":" in host:
        _check_address(host)
    elif "%" in host:
        raise ValueError(f"expected {EXPECTED}")
    return host


def is_address(host: str) -> bool:
    """Whether it is a fixed address. One with an interface is not: interfaces differ, and may change."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def place_of(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets if the host has colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_address(host: str) -> None:
    address, percent, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        raise ValueError(f"expected {EXPECTED}") from None
    if percent and (not zone or "%" in zone or ":" in zone):
        raise ValueError(f"expected {EXPECTED}")
