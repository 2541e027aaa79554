"""The desired state, as `/v2` changes it through a whole fleet: put, patched, paused, restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fleet.harness import Fleet, UdpReceiver, wait_for

PATTERN = "TestPatternStreamProducer"
FRAMES = 300  # of the video


def shown(fleet: Fleet, pipeline_id: str) -> dict[str, Any]:
    """The pipeline."""
    answer = fleet.http.get(f"/v2/pipelines/{pipeline_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def await_status(fleet: Fleet, pipeline_id: str, status: str) -> None:
    """Until the pipeline is in this state."""
    wait_for(
        lambda: shown(fleet, pipeline_id)["status"] == status,
        lambda: f"{status}: {shown(fleet, pipeline_id)}",
    )


def sink(receiver: UdpReceiver) -> dict[str, Any]:
    """The receiver as a sink of a pipeline."""
    return {"type": "udp", "host": "127.0.0.1", "port": receiver.port}


def test_a_limit_changes_while_it_plays(clean: Fleet, udp: UdpReceiver) -> None:
    body = {"model": "shapes/1", "sources": [PATTERN], "sinks": [sink(udp)], "labels": {"line": "3"}}
    created = clean.http.put("/v2/pipelines/belt", json=body)
    udp.wait_for(5)
    assert len(udp.messages[-1]["predictions"]) > 1
    before = wait_for(
        lambda: (
            told if (told := clean.http.get("/v2/pipelines/belt/status").json())["age"] is not None else None
        ),
        "the first status, which may come after the first datagrams",
    )

    patched = clean.http.patch("/v2/pipelines/belt", json={"max_detections": 1, "max_fps": 5})

    wait_for(lambda: len(udp.messages[-1]["predictions"]) == 1, "one prediction a frame")
    after = clean.http.get("/v2/pipelines/belt/status").json()
    assert (created.status_code, patched.status_code) == (201, 200)
    assert (after["incarnation"], after["restarts"]) == (before["incarnation"], before["restarts"])
    assert patched.json()["labels"] == {"line": "3"}
    assert [
        each["pipeline_id"] for each in clean.http.get("/v2/pipelines?selector=line=3").json()["pipelines"]
    ]
    again = clean.http.put("/v2/pipelines/belt", json={**body, "max_detections": 1, "max_fps": 5})
    assert (again.status_code, again.headers["etag"]) == (200, patched.headers["etag"])


def test_a_file_that_has_ended_is_played_again(clean: Fleet, udp: UdpReceiver, video: Path) -> None:
    body = {"id": "film", "model": "shapes/1", "sources": [str(video)], "sinks": [sink(udp)]}
    assert clean.http.post("/v2/pipelines", json=body).status_code == 201
    await_status(clean, "film", "ended")
    udp.wait_for(FRAMES)

    refused = clean.http.post("/v2/pipelines/film/pause")
    restarted = clean.http.post("/v2/pipelines/film/restart")

    udp.wait_for(2 * FRAMES)
    await_status(clean, "film", "ended")
    assert (refused.status_code, restarted.status_code) == (409, 200)
    assert len(udp.messages) == 2 * FRAMES


def test_a_pipeline_that_is_made_paused_begins_when_it_is_told_to(clean: Fleet, udp: UdpReceiver) -> None:
    body = {"id": "later", "model": "shapes/1", "sources": [PATTERN], "sinks": [sink(udp)], "paused": True}
    assert clean.http.post("/v2/pipelines", json=body).status_code == 201
    await_status(clean, "later", "paused")
    assert udp.messages == []

    resumed = clean.http.post("/v2/pipelines/later/resume")

    udp.wait_for(3)
    paused = clean.http.post("/v2/pipelines/later/pause")
    assert (resumed.status_code, paused.status_code) == (200, 200)
    assert shown(clean, "later")["status"] == "paused"


def test_what_is_deleted_is_gone(clean: Fleet) -> None:
    clean.http.put("/v2/pipelines/gone", json={"model": "shapes/1", "sources": [PATTERN]})

    assert clean.http.delete("/v2/pipelines/gone").status_code == 204

    assert clean.http.get("/v2/pipelines/gone").status_code == 404
    assert clean.pipelines() == []
