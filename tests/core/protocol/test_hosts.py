"""One reading of where datagrams go, for every door."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.hosts import host_of, is_address, place_of


@pytest.mark.parametrize(
    ("given", "host"),
    [
        *((name, name) for name in ("127.0.0.1", "receiver", "a.b-c_d.example", "::1", "fe80::1%eth0")),
        *(("[::1]", "::1"), ("[fe80::1%25eth0]", "fe80::1%eth0"), ("::ffff:10.0.0.9", "::ffff:10.0.0.9")),
    ],
)
def test_a_host_is_a_name_or_an_address(given: str, host: str) -> None:
    assert host_of(given) == host


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "a b",
            "user:CANARY@h",
            "h/x",
            "10.0.0.9:80",
            "[::1",
            "[h]",
            ":::1",
            "fe80::1%",
            "a%b",
            "[::1]:9",
        ),
        "a" * 254,
    ],
)
def test_what_is_none_is_refused_with_what_was_expected(given: str) -> None:
    with pytest.raises(ValueError, match="expected a host's name, an IPv4 address, or an IPv6 address"):
        host_of(given)


def test_a_place_is_written_so_that_host_and_port_can_be_told_apart() -> None:
    assert (place_of("h", 1), place_of("fe80::1%eth0", 9)) == ("h:1", "[fe80::1%eth0]:9")


def test_an_address_without_an_interface_is_the_same_for_all() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "fe80::1%eth0", "256.0.0.1")

    assert [is_address(host) for host in hosts] == [True, True, False, False, False]
