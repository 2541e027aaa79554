"""Sources and sinks mean the same at each door: `/v2`, both families of the original, and its socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from streamfleet_core.protocol.requests import CreatePipeline
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec, UdpSink
from tests.api.conftest import Api
from tests.fakes.broker import Peer, pipeline, spec
from tests.fakes.manager_client import ask

MODEL = ModelRef("parts/1", "ab" * 32)
XMEYE = "rtsp://10.0.0.9/user=admin&password=CANARY&channel=1&stream=0.sdp?real_stream"
BARE = {"type": "ModelConfiguration", "model_id": "parts/1"}
DOORS = ("v2", "original", "newer", "socket")

Door = Callable[
    [Any, str], "tuple[bool, str]"
]  # source and host of a sink in; whether it took them, and the answer


@pytest.fixture(autouse=True)
def _known(peer: Peer) -> None:
    peer.models["parts/1"] = MODEL


@pytest.fixture
def doors(http: httpx.Client, api: Api) -> dict[str, Door]:
    def v2(source: Any, host: str) -> tuple[bool, str]:
        sinks = [{"host": host, "port": 9}]
        answer = http.post("/v2/pipelines", json={"model": "parts/1", "sources": [source], "sinks": sinks})
        return answer.is_success, answer.text

    def original(source: Any, host: str) -> tuple[bool, str]:
        answer = http.post("/initialise", json=of_original(source, host))
        return answer.is_success, answer.text

    def newer(source: Any, host: str) -> tuple[bool, str]:
        body = {
            "video_configuration": {"type": "VideoConfiguration", "video_reference": source},
            "processing_configuration": BARE,
            "sink_configuration": {"type": "udp_sink", "host": host, "port": 9},
        }
        answer = http.post("/inference_pipelines/initialise", json=body)
        return answer.is_success, answer.text

    def socket(source: Any, host: str) -> tuple[bool, str]:
        body = {**of_original(source, host), "model_configuration": {"type": "object-detection"}}
        reply = ask(api.manager_port, "init", **body)
        return reply["response"]["status"] == "success", json.dumps(reply)

    return {"v2": v2, "original": original, "newer": newer, "socket": socket}


def of_original(source: Any, host: str) -> dict[str, Any]:
    sink = {"type": "udp_sink", "host": host, "port": 9}
    return {"video_reference": source, "model_id": "parts/1", "sink_configuration": sink}


def created(peer: Peer) -> PipelineSpec:
    return next(asked.spec for asked in reversed(peer.asked) if isinstance(asked, CreatePipeline))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("source", "host", "meant", "sink"),
    [
        ("webcam", "127.0.0.1", 0, "127.0.0.1"),
        ("0", "::1", 0, "::1"),
        ("7", "[::1]", 7, "::1"),
        ("/videos/cam:1.mp4", "[fe80::1%25eth0]", "/videos/cam:1.mp4", "fe80::1%eth0"),
        ("cam:1.mp4", "receiver", "cam:1.mp4", "receiver"),
        ("file:///videos/a%20b.mp4", "receiver", "file:///videos/a%20b.mp4", "receiver"),
        ("~/a.mp4", "receiver", "~/a.mp4", "receiver"),
        (XMEYE, "receiver", XMEYE, "receiver"),
    ],
)
def test_what_is_meant_reaches_the_broker(
    doors: dict[str, Door], peer: Peer, door: str, source: Any, host: str, meant: Any, sink: str
) -> None:
    taken, answer = doors[door](source, host)

    assert taken, answer
    assert (created(peer).sources[0].reference, created(peer).sinks) == (meant, (UdpSink(sink, 9),))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "source",
    [
        *("rtsp://user:CANARY#1@h/x", "rtsp://user:CANARY?1@h/x", "rtsp://user:CANARY/1@h/x"),
        *(
            'rtsp://user:CAN"ARY@h/x',
            "rtsp://user:12#CANARY@h/x",
            "rtsp://user:CAN ARY@h/x",
            "rtsp:/u:CANARY@h/x",
        ),
    ],
)
def test_a_password_that_is_not_encoded_is_refused_and_not_repeated(
    doors: dict[str, Door], peer: Peer, door: str, source: str
) -> None:
    taken, answer = doors[door](source, "127.0.0.1")

    assert not taken
    assert "expected" in answer or "Input should be" in answer
    assert "%23" in answer or "rtsp://HOST/PATH" in answer
    assert "CAN" not in answer
    assert "ARY" not in answer
    assert peer.pipelines == {}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("host", ["user:CANARY@h", "[h]", "10.0.0.9:80", "a b", "::1::"])
def test_a_sink_without_a_host_is_refused_with_what_was_expected(
    doors: dict[str, Door], door: str, host: str
) -> None:
    taken, answer = doors[door](0, host)

    assert not taken
    assert "CANARY" not in answer
    assert "expected" in answer or "should" in answer


@pytest.mark.parametrize("door", DOORS)
def test_what_was_shown_in_the_place_of_a_secret_is_no_address(doors: dict[str, Door], door: str) -> None:
    taken, answer = doors[door]("rtsp://10.0.0.9/token/***/live", "127.0.0.1")

    assert not taken
    assert "the whole address" in answer


def test_a_source_with_a_secret_in_its_path_keeps_it_when_it_comes_back_as_it_was_shown(
    http: httpx.Client, peer: Peer
) -> None:
    peer.pipelines["door"] = pipeline("door", version=1, spec=spec(XMEYE))
    shown = http.get("/v2/pipelines/door").json()["spec"]["sources"]

    answer = http.patch(
        "/v2/pipelines/door",
        json={"sources": [{**shown[0], "max_fps": 5}]},
        headers={"content-type": "application/merge-patch+json"},
    )

    assert answer.status_code == 200, answer.text
    assert peer.pipelines["door"].spec.sources == (SourceSpec(XMEYE, max_fps=5.0),)
    assert shown[0]["reference"] == "rtsp://10.0.0.9/user=***&password=***&channel=1&stream=0.sdp"
    assert "CANARY" not in answer.text
