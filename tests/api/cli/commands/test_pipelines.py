"""The commands about pipelines: put to work, look at, change, follow."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamfleet.connection import Connection
from streamfleet.results import Pipeline
from streamfleet_api.cli.pipeline_text import find, short_ids
from streamfleet_api.cli.tables import middle
from streamfleet_api.cli.tail import follow
from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.client.http_client import Client
from streamfleet_core.protocol.messages import Error, Message
from streamfleet_core.protocol.requests import (
    ChangePipelines,
    CreatePipeline,
    GetPipeline,
    OperatorRequest,
)
from streamfleet_core.protocol.status import (
    PipelineStat,
    SourceStat,
    StatusReport,
    StatusUpdate,
    empty_report,
)
from streamfleet_core.protocol.values import ModelRef, Motion, ObservedState, SourceSpec, UdpSink
from tests.api.conftest import Api, Command, as_client_has_it, terminal_text, until
from tests.fakes.broker import Peer, device, pipeline, spec
from tests.fakes.patience import PATIENCE

DOOR = "90e1c1b2-6d1f-4a53-9f4e-0c54b4d1a7a1"
GATE = "90e1c1b2-7aaa-4a53-9f4e-0c54b4d1a7a2"
YARD = "1b2c3d4e-6d1f-4a53-9f4e-0c54b4d1a7a3"


def settles(peer: Peer, **state: Any) -> None:
    """Let each pipeline come to this state right after its start."""

    def answer(asked: OperatorRequest) -> Message:
        said = peer.honest(asked)
        if isinstance(asked, CreatePipeline):
            peer.pipelines[asked.pipeline_id] = replace(peer.pipelines[asked.pipeline_id], **state)
        return said

    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)
    peer.answer = answer


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"status": "ended"}, "door is ended; 'streamfleet restart door' lets it go on"),
        ({"status": "failed", "reason": "no file"}, "door is failed: no file; 'streamfleet restart door'"),
        (
            {"status": "paused", "desired_status": "pause"},
            "door is paused; 'streamfleet resume door' lets it go on",
        ),
    ],
)
def test_tail_tells_at_once_that_nothing_will_come(
    run: Command, peer: Peer, state: dict[str, Any], said: str
) -> None:
    peer.pipelines["door"] = pipeline("door", **state)

    process = run.start("tail", "door")
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)

    assert first.startswith(said)


def on_terminal(run: Command, *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> list[str]:
    """The lines that a command shows on a terminal of 80 columns."""
    ours, its = pty.openpty()
    process = run.start(*arguments, stdout=its)
    os.close(its)
    meanwhile()
    _, stderr = process.communicate(timeout=PATIENCE)
    shown = terminal_text(ours)
    assert process.returncode == 0, stderr
    return shown.replace("\x1b[1m", "").replace("\x1b[0m", "").split("\r\n")[:-1]


# ids ------------------------------------------------------------------------------------------------------


def entries(*ids: str) -> list[Pipeline]:
    return [as_client_has_it(pipeline(each)) for each in ids]


def test_a_short_id_is_as_long_as_it_must_be_and_leads_back() -> None:
    ids = [DOOR, GATE, YARD, "demo", "demo-2", "entrance-north-1", "entrance-north-2"]

    short = short_ids(ids)

    assert list(short.values()) == sorted(short.values())
    assert short[DOOR] == "90e1c1b2-6"
    assert short[GATE] == "90e1c1b2-7"
    assert short[YARD] == "1b2c3d4e"
    assert (short["demo"], short["entrance-north-2"]) == ("demo", "entrance-north-2")
    assert [find(short[each], entries(*ids)).pipeline_id for each in ids] == ids


def test_a_prefix_of_several_ids_names_them() -> None:
    with pytest.raises(CommandFailed, match=rf"90e1 may be any of {DOOR}, {GATE}"):
        find("90e1", entries(DOOR, GATE, YARD))
    many = [f"door-{number}" for number in range(120)]
    with pytest.raises(CommandFailed, match=r"any of door-0, .*, door-4 and 115 more$"):
        find("door", entries(*many))


@pytest.mark.parametrize(("width", "expected"), [(11, "/videos/1.4"), (10, "/vide…/1.4"), (3, "/…4")])
def test_a_long_text_is_shortened_in_the_middle(width: int, expected: str) -> None:
    assert middle("/videos/1.4", width) == expected


def test_on_a_terminal_every_id_can_be_copied(run: Command, peer: Peer) -> None:
    video = "/videos/2026-11-20/north/entrance/camera-17/morning.mp4"
    peer.pipelines[DOOR] = pipeline(DOOR, spec=spec(video), status="reconnecting", reason="no file " * 12)
    peer.pipelines[GATE] = pipeline(GATE, spec=spec(video))

    shown = on_terminal(run, "pipelines")
    piped = run("pipelines").stdout.splitlines()

    assert [len(line) <= 80 for line in shown] == [True] * 5
    assert [line.split()[0] for line in shown] == ["ID", "90e1c1b2-6", "no", "file", "90e1c1b2-7"]
    assert shown[2].startswith("    no file")
    assert shown[1].endswith("ning.mp4")
    assert "…" in shown[1]
    assert piped[1].split() == [DOOR, "reconnecting", "edge-1", "parts/1", video]
    assert piped[2] == "    " + ("no file " * 12).strip()


@pytest.mark.parametrize("verb", ["status", "pause", "resume", "terminate", "tail"])
def test_an_id_that_nobody_has_is_told_in_plain_words(run: Command, verb: str) -> None:
    result = run(verb, "90e1", code=1)

    assert result.stderr == "error: no pipeline 90e1\n       'streamfleet pipelines' lists them\n"
    assert not result.stdout


@pytest.mark.parametrize("verb", ["terminate", "tail"])
def test_an_empty_id_is_nobodys(run: Command, peer: Peer, verb: str) -> None:
    peer.pipelines["door"] = pipeline("door")

    assert "no pipeline ''" in run(verb, "", code=1).stderr
    assert list(peer.pipelines) == ["door"]


# init -----------------------------------------------------------------------------------------------------


def test_init_puts_a_video_and_a_model_to_work(run: Command, peer: Peer) -> None:
    settles(peer, status="running")
    peer.devices["edge-1"] = device("edge-1")

    options = ["--sink", "10.0.0.2:12000", "--device", "edge-1", "--tracker", "bytetrack", "--max-fps", "5"]
    result = run("init", "--model", "parts/1", "--video", "0", "--confidence", "0.5", *options)

    (created,) = [asked for asked in peer.asked if isinstance(asked, CreatePipeline)]
    assert result.stdout == f"{created.pipeline_id} running on edge-1\n"
    assert not result.stderr
    assert created.device == "edge-1"
    assert created.spec.sources == (SourceSpec(0),)
    assert created.spec.sinks == (UdpSink("10.0.0.2", 12000),)
    assert (created.spec.confidence, created.spec.max_fps) == (0.5, 5.0)
    assert created.spec.tracker == "bytetrack"


def test_a_sink_of_ipv6_is_written_as_it_is_typed(run: Command, peer: Peer) -> None:
    settles(peer, status="running")
    run("run", "--id", "door", "--model", "parts/1", "--video", "webcam", "--sink", "[::1]:9")
    before = peer.pipelines["door"]

    changed = run("set", "door", "--sink", "[fe80::1%25eth0]:9").stdout

    assert (before.spec.sources, before.spec.sinks) == ((SourceSpec(0),), (UdpSink("::1", 9),))
    assert peer.pipelines["door"].spec.sinks == (UdpSink("fe80::1%eth0", 9),)
    assert "[::1]:9" in changed
    assert "[fe80::1%eth0]:9" in changed
    assert "[fe80::1%eth0]:9" in run("status", "door").stdout


def test_init_says_the_originals_answer_to_programs(run: Command, peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)

    result = run("init", "--model", "parts/1", "--video", "rtsp://cam/1", "--json")

    assert json.loads(result.stdout)["context"]["pipeline_id"] in peer.pipelines


@pytest.mark.parametrize(
    ("state", "device", "reason"),
    [("reconnecting", "edge-1", "there is no file /x"), ("pending", None, "no device has room")],
)
def test_init_says_what_keeps_a_pipeline_from_working(
    run: Command, peer: Peer, state: str, device: str | None, reason: str
) -> None:
    settles(peer, status=state, device=device, reason=reason)

    result = run("init", "--model", "parts/1", "--video", "/x")

    (pipeline_id,) = peer.pipelines
    assert result.stdout == f"{pipeline_id} {state} on {device or 'no device yet'}\n"
    assert result.stderr == f"{pipeline_id} is {state}: {reason}\n"


def test_init_does_not_wait_when_told_so(run: Command, peer: Peer) -> None:
    settles(peer, status="reconnecting", reason="there is no file /x")

    result = run("init", "--model", "parts/1", "--video", "/x", "--no-wait")

    (pipeline_id,) = peer.pipelines
    assert (result.stdout, result.stderr) == (f"{pipeline_id} on edge-1\n", "")


def test_init_tells_the_id_even_when_nobody_tells_the_state(run: Command, peer: Peer) -> None:
    settles(peer)
    creates = peer.answer
    peer.answer = lambda asked: (
        Error("unavailable", "later") if isinstance(asked, GetPipeline) else creates(asked)
    )

    result = run("init", "--model", "parts/1", "--video", "/x")

    (pipeline_id,) = peer.pipelines
    assert (result.stdout, result.stderr) == (f"{pipeline_id} on edge-1\n", "")


def test_the_home_of_whoever_types_is_the_home_that_is_meant(run: Command, peer: Peer) -> None:
    settles(peer)

    run("init", "--model", "parts/1", "--video", "~/gone.mp4", "--no-wait")

    (view,) = peer.pipelines.values()
    assert view.spec.sources == (SourceSpec(str(Path.home() / "gone.mp4")),)


def test_a_model_that_nobody_added_is_told_with_the_next_step(run: Command, peer: Peer) -> None:
    result = run("init", "--model", "nobody/1", "--video", "x", code=1)

    assert result.stderr.startswith("error: --model nobody/1: expected a model of the fleet: none yet\n")
    assert "streamfleet models add nobody/1 FILE" in result.stderr
    assert not result.stdout


# look and change ------------------------------------------------------------------------------------------


def test_pipelines_are_a_table_for_people_and_a_list_for_programs(run: Command, peer: Peer) -> None:
    empty = run("pipelines")
    peer.pipelines["door"] = pipeline("door", status="failed", reason="no such [red]file\x1b[2J")

    table = run("pipelines")
    listed = json.loads(run("pipelines", "--json").stdout)

    assert "streamfleet run" in empty.stderr
    assert not empty.stdout
    assert "no such [red]file?[2J" in table.stdout
    assert "hunter2" not in table.stdout
    assert [entry["pipeline_id"] for entry in listed] == ["door"]


def test_a_pipeline_is_looked_at_paused_resumed_and_terminated(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    texts = [run(verb, "door").stdout for verb in ("status", "pause", "resume", "terminate")]

    assert texts[0].startswith("door: running on edge-1\n")
    assert "restarts" not in texts[0]
    assert texts[1:] == ["door paused\n", "door resumed\n", "door terminated\n"]
    assert not peer.pipelines


def test_status_tells_of_restarts_and_of_what_went_wrong(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", restarts=3, reason="the model took too long")

    lines = run("status", "do").stdout.splitlines()

    assert lines[:3] == [
        "door: running on edge-1",
        "  restarts    3",
        "  reason      the model took too long",
    ]


def test_status_tells_why_a_pipeline_that_runs_again_was_restarted(
    api: Api, run: Command, peer: Peer
) -> None:
    peer.pipelines["again"] = pipeline("again", restarts=1)
    stat = PipelineStat(
        pipeline_id="again",
        device="edge-1",
        generation=peer.generation,
        incarnation=1,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=1,
        fps=5.0,
        sources=(),
        dropped={},
        report=empty_report(spec(), "RUNNING"),
        at=1.5,
        last_crash="the camera process was ended by SIGSEGV",
    )
    until(lambda: api.http.get("/v2/pipelines/again/status").json()["last_crash"], lambda: peer.tell(stat))

    assert run("status", "again").stdout.splitlines()[:2] == [
        "again: running on edge-1",
        "  restarts    1, the last because: the camera process was ended by SIGSEGV",
    ]


def test_status_tells_of_each_source_what_a_person_wants_to_know(api: Api, run: Command, peer: Peer) -> None:
    two = replace(
        spec(),
        sources=(
            SourceSpec("rtsp://cam/1"),
            SourceSpec(
                "rtsp://cam/2", classes=("bolt", "nut"), region=((0, 0), (0.25, 1), (1, 0)), motion=Motion()
            ),
        ),
    )
    sinks = (UdpSink("10.0.0.2", 12000),)
    desired = replace(two, sinks=sinks, confidence=0.5, max_fps=5.0, tracker="bytetrack", priority="high")
    desired = replace(desired, mask_format="rle")
    peer.pipelines["sources"] = pipeline(
        "sources", spec=desired, labels={"line": "3"}, selector={"site": "a"}, on_disconnect="continue"
    )
    update: StatusUpdate = {
        "timestamp": "2026-11-20T15:04:14.5",
        "event_type": "SOURCE_STATE_UPDATE",
        "payload": {"previous_state": "INITIALISING", "new_state": "RUNNING", "source_id": 0},
    }
    again: StatusUpdate = {
        "timestamp": "2026-11-20T15:05:01.5",
        "event_type": "SOURCE_CONNECTION_ATTEMPT_FAILED",
        "payload": {"error_message": "nobody listens", "source_id": 1},
        "times": 3,
        "since": "2026-11-20T15:04:20.1",
    }
    report: StatusReport = {
        **empty_report(desired, "RUNNING"),
        "video_source_status_updates": [update, again],
    }
    first = SourceStat(
        source_id=0,
        reference="rtsp://cam/1",
        state="RUNNING",
        received=90,
        decoded=90,
        inferred=50,
        emitted=49,
        dropped={"rate": 41, "buffer": 0},
        fps=4.9,
    )
    first = replace(first, width=640, height=480, latency=0.04, last_frame_age=0.1)
    first = replace(first, decoder="software", decoder_note="nv does not decode mjpeg")
    second = SourceStat(
        source_id=1,
        reference="rtsp://cam/2",
        state="ERROR",
        attempts=3,
        cause="refused",
        reason="nobody listens",
    )
    stat = PipelineStat(
        pipeline_id="sources",
        device="edge-1",
        generation=peer.generation,
        incarnation=0,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=0,
        fps=4.9,
        sources=(first, second),
        dropped={"10.0.0.2:12000": 2},
        report=report,
        at=1.5,
    )
    until(lambda: api.http.get("/v2/pipelines/sources").json()["fps"] == 4.9, lambda: peer.tell(stat))

    assert run("status", "sources").stdout.splitlines() == [
        "sources: running on edge-1",
        "  rate        4.9 frames/s, at most 5",
        "  latency     40 ms from frame to prediction",
        "  model       parts/1, confidence 0.5, bytetrack",
        "  priority    high",
        "  masks       rle",
        "  sinks       10.0.0.2:12000",
        "  on its own  continues",
        "  labels      line=3",
        "  only on     site=a",
        "  source 0    rtsp://cam/1: running",
        "              640x480, 4.9 frames/s, 40 ms",
        "              decoded by software: nv does not decode mjpeg",
        "              received 90, emitted 49, dropped 41 rate",
        "  source 1    rtsp://cam/2: error",
        "              refused: nobody listens, tried 3 times",
        "              only bolt, nut",
        "              only in the region 0,0 0.25,1 1,0",
        "              only with motion (0.5,10s)",
        "  not sent    2 to 10.0.0.2:12000",
        "  2026-11-20 15:04:14  source 0 initialising → running",
        "  2026-11-20 15:05:01  source 1 connection attempt failed: nobody listens, 3 times since 15:04:20",
    ]
    assert json.loads(run("status", "sources", "--json").stdout)["sources"][1]["cause"] == "refused"


def test_pipelines_are_chosen_by_label_state_and_device(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", labels={"line": "3"})
    peer.pipelines["gate"] = pipeline("gate", status="paused", device="edge-2")

    found = [
        [entry["pipeline_id"] for entry in json.loads(run("pipelines", *options, "--json").stdout)]
        for options in (["-l", "line=3"], ["--status", "paused"], ["--device", "edge-2"], ["-l", "no"])
    ]

    assert found == [["door"], ["gate"], ["gate"], []]
    assert "'streamfleet pipelines' lists all" in run("pipelines", "-l", "no").stderr
    assert "'failed'" in run("pipelines", "--status", "fialed", code=2).stderr


def test_pipelines_are_watched_on_a_terminal_until_ctrl_c(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    ours, its = pty.openpty()
    process = run.start("pipelines", "--watch", stdout=its)
    os.close(its)
    shown = b""
    while b"1 pipelines, 1 running" not in shown:
        shown += os.read(ours, 4096)
    peer.pipelines["gate"] = pipeline("gate", status="failed", reason="no [bold]file")
    while b"no [bold]file" not in shown:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    terminal_text(ours)

    assert b"2 pipelines, 1 running" in shown
    assert (process.returncode, stderr) == (130, "")
    assert "at a terminal" in run("pipelines", "--watch", code=2).stderr


def test_a_picture_is_saved(run: Command, peer: Peer, tmp_path: Path) -> None:
    door = f"door-{peer.generation}"  # at which nobody looked in the last seconds
    peer.pipelines[door] = pipeline(door)
    file = tmp_path / "door.jpg"
    process = run.start("picture", "do", str(file))
    peer.wait_for_looker(door)
    peer.picture(door, 0, b"\xff\xd8 a picture")
    stdout, stderr = process.communicate(timeout=PATIENCE)

    assert (stdout, stderr) == (f"{file}: 12 bytes\n", "")
    assert file.read_bytes() == b"\xff\xd8 a picture"


def test_a_picture_that_cannot_be_had_leaves_no_file(run: Command, peer: Peer, tmp_path: Path) -> None:
    peer.pipelines["door"] = pipeline("door")

    done = run("picture", "door", str(tmp_path / "x.jpg"), "--source", "4", code=1)

    assert "door has 1 sources" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_picture_is_not_written_under_the_ending_of_another_format(run: Command, tmp_path: Path) -> None:
    done = run("picture", "door", str(tmp_path / "x.png"), code=2)

    assert "expected a name that ends in .jpg or .jpeg, got" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["-", "a.JPG", "a.b.jpeg", "/dev/stdout"])
def test_a_picture_goes_where_no_other_format_is_promised(run: Command, name: str) -> None:
    assert "no pipeline door" in run("picture", "door", name, code=1).stderr


def test_several_pipelines_change_at_once_and_a_mistyped_one_keeps_none_back(
    run: Command, peer: Peer
) -> None:
    for each in (DOOR, GATE, YARD):
        peer.pipelines[each] = pipeline(each)

    result = run("terminate", "1b2c", "typo", "90e1c1b2-6", "1b2c", code=1)

    assert result.stdout == f"{YARD} terminated\n{DOOR} terminated\n"
    assert result.stderr.count("error: ") == 1
    assert "no pipeline typo" in result.stderr
    assert list(peer.pipelines) == [GATE]


def test_many_pipelines_are_one_request(run: Command, peer: Peer) -> None:
    peer.pipelines |= {f"hall-{number}": pipeline(f"hall-{number}") for number in range(120)}
    peer.pipelines["door"] = pipeline("door")

    done = run("terminate", "hall-*").stdout.splitlines()

    changes = [asked for asked in peer.asked if isinstance(asked, ChangePipelines)]
    assert [len(asked.pipeline_ids) for asked in changes] == [120]
    assert done == [f"hall-{number} terminated" for number in range(120)]
    assert list(peer.pipelines) == ["door"]


def test_a_pattern_that_no_pipeline_meets_is_told(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    done = run("pause", "gate-*", "do?r", code=1)

    assert done.stdout == "door paused\n"
    assert done.stderr.startswith("error: no pipeline meets gate-*\n")


@pytest.mark.parametrize(
    ("verb", "state", "expected"),
    [
        ("pause", {"status": "paused", "desired_status": "pause"}, "demo is paused already\n"),
        ("resume", {}, "demo is running already\n"),
        ("resume", {"status": "reconnecting"}, "demo is not paused, it is reconnecting\n"),
    ],
)
def test_what_is_so_already_is_said_and_no_failure(
    run: Command, peer: Peer, verb: str, state: dict[str, Any], expected: str
) -> None:
    peer.pipelines["demo"] = pipeline("demo", **state)

    assert run(verb, "demo").stdout == expected


@pytest.mark.parametrize(
    ("verb", "state", "expected"),
    [
        ("pause", {"status": "ended"}, "demo has ended"),
        ("resume", {"status": "failed", "reason": "no file"}, "demo has failed (no file)"),
    ],
)
def test_what_is_over_is_played_again_by_restart_alone(
    run: Command, peer: Peer, verb: str, state: dict[str, Any], expected: str
) -> None:
    peer.pipelines["demo"] = pipeline("demo", **state)

    refused = run(verb, "demo", code=1)
    again = run("restart", "demo")

    hint = "start it again with 'streamfleet restart demo'"
    assert (refused.stdout, refused.stderr) == ("", f"error: {expected}\n       {hint}\n")
    assert again.stdout == "demo restarted\n"


def test_what_a_device_has_not_confirmed_is_told(run: Command, peer: Peer) -> None:
    peer.pipelines["demo"] = pipeline("demo")
    peer.confirms = False

    assert run("pause", "demo").stdout == "demo paused as soon as its device answers\n"


def test_labels_choose_what_is_changed(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", labels={"site": "hall-1"})
    peer.pipelines["gate"] = pipeline("gate", labels={"site": "hall-2"})

    paused = run("pause", "-l", "site=hall-1")
    nobody = run("pause", "-l", "site=hall-3", code=1)
    both = run("pause", "door", "-l", "site", code=2)
    wrong = run("terminate", "-l", "a b", code=1)

    assert paused.stdout == "door paused\n"
    assert peer.pipelines["gate"].status == "running"
    assert nobody.stderr.startswith("error: no pipeline has site=hall-3\n")
    assert "one of both" in both.stderr
    assert wrong.stderr.startswith("error: --selector a b: expected labels as key=value")
    assert len(peer.pipelines) == 2


def test_programs_get_a_line_for_each_change(run: Command, peer: Peer) -> None:
    peer.pipelines |= {each: pipeline(each) for each in ("door", "gate")}

    paused = [json.loads(line) for line in run("pause", "door", "gate", "--json").stdout.splitlines()]
    ended = [json.loads(line) for line in run("terminate", "door", "--json").stdout.splitlines()]

    assert [(entry["pipeline_id"], entry["status"]) for entry in paused] == [
        ("door", "paused"),
        ("gate", "paused"),
    ]
    assert ended == [{"pipeline_id": "door", "status": "gone"}]


# follow ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_api(short_dir: Path, peer: Peer) -> Iterator[Api]:
    """An api that the test may stop and start."""
    folder = short_dir / uuid.uuid4().hex[:8]
    folder.mkdir()
    api = Api(folder, peer)
    yield api
    api.stop()


@pytest.mark.parametrize("as_json", [False, True])
def test_tail_prints_predictions_as_they_happen(api: Api, run: Command, peer: Peer, as_json: bool) -> None:
    peer.pipelines["tailed"] = pipeline("tailed")
    found: list[subprocess.CompletedProcess[str]] = []
    arguments = ["tail", "tailed", "-n", "2", *(["--json"] if as_json else [])]
    tail = threading.Thread(target=lambda: found.append(run.process(*arguments)), name="tail")
    tail.start()

    api.wait_for_follower("tailed")
    for seq in (0, 5):
        peer.predict("tailed", seq)
    tail.join(PATIENCE)

    lines = found[0].stdout.splitlines()
    assert found[0].returncode == 0, found[0].stderr
    assert found[0].stderr == "4 predictions are missing here\n"
    if as_json:
        assert [json.loads(line)["inference_metadata"]["frame_id"] for line in lines] == [1, 6]
    else:
        assert lines == ["tailed edge-1 #1 car 0.90 (1,2)", "tailed edge-1 #6 car 0.90 (1,2)"]


def test_tail_shows_the_short_ids_on_a_terminal(api: Api, run: Command, peer: Peer) -> None:
    peer.pipelines |= {each: pipeline(each) for each in (DOOR, GATE)}

    def predict() -> None:
        api.wait_for_follower(GATE)
        peer.predict(GATE, 0)

    shown = on_terminal(run, "tail", "90e1c1b2-7", "-n", "1", meanwhile=predict)

    assert shown == ["90e1c1b2-7 edge-1 #1 car 0.90 (1,2)"]


def test_tail_outlives_an_api_that_restarts(own_api: Api, peer: Peer) -> None:
    peer.pipelines["tailed"] = pipeline("tailed")
    tail = Command(own_api).start("tail", "tailed", "-n", "2")
    own_api.wait_for_follower("tailed")
    peer.predict("tailed", 0)
    assert tail.stdout is not None
    assert tail.stdout.readline() == "tailed edge-1 #1 car 0.90 (1,2)\n"

    own_api.stop()
    peer.wait_for_no_followers()
    own_api.start()
    own_api.wait_for_follower("tailed")
    peer.predict("tailed", 1)
    stdout, stderr = tail.communicate(timeout=PATIENCE)

    assert stdout == "tailed edge-1 #2 car 0.90 (1,2)\n"
    assert stderr == "the connection to the api was lost, trying again …\n"
    assert tail.returncode == 0


def test_tail_gives_up_on_a_fleet_that_stays_away(own_api: Api, peer: Peer) -> None:
    peer.pipelines["tailed"] = pipeline("tailed")
    said: list[str] = []
    client = Client(Connection(url=own_api.url))
    found: list[str] = []

    def tail() -> None:
        try:
            list(follow(client, "/v2/predictions?pipeline=tailed", said.append, timeout=0.1))
        except CommandFailed as exc:
            found.append(str(exc))

    thread = threading.Thread(target=tail, name="tail")
    thread.start()
    own_api.wait_for_follower("tailed")
    own_api.stop()
    thread.join(PATIENCE)
    client.close()
    own_api.start()

    assert said == ["the connection to the api was lost, trying again …"]
    assert found == ["the fleet does not answer any more"]


def test_tail_says_that_nothing_comes_and_ends_quietly_by_ctrl_c(run: Command, peer: Peer) -> None:
    tail = run.start("tail")
    assert tail.stderr is not None

    silence = tail.stderr.readline()
    tail.send_signal(signal.SIGINT)
    stdout, stderr = tail.communicate(timeout=PATIENCE)

    assert silence == "no predictions for 5 s; 'streamfleet pipelines' tells what runs\n"
    assert (tail.returncode, stdout, stderr) == (130, "", "")


def test_tail_into_a_full_disk_is_one_line(api: Api, run: Command, peer: Peer) -> None:
    peer.pipelines["tailed"] = pipeline("tailed")
    with Path("/dev/full").open("wb") as full:
        tail = run.start("tail", "tailed", stdout=full)
        api.wait_for_follower("tailed")
        peer.predict("tailed", 0)
        _, stderr = tail.communicate(timeout=PATIENCE)

    assert stderr == "error: [Errno 28] No space left on device\n"
    assert tail.returncode == 1


def test_tail_whose_reader_left_is_silent(api: Api, run: Command, peer: Peer) -> None:
    peer.pipelines["tailed"] = pipeline("tailed")
    tail = run.start("tail", "tailed")
    api.wait_for_follower("tailed")
    assert tail.stdout is not None
    tail.stdout.close()
    assert tail.stderr is not None

    peer.predict("tailed", 0)

    assert tail.stderr.read() == ""
    assert tail.wait(PATIENCE) == 1
    tail.stderr.close()
