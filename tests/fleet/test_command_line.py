"""The command line against a whole fleet that runs in a terminal, as a person starts it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import Fleet, UdpReceiver, wait_for

PATTERN = "TestPatternStreamProducer"
RUN = ("run", "--id", "belt", "--model", "shapes/1", "--video", PATTERN)

# It is looked at for 3 s, and a busy machine may take longer.
STARTED = ("belt running on local-1\n", "belt starting on local-1\n")


@pytest.fixture(scope="module")
def fleet(demo_file: Path) -> Iterator[Fleet]:
    """One worker, and a terminal on which the fleet shows itself."""
    ours, its = pty.openpty()
    with short_folder() as folder:
        fleet = Fleet(folder)
        try:
            fleet.process = subprocess.Popen(
                fleet.command, env=fleet.environment, stdout=its, stderr=its, start_new_session=True
            )
            wait_for(fleet.ready, "ready")
            fleet.add_model("shapes/1", demo_file)
            yield fleet
        finally:
            fleet.stop()
            os.close(ours)
            os.close(its)


def status(fleet: Fleet) -> dict[str, Any]:
    """What the device tells of the pipeline, as soon as it has told anything."""

    def told() -> dict[str, Any] | None:
        answer = dict(json.loads(fleet.cli("status", "belt", "--json").stdout))
        return None if answer["at"] is None else answer

    found = wait_for(told, "a status")
    assert found is not None
    return found


def test_a_pipeline_is_run_changed_while_it_plays_and_begun_anew(clean: Fleet, udp: UdpReceiver) -> None:
    ran = clean.cli(*RUN, "--sink", f"127.0.0.1:{udp.port}", "--label", "line=3")
    udp.wait_for(5)
    before = status(clean)

    live = clean.cli("set", "belt", "--max-detections", "1", "--max-fps", "20", "--label", "line=4")
    wait_for(lambda: len(udp.messages[-1]["predictions"]) == 1, "one prediction a frame")
    after = status(clean)
    anew = clean.cli("set", "be", "--video", "scene://conveyor/1")

    assert ran.stdout in STARTED
    assert live.stdout.splitlines()[1] == "it goes on without a restart"
    assert (after["incarnation"], after["restarts"]) == (before["incarnation"], before["restarts"])
    assert anew.stdout.splitlines()[1] == "it restarts"
    assert anew.stdout.splitlines(keepends=True)[2] in STARTED
    assert "belt" in clean.cli("pipelines", "-l", "line=4").stdout


def test_to_pause_what_is_paused_is_done_already(clean: Fleet, udp: UdpReceiver) -> None:
    clean.cli(*RUN, "--sink", f"127.0.0.1:{udp.port}")
    udp.wait_for(1)

    words = ("pause", "pause", "resume", "resume", "restart")
    said = [clean.cli(word, "belt").stdout for word in words]

    assert said == [
        "belt paused\n",
        "belt is paused already\n",
        "belt resumed\n",
        "belt is running already\n",
        "belt restarted\n",
    ]


def test_what_happened_is_told_by_events_logs_and_a_picture(clean: Fleet, tmp_path: Path) -> None:
    follower = subprocess.Popen(
        [clean.command[0], "events", "-f", "-n", "1", "--json"],
        env=clean.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        follower.stdout.readline()  # the last of the past: what happens after it comes
        clean.cli(*RUN)
        picture = clean.cli("picture", "belt", str(tmp_path / "belt.jpg"))
        clean.cli("terminate", "belt")
        states: list[str] = []
        while states[-1:] != ["gone"]:
            event = json.loads(follower.stdout.readline())
            states += [event["state"]] if event["id"] == "belt" else []
    finally:
        follower.kill()
        follower.communicate()

    logs = clean.cli("logs", "broker", "local-1")

    assert states[:2] == ["starting", "running"]
    assert "running → stopping" in clean.cli("events", "-n", "5").stdout
    assert (tmp_path / "belt.jpg").read_bytes().startswith(b"\xff\xd8")
    assert picture.stdout.startswith(str(tmp_path / "belt.jpg"))
    assert {line.split()[0] for line in logs.stdout.splitlines()} == {"broker", "local-1"}
    assert "belt: desired status: stop" in logs.stdout


def test_two_fleets_on_one_data_directory_are_told_apart(fleet: Fleet) -> None:
    done = fleet.cli("up", "--port", "0", check=False)

    assert done.returncode == 1
    assert "--data-dir" in done.stderr
