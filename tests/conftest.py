"""What tests of several parts share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.rtsp import PACKAGES, RtspServer, is_missing
from tests.fakes.web import Web, make_certificate

HERE = Path(__file__).parent
# Some tests load ONNX Runtime themselves. It reads this then, and sends nothing and opens no file of its own.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# FFmpeg in the tests' own process is silent whichever test opens a film first; it is asked only once.
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"


def pytest_configure() -> None:
    """Let no test depend on the shell that runs it, on chance, or on the time that an example takes."""
    # A shell that runs the tests in the background has them ignore Ctrl-C; what they start must not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A machine that stalls for a second makes any example slow. The examples are the same in each run: what
    # another one finds is no fault of the change that is tested. STREAMFLEET_TEST_RANDOM=1 looks at others.
    settings.register_profile(
        "timeless",
        deadline=None,
        derandomize="STREAMFLEET_TEST_RANDOM" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("timeless")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with fleets and end with what is pure: the last file then leaves no core idle for long."""
    order = {"fleet": 0, "core": 2}
    items.sort(key=lambda item: order.get(item.path.relative_to(HERE).parts[0], 1))


def pytest_collection_finish() -> None:
    """Let the garbage collector look no more at what was loaded until now: half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that lets the next ones import a fake module: which ones follow is chance."""
    yield
    assert not [each for each in sys.path if Path(each).is_relative_to(HERE / "fakes")]
    assert "tensorrt" not in sys.modules


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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tests' web server."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def web(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server that is trusted by what this test runs, and asked without a proxy."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Web(certificate)
    yield server
    server.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with ten pictures of the test pattern."""
    from tests.fakes.pictures import write_pictures  # it loads OpenCV, which few tests need

    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder)
    return folder
