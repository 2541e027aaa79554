"""One reading of a source's reference, for all three components."""

from __future__ import annotations

import pytest

from streamfleet_broker.protocol.reference import (
    TEST_PATTERN,
    SourceKind,
    is_movable,
    is_playable,
    kind_of,
    path_of,
    redacted,
    sanitised,
)


@pytest.mark.parametrize(
    ("reference", "kind", "movable"),
    [
        ("/videos/a.mp4", SourceKind.FILE, False),
        ("a.mp4", SourceKind.FILE, False),
        ("file:///videos/a.mp4", SourceKind.FILE, False),
        (0, SourceKind.DEVICE, False),
        ("/dev/video0", SourceKind.DEVICE, False),
        ("rtsp://10.0.0.9/door", SourceKind.URL, True),
        (TEST_PATTERN, SourceKind.PATTERN, True),
    ],
)
def test_a_reference_says_what_it_is_and_who_can_open_it(
    reference: str | int, kind: SourceKind, movable: bool
) -> None:
    assert (kind_of(reference), is_movable(reference)) == (kind, movable)


def test_a_file_may_be_given_as_an_address() -> None:
    assert path_of("file:///videos/a%20b.mp4") == path_of("/videos/a b.mp4") == "/videos/a b.mp4"


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("rtsp://user:pass@10.0.0.9:554/door?token=x#y", "rtsp://10.0.0.9:554/door"),
        ("http://[::1]:80/v", "http://[::1]:80/v"),
        ("rtsp://user:pa/ss@10.0.0.9/door", "<unparseable source>"),
        ("rtsp://[::1/door", "<unparseable source>"),
        ("/videos/a.mp4", "/videos/a.mp4"),
        (3, 3),
    ],
)
def test_nothing_that_opens_a_door_is_shown(reference: str | int, shown: str | int) -> None:
    assert sanitised(reference) == shown


def test_addresses_in_a_text_are_shown_without_what_opens_a_door() -> None:
    assert redacted("lost rtsp://u:p@h/x: retrying") == "lost rtsp://h/x: retrying"


@pytest.mark.parametrize(
    "reference",
    [
        *("/videos/a.mp4", "missing.avi", "file:///videos/a.mp4", 0, "/dev/video0", TEST_PATTERN),
        *("rtsp://10.0.0.9/door", "RTSPS://u:p@h/x", "http://h/v.mp4", "rtmp://h/x", "udp://@:5000"),
        *("scene://conveyor/1", "scene://conveyor/999999"),
    ],
)
def test_what_some_device_may_open_is_playable(reference: str | int) -> None:
    assert is_playable(reference)


@pytest.mark.parametrize(
    "reference",
    [
        *("foo://x", "gopher://u:p@h/", "://x", "/videos/a://b"),
        *("scene://foo", "scene://conveyor/abc", "scene://conveyor/0", "scene://conveyor/1000000"),
    ],
)
def test_what_no_device_can_ever_open_is_not_playable(reference: str) -> None:
    assert not is_playable(reference)
