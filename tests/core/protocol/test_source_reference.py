"""One reading of a source's reference, for all three components."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.limits import MAX_REASON, MAX_TEXT
from streamfleet_core.protocol.source_reference import (
    TEST_PATTERN,
    SourceKind,
    blob_of,
    expected_instead,
    is_movable,
    is_playable,
    kind_of,
    path_of,
    redacted,
    reference_of,
    sanitised,
    shown_reason,
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
        *("/videos/cam:1.mp4", "cam:1.mp4", "./http:1.mp4", "/videos/a://b", "~/a:b@c.mp4", "a@b.mp4", "0"),
        *(
            "rtsp://user:p%23%3F%2F%40%5Bs@h/x",
            "rtsp://u:p@ss@h/x",
            "rtsp://u@h/x",
            "rtsp://[fe80::1%25eth0]/x",
        ),
        *(
            "http://h/x?mail=a@b.org",
            "http://h/x#t=3",
            "rtsp://h/user=a&password=b&channel=1.sdp?real_stream",
        ),
        *("file:/videos/a.mp4", "FILE:///videos/a.mp4", "file://localhost/videos/a.mp4", "file:a.mp4"),
    ],
)
def test_what_some_device_may_open_is_playable(reference: str | int) -> None:
    assert is_playable(reference)


@pytest.mark.parametrize(
    "reference",
    [
        *("foo://x", "gopher://u:p@h/", "://x"),
        *("scene://foo", "scene://conveyor/abc", "scene://conveyor/0", "scene://conveyor/1000000"),
    ],
)
def test_what_no_device_can_ever_open_is_not_playable(reference: str) -> None:
    assert not is_playable(reference)


@pytest.mark.parametrize(
    "reference",
    [
        *("rtsp://user:CANARY#1@h/x", "rtsp://user:CANARY?1@h/x", "rtsp://user:CANARY/1@h/x"),
        *("rtsp://user:12#CANARY@h/x", "rtsp://user:12?CANARY@h/x", "rtsp://user:12/CANARY@h/x"),
        *("rtsp://user#CANARY@h/x", "rtsp://user:12/CANARY?a=b@h/x", "http://user:12?CANARY=1@h/x"),
        *("http://h/a@b?x=CANARY@h", "http://user:1/CANARY?a=b@h/x", "rtsp://user:CAN[ARY@h/x"),
        *(
            "rtsp://user:CANARY]@h/x",
            "rtsp://user:CAN ARY@h/x",
            'rtsp://user:CAN"ARY@h/x',
            "rtsp://u:CAN\\ARY@h/x",
        ),
        *("rtsp://user:CANARY", "rtsp://user:CANARY#1", "rtsp://h:CANARY/x", "rtsp://h/x#CANARY@h"),
    ],
)
def test_a_password_that_is_not_encoded_is_refused_with_what_to_write_and_shown_nowhere(
    reference: str,
) -> None:
    expected = expected_instead(reference)

    assert all(code in expected for code in ("%23", "%3F", "%2F", "%40"))
    assert "CAN" not in f"{expected} {sanitised(reference)}"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("rtsp:/user:CANARY@h/x", "rtsp://HOST/PATH"),
        ("rtsp:user:CANARY@h/x", "rtsp://HOST/PATH"),
        (r"rtsp:\\user:CANARY@h\x", "rtsp://HOST/PATH"),
        ("user:CANARY@10.0.0.9/x", "a URL of rtsp"),
        ("rtsp%3A%2F%2Fuser%3ACANARY%40h", "a URL of rtsp"),
        ("file://user:CANARY@h/x.mp4", "file:///PATH"),
        ("file://videos/x.mp4", "file:///PATH"),
        ("rtsp:///x", "a host behind rtsp://"),
        ("rtsp://h:99999/x", "a port from 0 to 65535"),
        (f"rtsp://{'a' * 4000}/x", "a host of at most 253 characters"),
        (f"rtsp://{'a' * 64}/x", "a host and a port"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_with_what_to_write(reference: str, expected: str) -> None:
    assert expected in expected_instead(reference)
    assert "CANARY" not in str(sanitised(reference))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("webcam", 0), ("0", 0), ("17", 17), (3, 3)),
        *((text, text) for text in ("00", "-1", "1.5", "\u0661", "./0", "Webcam", "9999999999")),
    ],
)
def test_a_camera_may_be_named_by_a_text(given: str | int, meant: str | int) -> None:
    assert reference_of(given) == meant


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("/videos/cam:1.mp4", "/videos/cam:1.mp4"),
        ("cam:1.mp4", "./cam:1.mp4"),
        ("a%20b.mp4", "a%20b.mp4"),
        ("file:///videos/a%20b%3F%23.mp4", "/videos/a b?#.mp4"),
        ("file:///videos/what?.mp4", "/videos/what?.mp4"),
        ("FILE://localhost/videos/a.mp4", "/videos/a.mp4"),
        ("file:/videos/a.mp4", "/videos/a.mp4"),
        ("file:a%3A1.mp4", "./a:1.mp4"),
        ("file:///videos/%E2%82%AC.mp4", "/videos/€.mp4"),
    ],
)
def test_a_path_is_what_the_operating_system_calls_it(reference: str, path: str) -> None:
    assert path_of(reference) == path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open 'rtsp://u:p@h/x'.", "cannot open 'rtsp://h/x'."),
        ("url=rtsp://u:p@h/x?k=v, (http://u:p@k)", "url=rtsp://h/x, (http://k)"),
        (
            "10.0.0.9/user=admin&password=CANARY&channel=1 is missing",
            "10.0.0.9/user=***&password=***&channel=1 is missing",
        ),
        ("no file user:CANARY@h/x", "no file ***"),
        ("a=b and c@d are fine: key 1/2", "a=b and c@d are fine: key 1/2"),
        ("://", "<unparseable source>"),
    ],
)
def test_a_text_loses_what_opens_doors_and_nothing_else(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_text_is_cut_between_words_so_that_no_half_of_an_address_is_left() -> None:
    text = "x" * (MAX_TEXT - 14) + " rtsp://admin:12345@h/x"

    assert redacted(text) == "x" * (MAX_TEXT - 14) + " …"


@pytest.mark.parametrize("text", ["no file /a\udcff.mp4", "\udcff" * 1000])
def test_a_reason_can_be_sent_whatever_a_file_is_called(text: str) -> None:
    assert len(shown_reason(text).encode()) <= MAX_REASON


def test_a_reason_is_cut_behind_its_redaction() -> None:
    shown = shown_reason("€ " * 100 + "rtsp://u:CANARY@h/x " + "€ " * 100)

    assert "CANARY" not in shown
    assert 290 < len(shown.encode()) <= MAX_REASON


def test_content_of_the_api_is_named_by_its_sha256() -> None:
    digest = "0a" * 32

    assert blob_of(f"blob:{digest}") == digest
    assert kind_of(f"blob:{digest}") is SourceKind.FILE
    assert is_playable(f"blob:{digest}")
    assert sanitised(f"blob:{digest}") == f"blob:{digest}"
    for other in (
        f"blob:{digest}0",
        f"blob:{digest[1:]}",
        f"blob:../{digest[3:]}",
        f"BLOB:{digest}",
        digest,
        0,
    ):
        assert blob_of(other) is None
