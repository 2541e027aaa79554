"""A password in an address, in every form that cameras have, is in nothing that the fleet says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.fleet.harness import Fleet, Subscriber, wait_for
from tests.fleet.said import everything_said, over_tcp

CANARY = "hunter2"
FORMS = (
    "rtsp://admin:hunter2@{host}/door",
    "rtsp://admin:p%40%23hunter2@{host}/door",
    "rtsp://{host}/user=admin&password=hunter2&channel=1&stream=0.sdp?real_stream",
    "rtsp://{host}/user=admin_password=hunter2_channel=1_stream=0.sdp",
    "rtsp://{host}/h264/admin/hunter2/ch1/main",
    "rtsp://{host}/cam/realmonitor?user=admin&password=hunter2",
    "http://{host}/videostream.cgi?usr=admin&pwd=hunter2",
    "http://{host}/videostream.cgi;usr=admin;pwd=hunter2",
    "http://{host}/token/hunter2/live.m3u8",
    "http://{host}/auth/hunter2/%2570assword%253Dhunter2",
    "rtmp://{host}/live/hunter2",
    "{host}/user=admin&password=hunter2",
)
REFUSED = (
    "rtsp://admin:hunter2#1@{host}/door",
    "rtsp://admin:hunter2?1@{host}/door",
    "rtsp://admin:1#hunter2@{host}/door",
    "admin:hunter2@{host}/door",
)
# Keep the address whole, for their owner alone: the broker's store, and that of a worker for the pipelines
# that it starts without the broker.
STORES = ("store.db", "worker.db")


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    """Nothing else may say the word that is looked for."""
    return own_fleet


@pytest.fixture
def host() -> Iterator[str]:
    """A camera that refuses everything, and repeats in its answer what it was asked for."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403, f"no {self.path}")

        do_DESCRIBE = do_OPTIONS = do_GET  # noqa: N815 - as the library wants it

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_password_in_an_address_is_found_nowhere(clean: Fleet, host: str) -> None:
    answers: dict[str, str] = {}
    with closing(Subscriber(f"ipc://{clean.data}/broker/predictions.ipc", "")) as told:
        for number, form in enumerate(FORMS):
            reference = form.format(host=host)
            door = (in_original, in_v2, over_socket)[number % 3]
            answers[form] = door(clean, reference)
        wait_for(lambda: all(tried(clean, each) for each in clean.pipelines()), "a reason for each")
        listed = clean.http.get("/v2/pipelines").text
        answers["zmq"] = str(told.received)
    for form in REFUSED:
        reference = form.format(host=host)
        answers[f"refused {form}"] = clean.http.post(
            "/v2/pipelines", json={"model": "shapes/1", "sources": [reference]}
        ).text
        answers[f"cli {form}"] = str(
            clean.cli("run", "--model", "shapes/1", "--video", reference, check=False)
        )
        answers[f"cli {form}"] = answers[f"cli {form}"].replace(reference, "")  # the command itself

    assert len(clean.pipelines()) == len(FORMS)
    assert "channel=1" in listed
    said = {**answers, "v2": listed, **everything_said(clean)}
    for where, text in said.items():
        if not any(store in where for store in STORES) and "cmdline" not in where:
            place = text.find(CANARY)
            assert place < 0, f"the password is in {where}: {text[max(0, place - 200) : place + 50]}"


def in_original(fleet: Fleet, reference: str) -> str:
    return fleet.initialise(reference, "shapes/1")


def in_v2(fleet: Fleet, reference: str) -> str:
    answer = fleet.http.post("/v2/pipelines", json={"model": "shapes/1", "sources": [reference]})
    assert answer.status_code == 201, answer.text
    return answer.text


def over_socket(fleet: Fleet, reference: str) -> str:
    body = {
        "type": "init",
        "video_reference": reference,
        "model_id": "shapes/1",
        "sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": 9},
        "model_configuration": {"type": "object-detection"},
    }
    return over_tcp(fleet, json.dumps(body).encode())


def tried(fleet: Fleet, pipeline_id: str) -> bool:
    """Has it a reason why there is no picture?"""
    return bool(fleet.report(pipeline_id)["reason"])
