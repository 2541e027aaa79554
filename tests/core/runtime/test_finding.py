"""Findings: their text, and their JSON."""

from __future__ import annotations

import msgspec
import pytest

from streamfleet_core.runtime.finding import Finding, decode, encode, error, has_error, lines, ok, warning

FOUND = [ok("clock", "right"), warning("keys", "old", "make new ones"), error("disk", "full", "empty it")]


def test_findings_survive_json() -> None:
    assert decode(encode(FOUND)) == FOUND


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"name": "a", "severity": "bad", "found": "b"}]'])
def test_other_json_is_refused(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(content)


def test_a_remedy_is_below_what_was_found() -> None:
    assert list(lines(FOUND)) == [
        "ok       clock  right",
        "warning  keys   old",
        "                → make new ones",
        "error    disk   full",
        "                → empty it",
    ]
    assert list(lines([])) == []


def test_only_an_error_is_an_error() -> None:
    assert [has_error(each) for each in ([], FOUND[:2], FOUND)] == [False, False, True]
    assert Finding("a", "ok", "b").remedy == ""
