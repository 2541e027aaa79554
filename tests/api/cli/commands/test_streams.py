"""Predictions chosen on the command line, and what happened."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from streamfleet_api.cli.tail import event_line, prediction_line
from tests.api.conftest import Api, Command, until
from tests.fakes.broker import Peer, pipeline
from tests.fakes.found import BOX, KEYPOINTS, ORIENTED, OUTLINED
from tests.fakes.patience import PATIENCE

HAPPENED = {
    "at": 1_795_186_411.5,
    "subject": "pipeline",
    "id": "door",
    "state": "running",
    "previous": "starting",
    "device": "edge-1",
    "reason": "",
}


def finish(process: subprocess.Popen[str]) -> list[str]:
    """What it printed until its end by itself."""
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    return stdout.splitlines()


# predictions ----------------------------------------------------------------------------------------------


def test_tail_leaves_out_what_was_not_chosen(api: Api, run: Command, peer: Peer) -> None:
    for each in ("door", "gate"):
        peer.pipelines[each] = pipeline(each, labels={"at": each})
    bus: dict[str, Any] = {"class": "bus"}
    van: dict[str, Any] = {"class": "van"}
    options = ["--class", "car", "--class", "van", "--min-confidence", "0.5", "--device", "edge-1"]
    tail = run.start("tail", "door", "gate", *options, "--source", "1", "-n", "1", "--json")
    api.wait_for_follower("gate")

    peer.predict("door", 0, source=1, **bus)
    peer.predict("door", 1, source=1, confidence=0.4)
    peer.predict("door", 2, source=0)
    peer.predict("gate", 3, source=1, **van)

    (line,) = map(json.loads, finish(tail))
    assert line["inference_metadata"]["pipeline_id"] == "gate"


def test_what_tail_cannot_choose_is_said_by_the_option(run: Command) -> None:
    assert run("tail", "-l", "a b", code=1).stderr.startswith("error: --selector a b: expected labels")
    assert "no pipeline typo" in run("tail", "typo", code=1).stderr


def test_a_prediction_of_another_source_than_the_first_says_so() -> None:
    about = {"pipeline_id": "door", "device": "edge-1", "frame_id": 7, "source_id": 2}

    text = prediction_line({"predictions": [], "inference_metadata": about}, str)

    assert text == "door edge-1 source 2 #7 nothing"


STAGE_CLASS = {"predictions": [], "top": "red", "confidence": 0.9}
STAGE_BOXES = {"predictions": [{**BOX, "class": "B"}, {**BOX, "class": "7", "confidence": 0.5}]}
STAGE_TEXT = " [kind: red 0.90] [text: B 0.75, 7 0.50]"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (BOX, "nut 0.75 (20,10)"),
        ({**OUTLINED, "tracker_id": 4}, "nut#4 0.75 (20,10)"),
        (ORIENTED, "nut 0.75 (20,10) 27°"),
        (KEYPOINTS, "nut 0.75 (20,10)"),
        ({"class": "cat", "class_id": 2, "confidence": 0.75}, "cat 0.75"),
        ({**BOX, "stages": {"kind": STAGE_CLASS, "text": STAGE_BOXES}}, "nut 0.75 (20,10)" + STAGE_TEXT),
        ({**BOX, "stages": {"text": {"predictions": []}}}, "nut 0.75 (20,10) [text: nothing]"),
    ],
    ids=str,
)
def test_what_was_found_is_told_for_every_task(found: dict[str, Any], text: str) -> None:
    about = {"pipeline_id": "door", "device": "edge-1", "frame_id": 7}

    line = prediction_line({"predictions": [found], "inference_metadata": about}, str)

    assert line == f"door edge-1 #7 {text}"


# events ---------------------------------------------------------------------------------------------------


def test_an_event_is_a_line_with_its_day_unless_it_is_today() -> None:
    at = HAPPENED["at"]
    assert isinstance(at, float)
    clock, day = time.strftime("%H:%M:%S", time.localtime(at)), time.strftime("%Y-%m-%d", time.localtime(at))
    fell = {**HAPPENED, "state": "failed", "reason": "no file"}
    joined = {**HAPPENED, "subject": "device", "id": "edge-1", "state": "new", "previous": "", "device": None}
    drained = {**joined, "state": "ready", "previous": "ready", "reason": "drained"}

    assert event_line(HAPPENED, str, at) == f"{clock}  pipeline door  starting → running on edge-1"
    assert event_line(fell, str, at + 2 * 86_400) == (
        f"{day} {clock}  pipeline door  starting → failed on edge-1: no file"
    )
    assert event_line(joined, str, at) == f"{clock}  device edge-1  new"
    assert event_line(drained, str, at) == f"{clock}  device edge-1  ready: drained"


@pytest.fixture
def three_events(api: Api, peer: Peer) -> None:
    """Three events that the api knows of."""
    for n, state in enumerate(("starting", "running", "paused"), 1):
        peer.happen(n, state=state)
    until(lambda: api.http.get("/v2/events/recent").json()["last"] == f"{peer.epoch}-3")


@pytest.mark.usefixtures("three_events")
def test_events_are_lines_for_people_and_documents_for_programs(run: Command) -> None:
    lines = run("events", "-n", "2").stdout.splitlines()
    documents = [json.loads(line) for line in run("events", "-n", "2", "--json").stdout.splitlines()]

    assert [line.partition("  ")[2] for line in lines] == [
        "pipeline door  starting → running on edge-1",
        "pipeline door  starting → paused on edge-1",
    ]
    assert [document["n"] for document in documents] == [2, 3]


@pytest.mark.usefixtures("three_events")
def test_events_are_followed_without_a_gap_or_a_double(run: Command, peer: Peer) -> None:
    process = run.start("events", "-f", "-n", "1", "--json")
    assert process.stdout is not None
    past = json.loads(process.stdout.readline())
    peer.happen(4, state="failed")

    news = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)

    assert (past["n"], news["n"]) == (3, 4)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_events_go_on_after_an_api_that_restarts(short_dir: Path, peer: Peer) -> None:
    folder = short_dir / "events"
    folder.mkdir()
    own = Api(folder, peer)
    try:
        peer.happen(1)
        process = Command(own).start("events", "-f", "--json")
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())]
        peer.happen(2)
        seen.append(json.loads(process.stdout.readline()))  # which came over the stream: it is open
        own.stop()
        peer.happen(3, state="failed")
        own.start()
        seen.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=PATIENCE)[1]
    finally:
        own.stop()

    assert [event["n"] for event in seen] == [1, 2, 3]
    assert stderr == "the connection to the api was lost, trying again …\n"
