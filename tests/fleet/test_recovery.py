"""Any process may be killed or stopped at any moment: what is desired runs again, by itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.harness import LIMIT, Fleet, Subscriber, UdpReceiver, rises, wait_for

# `STREAMFLEET_TEST_ROUNDS=10 make tests ARGS=tests/fleet/test_recovery.py` for the long run.
ROUNDS = int(os.environ.get("STREAMFLEET_TEST_ROUNDS", "1"))
PROCESSES = ["camera", "engine", "publisher", "sf-agent", "sf-broker", "sf-api"]


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    """Its processes are killed."""
    return own_fleet


def running_again(fleet: Fleet, subscriber: Subscriber, pipeline_ids: list[str]) -> None:
    """Until every pipeline has sent ten more predictions, and the api answers for all of them."""
    before = {pipeline_id: len(subscriber.of(pipeline_id)) for pipeline_id in pipeline_ids}
    for pipeline_id in pipeline_ids:
        subscriber.wait_for(pipeline_id, before[pipeline_id] + 10)
    wait_for(fleet.ready, "the api")
    assert sorted(fleet.pipelines()) == sorted(pipeline_ids)


@pytest.mark.timeout(LIMIT * ROUNDS)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_is_back(clean: Fleet, subscribe: Callable[..., Subscriber], name: str) -> None:
    subscriber = subscribe()
    pipeline_ids = [clean.initialise("TestPatternStreamProducer", "shapes/1") for _ in range(3)]
    for pipeline_id in pipeline_ids:
        subscriber.wait_for(pipeline_id, 3)

    for _ in range(ROUNDS):
        clean.kill(name)
        running_again(clean, subscriber, pipeline_ids)

    for pipeline_id in pipeline_ids:
        assert rises(subscriber.keys(pipeline_id))


def test_a_pipeline_that_crashes_on_two_devices_stops_until_it_is_resumed(clean: Fleet) -> None:
    pipeline_id = clean.initialise("TestPatternStreamProducer", "shapes/1")

    def pipeline() -> dict[str, Any]:
        return dict(clean.http.get(f"/v2/pipelines/{pipeline_id}").json())

    def stopped() -> bool:
        for pid in clean.pids("camera"):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGSEGV)
        return bool(pipeline()["status"] == "failed")

    wait_for(stopped, lambda: f"its end; {pipeline()}", every=0.2)
    view = pipeline()
    clean.kill("sf-broker")
    wait_for(clean.ready, "another broker")
    after = pipeline()
    clean.cli("resume", pipeline_id)
    wait_for(lambda: pipeline()["status"] == "running", lambda: f"its return; {pipeline()}")

    assert view["device"] is None
    # A camera may crash once more while the broker is told of the third time.
    crashes = re.findall(r"(\d+) times in a row on (local-\d)", view["reason"])
    assert len({device for _, device in crashes}) == 2, view["reason"]
    assert all(int(count) in (3, 4) for count, _ in crashes), view["reason"]
    assert "the camera process was ended by SIGSEGV" in view["reason"]
    assert (after["status"], after["reason"]) == ("failed", view["reason"])


@pytest.mark.parametrize("name", ["camera", "engine", "sf-broker", "sf-api", "sf-agent"])
def test_a_stopped_process_is_replaced(clean: Fleet, subscribe: Callable[..., Subscriber], name: str) -> None:
    subscriber = subscribe()
    pipeline_ids = [clean.initialise("TestPatternStreamProducer", "shapes/1") for _ in range(2)]
    for pipeline_id in pipeline_ids:
        subscriber.wait_for(pipeline_id, 3)

    stopped = clean.kill(name, signal.SIGSTOP)

    wait_for(lambda: stopped not in clean.pids(), f"the end of the stopped {name}")
    running_again(clean, subscriber, pipeline_ids)
    for pipeline_id in pipeline_ids:
        assert rises(subscriber.keys(pipeline_id))


def test_a_file_goes_on_after_its_last_emitted_frame_when_its_camera_is_killed(
    clean: Fleet, video: Path, udp: UdpReceiver
) -> None:
    pipeline_id = clean.initialise(str(video), "shapes/1", udp.port, max_fps=20)  # it does not end before
    udp.wait_for(20)

    clean.kill("camera")
    udp.wait_for(len(udp.messages) + 20)
    clean.hasten(pipeline_id)
    wait_for(lambda: 300 in udp.frame_ids(), "the last frame")

    ids = udp.frame_ids()
    assert sorted(set(ids)) == list(range(1, 301))
    assert len(ids) <= 301, "at most the frame that was being sent comes twice"


def test_a_file_loses_no_frame_when_its_engine_is_killed(clean: Fleet, video: Path, udp: UdpReceiver) -> None:
    pipeline_id = clean.initialise(str(video), "shapes/1", udp.port, max_fps=20)  # it does not end before
    udp.wait_for(20)

    clean.kill_all("engine")
    udp.wait_for(len(udp.messages) + 20)
    clean.hasten(pipeline_id)
    udp.wait_for(300)

    assert udp.frame_ids() == list(range(1, 301))


def test_a_model_that_a_disk_has_damaged_is_fetched_again(
    clean: Fleet, subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    pipeline_ids = [clean.initialise("TestPatternStreamProducer", "shapes/1")]
    subscriber.wait_for(pipeline_ids[0], 3)
    weights = clean.http.get("/v2/models/shapes/1").json()["weights"]["sha256"]
    files = list(clean.data.glob(f"workers/*/models/{weights}"))
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    clean.kill_all("engine")  # a device that plays nothing may have one, too, which stays warm for a while
    running_again(clean, subscriber, pipeline_ids)

    assert any(is_whole(file) for file in files)
    for file in files:  # of a device that has run none of it since
        file.unlink(missing_ok=True)


def is_whole(file: Path) -> bool:
    """Is its content what its name says? A device that found it damaged may have removed it."""
    with contextlib.suppress(FileNotFoundError):
        return hashlib.sha256(file.read_bytes()).hexdigest() == file.name
    return False


def test_a_file_that_ended_is_never_played_again(clean: Fleet, video: Path, udp: UdpReceiver) -> None:
    pipeline_id = clean.initialise(str(video), "shapes/1", udp.port)
    udp.wait_for(300)
    wait_for(lambda: clean.report(pipeline_id).get("state") == "ended", "the end in the status")

    clean.kill("sf-agent")
    clean.kill("sf-broker")
    witness = clean_start(clean)

    assert len(udp.messages) == 300
    assert clean.report(pipeline_id)["state"] == "ended"
    clean.command_pipeline("terminate", witness)


def clean_start(fleet: Fleet) -> str:
    """Start a pipeline on each device after the restart, so that all of them have read what to run."""
    wait_for(fleet.ready, "the fleet")
    receivers = [UdpReceiver(), UdpReceiver()]
    try:
        pipelines = [
            fleet.initialise("TestPatternStreamProducer", "shapes/1", receiver.port, device=device)
            for receiver, device in zip(receivers, ("local-1", "local-2"), strict=True)
        ]
        for receiver in receivers:
            receiver.wait_for(3)
        fleet.command_pipeline("terminate", pipelines[1])
        return pipelines[0]
    finally:
        for receiver in receivers:
            receiver.close()


def test_no_accepted_change_is_lost_when_the_broker_is_killed_among_writes(clean: Fleet) -> None:
    accepted: list[str] = []
    for i in range(20):
        if i == 10:
            clean.kill("sf-broker")
        answer = clean.http.post(
            "/initialise",
            json={
                "video_reference": "TestPatternStreamProducer",
                "model_id": "shapes/1",
                "device": "local-1",
                "sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": 9},
            },
        )
        if answer.status_code == 200:
            accepted.append(answer.json()["context"]["pipeline_id"])
            clean.command_pipeline("pause", accepted[-1]) if i % 4 == 0 else None
        else:
            assert answer.status_code == 503, answer.text

    wait_for(clean.ready, "the broker")
    assert set(accepted) <= set(clean.pipelines())
    assert len(accepted) >= 10
