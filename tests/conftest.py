"""What tests of several parts share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rtsp import PACKAGES, RtspServer, is_missing

# FFmpeg in the tests' own process is silent whichever test opens a film first; it is asked only once.
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them ignore Ctrl-C; what they start must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
