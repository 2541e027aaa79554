"""The format of pixels, also of a stream that has not told one."""

from __future__ import annotations

from pathlib import Path

import av

from streamfleet_worker.video.pixel_format import pixel_format_of
from tests.fakes.process_harness import write_video


def test_a_stream_tells_its_format(tmp_path: Path) -> None:
    with av.open(str(write_video(tmp_path / "film.avi", 2))) as container:
        assert pixel_format_of(container.streams.video[0].codec_context) == "yuvj420p"


def test_a_picture_that_is_cut_off_has_none(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))

    with av.open(str(path)) as container:
        assert pixel_format_of(container.streams.video[0].codec_context) is None
