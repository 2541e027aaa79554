"""The original's doors with a whole fleet behind them: its HTTP client unchanged, and its TCP protocol."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from tests.fakes.manager_client import ask
from tests.fakes.ports_and_folders import SHARED
from tests.fleet.harness import Fleet, UdpReceiver, wait_for

CLIENT = SHARED / "data/original_client.py"
CAMERA = "TestPatternStreamProducer"  # ten frames a second, for ever
DRAINED = 1.0  # seconds without a datagram, after which none is on its way
HUNG = 4.0  # seconds; an answer that waits for a dead process takes 5 at least
TRIES = 3  # a machine that stands still makes one answer slow, a dead process would do so each time


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    """Its workers are killed."""
    return own_fleet


@pytest.fixture
def original(fleet: Fleet) -> ModuleType:
    """The client that the original's documentation shows, word for word."""
    if not CLIENT.exists():
        pytest.skip("the original's client is not here (../shared/data)")
    spec = importlib.util.spec_from_file_location("original_client", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    client.URL = fleet.url  # type: ignore[attr-defined]
    return client


class Http:
    """The work below, through the original's client."""

    def __init__(self, client: ModuleType) -> None:
        self._client = client

    def initialise(self, port: int) -> str:
        """A pipeline of a camera; its id."""
        answer = self._client.initialise_pipeline(CAMERA, "shapes/1", "a key", "127.0.0.1", port, max_fps=10)
        assert answer["status"] == "success", answer
        return str(answer["context"]["pipeline_id"])

    def list(self) -> Any:
        """The ids of all pipelines."""
        return self._client.list_pipelines()["pipelines"]

    def report(self, pipeline_id: str) -> Any:
        """What is known of one."""
        return self._client.get_pipeline_status(pipeline_id)["report"]

    def pause(self, pipeline_id: str) -> Any:
        """Its outcome."""
        return self._client.pause_pipeline(pipeline_id)["status"]

    def resume(self, pipeline_id: str) -> Any:
        """Its outcome."""
        return self._client.resume_pipeline(pipeline_id)["status"]

    def terminate(self, pipeline_id: str) -> Any:
        """Its outcome."""
        return self._client.terminate_pipeline(pipeline_id)["status"]


class Tcp:
    """The same, as frames on the Stream Manager's port."""

    def __init__(self, port: int) -> None:
        self._port = port

    def initialise(self, port: int) -> str:
        """A pipeline of a camera; its id."""
        reply = ask(
            self._port,
            "init",
            video_reference=CAMERA,
            model_id="shapes/1",
            api_key="a key",
            sink_configuration={"type": "udp_sink", "host": "127.0.0.1", "port": port},
            model_configuration={"type": "object-detection"},
            max_fps=10,
        )
        assert reply["response"] == {"status": "success"}
        return str(reply["pipeline_id"])

    def list(self) -> Any:
        """The ids of all pipelines."""
        return ask(self._port, "list_pipelines")["response"]["pipelines"]

    def report(self, pipeline_id: str) -> Any:
        """What is known of one."""
        return ask(self._port, "status", pipeline_id)["response"]["report"]

    def pause(self, pipeline_id: str) -> Any:
        """Its outcome."""
        return ask(self._port, "mute", pipeline_id)["response"]["status"]

    def resume(self, pipeline_id: str) -> Any:
        """Its outcome."""
        return ask(self._port, "resume", pipeline_id)["response"]["status"]

    def terminate(self, pipeline_id: str) -> Any:
        """Its outcome."""
        return ask(self._port, "terminate", pipeline_id)["response"]["status"]


Door = Http | Tcp


@pytest.fixture(params=["http", "tcp"])
def door(request: pytest.FixtureRequest, clean: Fleet) -> Door:
    """Each of the original's doors to the module's fleet of two devices."""
    if request.param == "tcp":
        return Tcp(clean.manager_port)
    return Http(request.getfixturevalue("original"))


@pytest.fixture
def receivers() -> Any:
    """Two receivers of datagrams."""
    made = [UdpReceiver(), UdpReceiver()]
    yield made
    for receiver in made:
        receiver.close()


def test_the_originals_work_is_done_on_two_devices_through_each_door(
    door: Door, clean: Fleet, receivers: list[UdpReceiver]
) -> None:
    def is_measured(pipeline_id: str) -> bool:
        return door.report(pipeline_id)["inference_throughput"] > 1

    ids = [door.initialise(receiver.port) for receiver in receivers]
    for receiver in receivers:
        receiver.wait_for(5)

    assert door.list() == ids
    assert {door.report(each)["device"] for each in ids} == {"local-1", "local-2"}
    for pipeline_id in ids:
        wait_for(partial(is_measured, pipeline_id), "its throughput")
        assert door.report(pipeline_id)["sources_metadata"][0]["state"] == "RUNNING"

    assert door.pause(ids[0]) == "success"
    assert door.pause(ids[0]) == "failure"
    emitted = quiet(receivers[0])
    assert emitted == len(receivers[0].messages)
    assert door.resume(ids[0]) == "success"
    assert door.resume(ids[0]) == "failure"
    receivers[0].wait_for(emitted + 5)

    assert [door.terminate(each) for each in ids] == ["success", "success"]
    assert door.list() == []
    assert [door.terminate(each) for each in ids] == ["failure", "failure"]
    for receiver in receivers:
        quiet(receiver)


def quiet(receiver: UdpReceiver) -> int:
    """How many datagrams there are, once no more come."""
    before = -1
    for _ in range(10):
        if before == (before := len(receiver.messages)):
            return before
        time.sleep(DRAINED)
    raise AssertionError("datagrams go on coming")


def test_what_one_door_does_the_other_shows_at_once(clean: Fleet, original: ModuleType) -> None:
    http, tcp = Http(original), Tcp(clean.manager_port)
    pipeline_id = tcp.initialise(9)
    assert http.list() == [pipeline_id]
    wait_for(lambda: http.report(pipeline_id)["state"] == "running", "its first frame")

    assert http.pause(pipeline_id) == "success"
    assert tcp.report(pipeline_id)["state"] == "paused"
    assert tcp.pause(pipeline_id) == "failure"
    assert tcp.resume(pipeline_id) == "success"
    assert http.report(pipeline_id)["state"] == "running"
    assert http.terminate(pipeline_id) == "success"
    assert tcp.list() == []


def test_an_unreachable_camera_is_a_success_whose_pipeline_can_always_be_terminated(clean: Fleet) -> None:
    tcp = Tcp(clean.manager_port)
    reply = ask(
        clean.manager_port,
        "init",
        video_reference=["rtsp://127.0.0.1:9/nobody", "/there/is/no/such.mp4"],
        model_id="shapes/1",
        sink_configuration={"type": "udp_sink", "host": "127.0.0.1", "port": 9},
        model_configuration={"type": "object-detection"},
    )
    pipeline_id = reply["pipeline_id"]
    assert reply["response"] == {"status": "success"}

    def states() -> list[str]:
        return [source["state"] for source in tcp.report(pipeline_id)["sources_metadata"]]

    wait_for(lambda: "ERROR" in states() or "RESTARTING" in states(), lambda: f"{states()}")

    assert tcp.terminate(pipeline_id) == "success"
    assert tcp.list() == []


@pytest.mark.parametrize("victim", ["sf-agent", "camera"])
def test_a_killed_worker_hangs_no_door(clean: Fleet, udp: UdpReceiver, victim: str) -> None:
    tcp = Tcp(clean.manager_port)
    pipeline_id = tcp.initialise(udp.port)
    udp.wait_for(1)

    slowest = []
    for _ in range(TRIES):
        before = incarnation(udp)
        clean.kill_all(victim)  # on whichever device it is
        slowest.append(
            max(timed(partial(door.report, pipeline_id)) for door in (tcp, clean) for _ in range(50))
        )
        wait_for(lambda: incarnation(udp) > before, "that it runs again")  # noqa: B023
        if slowest[-1] < HUNG:
            break

    assert min(slowest) < HUNG, slowest
    wait_for(lambda: tcp.report(pipeline_id)["state"] == "running", "that it is told")
    assert tcp.terminate(pipeline_id) == "success"


def incarnation(udp: UdpReceiver) -> tuple[int, int]:
    """Which camera process of the pipeline sent the last datagram: later ones have greater numbers."""
    about = udp.messages[-1]["inference_metadata"]
    return about["gen"], about["inc"]


def timed(call: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began
