"""How a device reaches the broker's sockets, and how others reach the device's."""

from __future__ import annotations

import pytest

from streamfleet_worker.agent.addresses import publish_endpoint, reached_by
from streamfleet_worker.config import parse


@pytest.mark.parametrize(
    ("address", "host", "reached"),
    [
        ("tcp://*:7773", "10.0.0.1", "tcp://10.0.0.1:7773"),
        ("tcp://*:7773", "fe80::1", "tcp://[fe80::1]:7773"),
        ("http://*:8080", "broker.local", "http://broker.local:8080"),
        ("tcp://relay:7773", "10.0.0.1", "tcp://relay:7773"),
    ],
)
def test_a_star_is_the_host_under_which_the_broker_was_reached(address: str, host: str, reached: str) -> None:
    assert reached_by(address, host) == reached


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [
        ([], ""),
        (["--publish-port", "7000", "--publish-host", "10.0.0.2"], "tcp://10.0.0.2:7000"),
        (["--publish-port", "7000", "--publish-host", "::1"], "tcp://[::1]:7000"),
        (["--publish-port", "7000", "--publish-host", "*"], "tcp://127.0.0.1:7000"),
    ],
)
def test_the_own_socket_is_announced_by_the_address_towards_the_broker(
    options: list[str], endpoint: str
) -> None:
    config = parse(options, {})

    assert publish_endpoint(config, "tcp://127.0.0.1:7771") == endpoint
