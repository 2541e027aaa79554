"""Which pictures FFmpeg converts, in the order of their conversion."""

from __future__ import annotations

import av
import pytest

from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.sources.decoded_picture import Converter


def recorded_conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The width and height of each conversion from now on."""
    converted: list[tuple[int, int]] = []
    convert = Converter.convert

    def recording(self: Converter, frame: av.VideoFrame, width: int, height: int) -> Image:
        converted.append((width, height))
        return convert(self, frame, width, height)

    monkeypatch.setattr(Converter, "convert", recording)
    return converted
