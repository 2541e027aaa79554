"""What tests of several parts share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rtsp import PACKAGES, RtspServer, is_missing

# FFmpeg in the tests' own process is silent whichever test opens a film first; it is asked only once.
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"


@pytest.fixture
def rtsp() -> Iterator[Callable[..., RtspServer]]:
    """Makes RTSP servers, which are stopped in the end."""
    if is_missing():
        pytest.skip(f"there is no RTSP server here: apt-get install {PACKAGES}")
    made: list[RtspServer] = []

    def make(**options: Any) -> RtspServer:
        made.append(RtspServer(**options))
        return made[-1]

    yield make
    for server in made:
        server.close()
