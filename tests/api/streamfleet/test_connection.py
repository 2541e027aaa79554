"""How a client knows its api, and is known to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet.connection import Connection, only_loopback
from streamfleet.errors import BadSetting
from streamfleet_core.runtime.pinned_tls import FilePinnedContext, PinnedContext
from streamfleet_core.runtime.private_file import write_private


def test_the_environment_is_read_as_the_command_line_reads_it() -> None:
    variables = {
        "STREAMFLEET_URL": "https://fleet:1",
        "STREAMFLEET_TOKEN": "t" * 20,
        "STREAMFLEET_CA": "/ca.pem",
        "STREAMFLEET_FINGERPRINT": "",
        "STREAMFLEET_DATA_DIR": "/data",
    }

    assert Connection.from_environment(variables) == Connection(
        url="https://fleet:1", token="t" * 20, ca_file=Path("/ca.pem"), data_dir=Path("/data")
    )
    assert Connection.from_environment({}) == Connection()


def test_the_token_of_this_host_is_found_and_shown_to_no_other(tmp_path: Path) -> None:
    write_private(tmp_path / "api/token", b"secret\n")

    assert Connection(data_dir=tmp_path).headers() == {"authorization": "Bearer secret"}
    assert Connection(data_dir=tmp_path, token="other").headers() == {"authorization": "Bearer other"}
    assert Connection(url="http://203.0.113.9", data_dir=tmp_path).headers() == {}


def test_a_token_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(BadSetting, match="token: expected visible ASCII"):
        Connection(token="a\nb").headers()


def test_a_certificate_is_known_by_what_is_given_first(tmp_path: Path) -> None:
    file = tmp_path / "api/fingerprint"
    write_private(file, b"ab" * 32)
    url = "https://127.0.0.1:1"

    given = Connection(url=url, fingerprint="AB:" * 31 + "AB", data_dir=tmp_path).verification()
    own = Connection(url=url, data_dir=tmp_path).verification()

    assert isinstance(given, PinnedContext)
    assert given.expected() == "ab" * 32
    assert isinstance(own, FilePinnedContext)
    assert Connection(url="https://203.0.113.9", data_dir=tmp_path).verification() is True
    assert Connection(data_dir=tmp_path).verification() is True


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("fingerprint", "abc", "expected the sha256 of a certificate"),
        ("ca_file", Path("/none"), "/none: No such file"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(setting: str, value: object, problem: str) -> None:
    connection = Connection(url="https://127.0.0.1", **{setting: value})  # type: ignore[arg-type]

    with pytest.raises(BadSetting, match=problem) as caught:
        connection.verification()

    assert caught.value.setting == setting


def test_an_address_is_shown_without_its_password() -> None:
    connection = Connection(url="http://me:hunter2@fleet:1/", token="hunter2")

    assert connection.shown == "http://fleet:1"
    assert connection.url.endswith("@fleet:1/")
    assert "token" not in repr(connection)


def test_which_endpoints_only_this_host_reaches() -> None:
    assert only_loopback(["tcp://127.0.0.1:1", "tcp://[::1]:2", "tcp://localhost:3"])
    assert not only_loopback(["tcp://127.0.0.1:1", "tcp://10.0.0.9:1"])
