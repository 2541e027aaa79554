"""A trial on a device: what becomes of a picture that the device draws late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from streamfleet.connection import Connection
from streamfleet_api.cli.trials.device_trial import DeviceTrial
from streamfleet_api.client.http_client import Client
from tests.fakes.patience import PATIENCE
from tests.fakes.web import serving

JPEG = b"\xff\xd8 drawn"
NONE = b'{"title": "Gateway Timeout", "status": 504, "detail": "no picture within 3 s"}'
GONE = b'{"title": "Not Found", "status": 404, "detail": "no pipeline try-1"}'


class SlowDevice(BaseHTTPRequestHandler):
    """An API that has no picture in the first answers, and then this one."""

    answers: Iterator[tuple[int, bytes]]

    def do_GET(self) -> None:
        status, content = next(type(self).answers)
        self.send_response(status)
        self.send_header("content-type", "image/jpeg" if status == 200 else "application/problem+json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def trial(url: str, output: Path) -> DeviceTrial:
    return DeviceTrial(
        client=Client(Connection(url=url)),
        model_id="parts/1",
        device="edge-1",
        frames=1,
        output=output,
        rules={},
        timeout=PATIENCE,
    )


def saved(tmp_path: Path, *answers: tuple[int, bytes], seconds: float) -> Path | None:
    class Device(SlowDevice):
        pass

    Device.answers = iter(answers)
    with serving(Device) as url:
        return trial(url, tmp_path)._save_picture("try-1", 0, "street", time.monotonic() + seconds)


def test_a_picture_is_waited_for_as_long_as_the_trial_may_take(tmp_path: Path) -> None:
    path = saved(tmp_path, (504, NONE), (504, NONE), (200, JPEG), seconds=PATIENCE)

    assert path is not None
    assert path.read_bytes() == JPEG


@pytest.mark.parametrize(("answer", "seconds"), [((504, NONE), 0.0), ((404, GONE), PATIENCE)])
def test_a_picture_that_does_not_follow_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: tuple[int, bytes], seconds: float
) -> None:
    assert saved(tmp_path, answer, seconds=seconds) is None
    assert "no picture of street" in capsys.readouterr().err
