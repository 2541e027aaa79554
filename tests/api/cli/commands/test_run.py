"""What a pipeline should be, said on the command line: run, and set while it plays."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from streamfleet.results import Pipeline
from streamfleet_api.cli.change_text import begins_anew, changes
from streamfleet_core.protocol.messages import Message, Reply
from streamfleet_core.protocol.requests import (
    CreatePipeline,
    GetPipeline,
    ListPipelines,
    OperatorRequest,
    Put,
    PutPipeline,
)
from streamfleet_core.protocol.status import PipelineStat, SourceStat, empty_report
from streamfleet_core.protocol.values import ModelRef, Motion, ObservedState, SourceSpec, UdpSink, to_plain
from tests.api.conftest import Command, as_client_has_it, until
from tests.fakes.broker import Peer, device, pipeline, spec
from tests.fakes.patience import PATIENCE

MODEL = ModelRef("parts/1", "ab" * 32)


@pytest.fixture(autouse=True)
def a_fleet(peer: Peer) -> None:
    """One model, one device, and pipelines that run as soon as they are asked for."""

    def answer(asked: OperatorRequest) -> Message:
        said = peer.honest(asked)
        if isinstance(asked, CreatePipeline | PutPipeline) and asked.pipeline_id in peer.pipelines:
            view = peer.pipelines[asked.pipeline_id]
            peer.pipelines[asked.pipeline_id] = replace(view, status="running")
        return said

    peer.models["parts/1"] = MODEL
    peer.devices["edge-1"] = device("edge-1")
    peer.answer = answer


def created(peer: Peer) -> list[CreatePipeline | PutPipeline]:
    """All requests for a pipeline."""
    return [asked for asked in peer.asked if isinstance(asked, CreatePipeline | PutPipeline)]


STAGE = {
    "name": "text",
    "model": {"id": "parts/1", "digest": "ab" * 32},
    "classes": ["plate", "door"],
    "max_objects": 8,
    "margin": 0.0,
    "max_delay": 0.5,
    "confidence": None,
    "max_detections": 32,
}


def entry(**changes: Any) -> Pipeline:
    """A pipeline, with changes."""
    return as_client_has_it(pipeline("door", spec=spec("rtsp://cam/1")), **changes)


# run ------------------------------------------------------------------------------------------------------


def test_every_option_of_run_reaches_the_broker(run: Command, peer: Peer) -> None:
    options = ["--video", "rtsp://cam/1", "--video", "0", "--mode", "live", "--max-fps", "5", "--tracker"]
    options += ["--sink", "10.0.0.2:12000", "--sink", "[::1]:12001", "--device", "edge-1", "--paused"]
    options += ["--select", "site=hall-1", "--label", "line=3", "--confidence", "0.5", "--iou", "0.2"]
    options += ["--priority", "high", "--mask-format", "rle", "--class", "bolt", "--class", "lock nut"]
    options += ["--stage", "text=parts/1@bolt,nut", "--stage", "kind=parts/1"]
    options += ["--region", "0.1,0.2 .9,.2  0.5,1", "--motion", "0.25,1m"]

    done = run("run", "--id", "door", "--model", "parts/1", *options)

    (asked,) = created(peer)
    assert done.stdout == "door running on edge-1\n"
    assert isinstance(asked, PutPipeline)
    assert (asked.pipeline_id, asked.desired_status, asked.device) == ("door", "pause", "edge-1")
    assert (asked.selector, asked.labels) == ({"site": "hall-1"}, {"line": "3"})
    motion = Motion(sensitivity=0.25, max_still=60.0)
    kept, region = ("bolt", "lock nut"), ((0.1, 0.2), (0.9, 0.2), (0.5, 1.0))
    assert asked.spec.sources == (
        SourceSpec("rtsp://cam/1", mode="live", classes=kept, region=region, motion=motion),
        SourceSpec(0, mode="live", classes=kept, region=region, motion=motion),
    )
    assert asked.spec.sinks == (UdpSink("10.0.0.2", 12000), UdpSink("::1", 12001))
    assert (asked.spec.max_fps, asked.spec.confidence, asked.spec.iou_threshold) == (5.0, 0.5, 0.2)
    assert (asked.spec.tracker, asked.spec.priority, asked.spec.mask_format) == ("bytetrack", "high", "rle")
    assert [(each.name, each.model.id, each.classes) for each in asked.spec.stages] == [
        ("text", "parts/1", ("bolt", "nut")),
        ("kind", "parts/1", None),
    ]


def test_run_without_an_id_makes_another_each_time(run: Command, peer: Peer) -> None:
    for _ in range(2):
        run("run", "--model", "parts/1", "--video", "rtsp://cam/1", "--no-wait")

    assert len(peer.pipelines) == 2


WAITING = ["run", "--id", "door", "--model", "parts/1", "--video", "rtsp://cam/1", "--wait"]


def test_wait_ends_well_as_soon_as_predictions_come(run: Command, peer: Peer) -> None:
    source = SourceStat(
        source_id=0, reference="rtsp://cam/1", state="RUNNING", received=1, decoded=1, inferred=1, emitted=1
    )
    stat = PipelineStat(
        pipeline_id="awaited",  # no other test's: the api keeps its status
        device="edge-1",
        generation=peer.generation,
        incarnation=0,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=0,
        fps=4.9,
        sources=(source,),
        dropped={},
        report=empty_report(spec(), "RUNNING"),
        at=1.5,
    )

    process = run.start(*WAITING, "--id", "awaited", "--json")
    until(lambda: any(isinstance(asked, GetPipeline) for asked in peer.asked))
    assert process.poll() is None  # it is running, but nothing has come yet
    until(lambda: process.poll() is not None, lambda: peer.tell(stat))
    out, err = process.communicate()

    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["emitted"] == 1


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ({"status": "ended"}, 0, ""),
        ({"status": "paused", "desired_status": "pause"}, 0, ""),
        ({"status": "failed", "reason": "no such file"}, 3, "error: door is failed: no such file\n"),
        (
            {"status": "pending", "device": None, "reason": "no device has room"},
            4,
            "error: expected door to predict within 0.3 s, it is pending: no device has room\n"
            "       'streamfleet status door' tells how it goes on\n",
        ),
    ],
)
def test_wait_tells_by_its_exit_code_what_came_of_it(
    run: Command, peer: Peer, state: dict[str, Any], code: int, said: str
) -> None:
    def answer(asked: OperatorRequest) -> Message:
        reply = peer.honest(asked)
        if isinstance(asked, PutPipeline):
            peer.pipelines["door"] = replace(peer.pipelines["door"], **state)
        return reply

    peer.answer = answer

    done = run(*WAITING, "--timeout", "0.3s", code=code)

    assert (bool(done.stdout), done.stderr) == (code == 0, said)


def test_wait_notices_that_somebody_terminated_the_pipeline(run: Command, peer: Peer) -> None:
    def answer(asked: OperatorRequest) -> Message:
        if isinstance(asked, GetPipeline):
            peer.pipelines.clear()
        return peer.honest(asked)

    process = run.start(*WAITING, "--id", "gate")
    until(lambda: peer.pipelines)
    peer.answer = answer
    _out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (3, "error: gate was terminated meanwhile\n")


@pytest.mark.parametrize(("options", "count"), [([], 1), (["--sink", "none"], 0)])
def test_datagrams_go_to_the_device_itself_unless_told_otherwise(
    run: Command, peer: Peer, options: list[str], count: int
) -> None:
    run("run", "--model", "parts/1", "--video", "0", "--no-wait", *options)

    (asked,) = created(peer)
    assert asked.spec.sinks == (UdpSink("127.0.0.1", 37020),) * count


def test_run_again_under_its_id_changes_what_is_another_now(run: Command, peer: Peer) -> None:
    command = ["run", "--id", "door", "--model", "parts/1", "--video", "rtsp://cam/1"]
    run(*command)

    same = run(*command)
    other = run(*command, "--confidence", "0.6")

    assert same.stdout.startswith("door is so already: ")
    assert other.stdout == "door: confidence default → 0.6\nit goes on without a restart\n"


def test_init_takes_what_it_took_and_answers_programs_as_it_did(run: Command, peer: Peer) -> None:
    options = ["--iou-threshold", "0.2", "--tracker", "bytetrack", "--class-agnostic-nms", "--json"]

    done = run("init", "--model", "parts/1", "--video", "0", *options)

    (asked,) = created(peer)
    context = {"pipeline_id": asked.pipeline_id, "device": "edge-1"}
    assert json.loads(done.stdout) == {"status": "success", "context": context}
    assert asked.spec.iou_threshold == 0.2
    assert asked.spec.class_agnostic_nms is True


def test_run_answers_programs_with_the_pipeline(run: Command) -> None:
    done = run("run", "--id", "door", "--model", "parts/1", "--video", "0", "--json")

    assert json.loads(done.stdout)["spec"]["model"]["id"] == "parts/1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "edge-7"], "error: --device edge-7: expected a device of the fleet: edge-1\n"),
        (["--model", "car/1"], "error: --model car/1: expected a model of the fleet: parts/1\n"),
        (["--stage", "text=car/1"], "error: --stage car/1: expected a model of the fleet: parts/1\n"),
        (["--label", "a b=c"], "error: --label a b: expected up to 64 letters"),
        (["--select", "a=b c"], "error: --select b c: expected up to 64 letters"),
        (["--sink", "a b:1"], "error: --sink a b: "),
    ],
)
def test_what_the_api_refuses_is_said_by_the_option(run: Command, options: list[str], said: str) -> None:
    done = run("run", "--id", "x", "--model", "parts/1", "--video", "0", *options, code=1)

    assert done.stderr.startswith(said)
    assert not done.stdout


# set ------------------------------------------------------------------------------------------------------


def test_set_changes_what_is_given_and_nothing_else(run: Command, peer: Peer) -> None:
    known = replace(spec(), confidence=0.4, max_fps=5.0, tracker="bytetrack")
    peer.pipelines["door"] = pipeline("door", spec=known, labels={"line": "3", "old": "1"})

    options = ["--max-fps", "default", "--confidence", "0.6", "--no-tracker", "--label", "line=4"]
    done = run("set", "door", *options, "--label", "old-")

    (asked,) = created(peer)
    assert done.stdout == (
        "door: max-fps 5 → default, confidence 0.4 → 0.6, tracker bytetrack → none, label line 3 → 4, "
        "label old taken away\nit goes on without a restart\n"
    )
    assert asked.spec == replace(known, confidence=0.6, max_fps=None, tracker=None)
    assert asked.labels == {"line": "4"}


def test_set_changes_what_it_does_without_the_broker_and_puts_the_default_back(
    run: Command, peer: Peer
) -> None:
    run("run", "--id", "door", "--model", "parts/1", "--video", "rtsp://cam/1", "--no-wait")

    changed = run("set", "door", "--on-disconnect", "continue").stdout.splitlines()
    kept = peer.pipelines["door"].on_disconnect
    back = run("set", "door", "--on-disconnect", "default").stdout.splitlines()
    wrong = run("set", "door", "--on-disconnect", "wait", code=2)

    assert changed[:2] == ["door: on-disconnect default → continue", "it restarts"]
    assert kept == "continue"
    assert back[0] == "door: on-disconnect continue → default"
    assert peer.pipelines["door"].on_disconnect is None
    assert "'stop', 'continue', 'default'" in wrong.stderr


def test_set_says_that_another_video_begins_anew(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", spec=spec("rtsp://cam/1"))

    done = run("set", "door", "--video", "rtsp://cam/2")

    assert done.stdout == ("door: video rtsp://cam/1 → rtsp://cam/2\nit restarts\ndoor running on edge-1\n")


def test_another_mode_keeps_the_credentials_that_are_not_shown(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")
    (before,) = peer.pipelines["door"].spec.sources

    run("set", "door", "--mode", "file")

    assert created(peer)[0].spec.sources == (replace(before, mode="file"),)


def test_a_decoder_is_chosen_for_each_source(run: Command, peer: Peer) -> None:
    run("run", "--model", "parts/1", "--video", "rtsp://cam/1", "--video", "0", "--decoder", "nv")
    peer.pipelines["door"] = pipeline("door", spec=spec("rtsp://cam/1"))
    run("set", "door", "--decoder", "software")

    made, changed = created(peer)
    assert [source.decoder for source in made.spec.sources] == ["nv", "nv"]
    assert [source.decoder for source in changed.spec.sources] == ["software"]


def test_sinks_are_replaced_added_and_taken_away(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", version=1)

    texts = [
        run("set", "door", *options).stdout.splitlines()[0].partition(" already")[0]
        for options in (
            ["--sink", "10.0.0.1:1", "--sink", "10.0.0.1:2"],
            ["--add-sink", "10.0.0.1:3", "--remove-sink", "10.0.0.1:1"],
            ["--add-sink", "10.0.0.1:3"],
            ["--sink", "none"],
        )
    ]

    assert texts == [
        "door: sink none → 10.0.0.1:1, 10.0.0.1:2",
        "door: sink 10.0.0.1:1, 10.0.0.1:2 → 10.0.0.1:2, 10.0.0.1:3",
        "door is so",
        "door: sink 10.0.0.1:2, 10.0.0.1:3 → none",
    ]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"status": "paused", "desired_status": "pause"}, "it is paused"),
        ({"status": "ended"}, "it has ended: 'streamfleet restart door' plays it again"),
    ],
)
def test_set_says_what_does_not_go_on(run: Command, peer: Peer, state: dict[str, Any], said: str) -> None:
    peer.pipelines["door"] = pipeline("door", **state)

    def answer(asked: OperatorRequest) -> Message:
        if not isinstance(asked, PutPipeline):
            return peer.honest(asked)
        view = pipeline("door", spec=asked.spec, **state)
        return Reply(to_plain(Put(view, created=False, changed=True, confirmed=True)))

    peer.answer = answer

    assert run("set", "door", "--iou", "0.2").stdout.splitlines()[1] == said


def test_a_list_that_somebody_else_changed_meanwhile_is_not_undone(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door", version=1)
    answer = peer.answer

    def meanwhile(asked: OperatorRequest) -> Message | bytes | None:
        said = answer(asked)
        if isinstance(asked, ListPipelines):
            peer.pipelines["door"] = pipeline("door", version=2)
        return said

    peer.answer = meanwhile
    done = run("set", "door", "--add-sink", "10.0.0.1:3", code=1)

    assert done.stderr == "error: another client changed it at the same time\n       try again\n"
    assert not created(peer)


def test_set_without_a_change_is_a_usage_error(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    assert "--confidence 0.6" in run("set", "door", code=2).stderr
    assert "not in the range" in run("set", "door", "--iou", "7", code=2).stderr
    assert not created(peer)


def test_set_changes_what_sources_keep_and_puts_the_default_back(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    run("set", "door", "--class", "bolt")
    kept = peer.pipelines["door"].spec.sources
    run("set", "door", "--motion", "--class", "default")

    assert kept == (replace(peer.pipelines["door"].spec.sources[0], classes=("bolt",), motion=None),)
    assert peer.pipelines["door"].spec.sources[0].classes is None
    assert peer.pipelines["door"].spec.sources[0].motion == Motion()


def test_a_class_of_one_of_two_sources_is_told_with_its_source() -> None:
    first: dict[str, Any] = {"reference": 0}
    second: dict[str, Any] = {"reference": 1}
    before = entry(sources=[first, second])
    nuts = {"classes": ["nut"]}

    assert changes(before, entry(sources=[first | nuts, second])) == ["video 0, 1 → 0 (classes nut), 1"]
    assert changes(before, entry(sources=[first | nuts, second | nuts])) == ["class default → nut"]


@pytest.mark.parametrize("motion", ["", "2", "0.5,", "0.5,0s", "0.5,2h", "0.5,10", "nan", "little"])
def test_a_motion_gate_that_is_none_is_a_usage_error(run: Command, peer: Peer, motion: str) -> None:
    peer.pipelines["door"] = pipeline("door")

    assert "expected a" in run("set", "door", "--motion", motion, code=2).stderr
    assert not created(peer)


@pytest.mark.parametrize(
    "region", ["", "0,0 1,1", "0,0 1,1 2,0", "0,0 1,1 nan,0", "0,0 1,1 x,0", "0,0 1,1 1"]
)
def test_a_region_that_is_none_is_a_usage_error(run: Command, peer: Peer, region: str) -> None:
    peer.pipelines["door"] = pipeline("door")

    assert "expected 3 to 32 corners" in run("set", "door", "--region", region, code=2).stderr
    assert not created(peer)


@pytest.mark.parametrize(
    ("stages", "said"),
    [(["none", "text=parts/1"], "expected 'none' alone"), (["parts/1"], "expected NAME=MODEL")],
)
def test_a_stage_that_is_none_is_a_usage_error(
    run: Command, peer: Peer, stages: list[str], said: str
) -> None:
    peer.pipelines["door"] = pipeline("door")

    options = [part for stage in stages for part in ("--stage", stage)]

    assert said in run("set", "door", *options, code=2).stderr
    assert not created(peer)


def test_a_tracker_is_chosen_by_its_name(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    chosen = []
    for option in (["--tracker", "ocsort"], ["--tracker"], ["--no-tracker"]):
        run("set", "door", *option)
        chosen.append(peer.pipelines["door"].spec.tracker)

    assert chosen == ["ocsort", "bytetrack", None]
    assert "'cbiou'" in run("set", "door", "--tracker", "magic", code=2).stderr


def test_set_answers_programs_with_the_pipeline(run: Command, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    assert json.loads(run("set", "door", "--iou", "0.2", "--json").stdout)["spec"]["iou_threshold"] == 0.2


# what changed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "said", "anew"),
    [
        ({}, [], False),
        ({"model": {"id": "car/1", "digest": "cd" * 32}}, ["model parts/1 → car/1"], False),
        (
            {"model": {"id": "parts/1", "digest": "cd" * 32}},
            ["model parts/1 (abababababab) → cdcdcdcdcdcd"],
            False,
        ),
        (
            {"sources": [{"reference": "rtsp://cam/1", "mode": None, "max_fps": 5.0}]},
            ["max-fps of the video default → 5"],
            False,
        ),
        (
            {"sources": [{"reference": "rtsp://cam/1", "mode": "live", "decoder": "nv"}]},
            ["video rtsp://cam/1 → rtsp://cam/1 (live, decoder nv)"],
            True,
        ),
        (
            {"sources": [{"reference": "rtsp://cam/1", "classes": ["bolt", "nut"]}]},
            ["class default → bolt, nut"],
            False,
        ),
        (
            {"sources": [{"reference": "rtsp://cam/1", "motion": {"max_still": 60}}]},
            ["motion default → 0.5,60s"],
            False,
        ),
        (
            {"sources": [{"reference": "rtsp://cam/1", "region": [[0, 0], [0.25, 1], [1, 0]]}]},
            ["region default → 0,0 0.25,1 1,0"],
            False,
        ),
        (
            {"sources": [{"reference": "rtsp://cam/2", "classes": ["bolt"]}]},
            ["video rtsp://cam/1 → rtsp://cam/2 (classes bolt)"],
            True,
        ),
        ({"class_agnostic_nms": True}, ["class-agnostic-nms default → on"], False),
        ({"device": "edge-2", "requested": "edge-2"}, ["device default → edge-2"], True),
        ({"desired_status": "pause"}, ["paused"], False),
        ({"selector": {"site": "a"}}, ["select site=a"], False),
        ({"generation": 4}, ["video with another login"], True),
        ({"generation": 4, "max_fps": 5.0}, ["max-fps default → 5"], False),
        ({"generation": 4, "priority": "low"}, ["priority normal → low"], False),
        ({"generation": 4, "mask_format": "rle"}, ["mask-format polygon → rle"], False),
        ({"generation": 4, "keep": {"age": 60.0, "size": 2**20}}, ["keep default → 60 s, 1 MiB"], False),
        ({"generation": 4, "keep": {"age": 60.0, "size": None}}, ["keep default → 60 s"], False),
        ({"stages": [STAGE]}, ["stages none → text=parts/1@plate,door"], True),
    ],
)
def test_a_change_is_said_with_what_it_does_to_the_playing(
    after: dict[str, Any], said: list[str], anew: bool
) -> None:
    assert changes(entry(), entry(**after)) == said
    assert begins_anew(entry(), entry(**after)) is anew


@pytest.mark.parametrize(("status", "anew"), [("running", False), ("ended", True)])
def test_another_model_of_a_stage_changes_what_runs_and_begins_anew_what_is_over(
    status: str, anew: bool
) -> None:
    stage = {**STAGE, "model": {"id": "parts/2", "digest": "cd" * 32}}
    before, after = entry(stages=[STAGE], status=status), entry(stages=[stage], status=status)

    assert changes(before, after) == ["stages text=parts/1@plate,door → text=parts/2@plate,door"]
    assert begins_anew(before, after) is anew
