"""Packets of AV1 as their containers store them, made a stream of OBUs."""

from __future__ import annotations

import pytest

from streamfleet_worker.video.hardware.obu_stream import ObuStream

DELIMITER = b"\x12\x00"
HEADER = b"\x0a\x03abc"
FRAME = b"\x32\x02xy"
RECORD = b"\x81\x00\x0c\x00"


@pytest.mark.parametrize("extradata", [RECORD + HEADER, HEADER])
@pytest.mark.parametrize(
    ("content", "keyframe", "made"),
    [
        (FRAME, False, DELIMITER + FRAME),
        (DELIMITER + FRAME, False, DELIMITER + FRAME),
        (FRAME, True, DELIMITER + HEADER + FRAME),
        (b"\x0a\x01z" + FRAME, True, DELIMITER + b"\x0a\x01z" + FRAME),
        (DELIMITER + HEADER + FRAME, True, DELIMITER + HEADER + FRAME),
        (b"", True, DELIMITER + HEADER),
    ],
)
def test_each_packet_begins_with_a_delimiter_and_a_keyframe_has_a_header(
    extradata: bytes, content: bytes, keyframe: bool, made: bytes
) -> None:
    assert ObuStream(extradata).convert(content, keyframe=keyframe) == made


def test_a_container_may_store_nothing_beside_the_stream() -> None:
    assert ObuStream(b"").convert(FRAME, keyframe=True) == DELIMITER + FRAME
