"""Pause, resume and terminate: nothing is lost, nothing comes after the answer, nothing hangs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.fleet.harness import Fleet, Subscriber, UdpReceiver, rises, wait_for

GONE = 20.0  # seconds for a process to end: less than a source may take to its first picture


def test_a_paused_file_emits_nothing_and_loses_no_frame(
    clean: Fleet, video: Path, udp: UdpReceiver, subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    pipeline_id = clean.initialise(str(video), "shapes/1", udp.port, max_fps=20)  # no pause is after its end
    udp.wait_for(20)

    assert clean.command_pipeline("pause", pipeline_id).status_code == 200
    answered = datetime.now()
    # The next status, instead of a sleep.
    wait_for(
        lambda: clean.report(pipeline_id)["sources_metadata"][0]["state"] == "PAUSED",
        "the pause in the status",
    )
    resumed = datetime.now()
    assert clean.command_pipeline("resume", pipeline_id).status_code == 200
    clean.hasten(pipeline_id)
    udp.wait_for(300)

    assert udp.frame_ids() == list(range(1, 301))
    times = [
        datetime.fromisoformat(each["inference_metadata"]["emission_time"]) for each in list(udp.messages)
    ]
    assert [at for at in times if answered < at < resumed] == []
    subscriber.wait_for(pipeline_id, 100)  # as many as fit into its queues, whichever process stands still
    assert rises(subscriber.keys(pipeline_id))


def test_pausing_twice_and_resuming_twice_are_told_apart(clean: Fleet, udp: UdpReceiver) -> None:
    pipeline_id = clean.initialise("TestPatternStreamProducer", "shapes/1", udp.port)
    udp.wait_for(1)

    again = clean.command_pipeline("resume", pipeline_id)
    paused = clean.command_pipeline("pause", pipeline_id)
    twice = clean.command_pipeline("pause", pipeline_id)

    assert (again.status_code, paused.status_code, twice.status_code) == (500, 200, 500)
    assert "operation_error" in again.json()["message"]
    assert "Could not MUTE stream in state: StreamState.MUTED" in twice.json()["message"]


@pytest.mark.parametrize(
    "source",
    ["TestPatternStreamProducer", "/no/such/video.avi", "rtsp://127.0.0.1:9/door", "video", "paused"],
)
def test_terminate_succeeds_in_every_state(clean: Fleet, video: Path, udp: UdpReceiver, source: str) -> None:
    reference = str(video) if source == "video" else source
    pipeline_id = clean.initialise(
        "TestPatternStreamProducer" if source == "paused" else reference, "shapes/1", udp.port
    )
    if source == "paused":
        udp.wait_for(1)
        clean.command_pipeline("pause", pipeline_id)

    answer = clean.command_pipeline("terminate", pipeline_id)

    assert answer.status_code == 200
    assert clean.pipelines() == []
    wait_for(lambda: not clean.pids("camera"), "the end of the camera", timeout=GONE)


def test_an_unknown_pipeline_is_not_found(clean: Fleet) -> None:
    for verb in ("pause", "resume", "terminate"):
        answer = clean.command_pipeline(verb, "nobody")
        assert answer.status_code == 404
        assert answer.json()["status"] == "failure"
    assert clean.http.get("/status/nobody").status_code == 404
