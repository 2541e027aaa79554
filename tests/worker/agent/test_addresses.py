"""How a device reaches the broker's sockets, and how others reach the device's."""

from __future__ import annotations

import pytest

from streamfleet_worker.agent import addresses
from streamfleet_worker.agent.addresses import publish_endpoints, reached_by
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
    ("options", "endpoints"),
    [
        ([], ()),
        (["--publish-port", "7000", "--publish-host", "10.0.0.2"], ("tcp://10.0.0.2:7000",)),
        (["--publish-port", "7000", "--publish-host", "::1"], ("tcp://[::1]:7000",)),
    ],
)
def test_the_own_socket_is_announced_by_the_address_that_it_has(
    options: list[str], endpoints: tuple[str, ...]
) -> None:
    assert publish_endpoints(parse(options, {}), "tcp://127.0.0.1:7771") == endpoints


def test_a_socket_of_all_networks_is_announced_first_by_the_address_towards_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = parse(["--publish-port", "7000", "--publish-host", "*"], {})
    of_this_host = publish_endpoints(config, "tcp://127.0.0.1:7771")
    many = [f"10.0.{number}.1" for number in range(20)]
    monkeypatch.setattr(addresses, "_addresses", lambda: ["127.0.0.1", *many])

    assert of_this_host[0] == "tcp://127.0.0.1:7000"
    assert not any("127.0" in each for each in of_this_host[1:])
    assert publish_endpoints(config, "tcp://127.0.0.1:7771") == (
        "tcp://127.0.0.1:7000",
        *(f"tcp://10.0.{number}.1:7000" for number in range(8)),
    )
