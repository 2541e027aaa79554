"""Optimising a model: what is refused, what is registered, and which pipelines are updated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from streamfleet_api.cli.trials import variant_builder
from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.local.demo import conveyor_model, demo_model
from streamfleet_core.datasets.picked_sample import PICKED
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.optimisation import Job
from streamfleet_core.protocol.status import DeviceStat
from streamfleet_core.protocol.tasks.optimisation import Outcome, Trial
from streamfleet_core.protocol.values import ModelRef, Stage, Weights
from tests.api.conftest import Api, Command, until
from tests.fakes.broker import Peer, pipeline, spec
from tests.fakes.broker import device as device_of
from tests.fakes.samples import path_of, picked

BOARD = "this kind of board"


@pytest.fixture
def shapes(run: Command, peer: Peer, tmp_path: Path) -> ModelRef:
    """A registered model."""
    file = tmp_path / "shapes.onnx"
    file.write_bytes(demo_model())
    run("models", "add", "shapes/1", str(file))
    return peer.models["shapes/1"]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that were asked for. Each gives one variant, which is twice as fast."""
    jobs: list[Job] = []
    monkeypatch.setattr(variant_builder, "this_board", lambda: BOARD)

    def build(job: Job, _: Any) -> Outcome:
        jobs.append(job)
        return outcome_of(job)

    monkeypatch.setattr(variant_builder, "build", build)
    return jobs


def outcome_of(job: Job, refusal: str = "") -> Outcome:
    model = onnx.load(job.weights_path)
    helper.set_model_props(model, {"which": "variant"})
    path = Path(job.folder) / "int8.onnx"
    onnx.save(model, str(path))
    trial = Trial(
        precision="int8",
        path=str(path),
        weights=Weights(digest_of(path), path.stat().st_size),
        ms=2.0,
        speedup=2.1234,
        agreement=0.99,
        class_agreement=1.0,
        shift=-0.01,
        blind_frames=0,
        refusal=refusal,
    )
    return Outcome(
        board=BOARD,
        provider="CPUExecutionProvider",
        calibrated=8,
        compared=8,
        boxes=1,
        ms=4.2,
        trials=(trial,),
    )


def on_board(api: Api, peer: Peer, device: str, board: str) -> None:
    """A device that tells its kind."""
    peer.devices[device] = device_of(device)
    peer.tell(
        DeviceStat(device=device, session="ready", capacity=8, pipelines=1, engines=(), at=0.0, board=board)
    )
    until(lambda: api.http.get(f"/v2/devices/{device}").json()["board"] == board)


def test_the_best_variant_is_registered_and_pipelines_on_such_boards_are_updated(
    run: Command, api: Api, peer: Peer, shapes: ModelRef, built: list[Job]
) -> None:
    on_board(api, peer, "kind-1", BOARD)
    on_board(api, peer, "kind-2", "another")
    for name, device in (("here", "kind-1"), ("there", "kind-2")):
        peer.pipelines[name] = pipeline(name, device=device, spec=replace(spec(), model=shapes))

    said = run("models", "optimise", "shapes/1", "--calibrate", "belt.mp4").stdout.splitlines()

    (job,) = built
    assert job.pictures == str(Path("belt.mp4").absolute())
    assert said[0].split() == [
        *("variant", "ms", "speed-up", "agreement", "classes", "shift", "blind", "size", "verdict"),
    ]
    assert [line.split()[:8] for line in said[1:3]] == [
        ["the", "model", "4.20", "1.00", *said[1].split()[4:6]],
        ["int8", "2.00", "2.12", "0.990", "1.000", "-0.010", "0", said[2].split()[7]],
    ]
    assert said[3:] == [
        f"on {BOARD}; built with 8 pictures, compared on 8 others, with 1 object",
        "shapes/1: devices of this kind run int8 from now on",
        "updated: here",
    ]
    assert peer.models["shapes/1"] != shapes
    assert peer.pipelines["here"].spec.model == peer.models["shapes/1"]
    assert peer.pipelines["there"].spec.model == shapes
    card = run("models", "show", "shapes/1").stdout
    assert f"int8 for {BOARD}: 2.12 times as fast, agreement 0.990" in card
    assert card.count("variants") == 1


@pytest.mark.parametrize("options", [["--dry-run"], ["--no-update"]])
def test_less_may_be_done(
    run: Command, api: Api, peer: Peer, shapes: ModelRef, built: list[Job], options: list[str]
) -> None:
    on_board(api, peer, "kind-1", BOARD)
    peer.pipelines["here"] = pipeline("here", device="kind-1", spec=replace(spec(), model=shapes))

    told = json.loads(run("models", "optimise", "shapes/1", "--calibrate", "f", *options, "--json").stdout)

    assert (told["winner"], told["registered"]) == ("int8", options == ["--no-update"])
    assert told["updated"] == []
    assert (peer.models["shapes/1"] == shapes) == (options == ["--dry-run"])
    assert peer.pipelines["here"].spec.model == shapes


def test_pipelines_that_use_it_in_a_stage_are_updated_too(
    run: Command, api: Api, peer: Peer, shapes: ModelRef, built: list[Job]
) -> None:
    on_board(api, peer, "kind-1", BOARD)
    other = replace(shapes, id="other/1")
    peer.models[other.id] = other
    stages = (
        Stage(name="first", model=other, classes=("red",), margin=0.1, max_delay=2.0),
        Stage(name="second", model=shapes, max_objects=3, confidence=0.4, max_detections=5),
    )
    both = replace(spec(), model=other, stages=stages)
    peer.pipelines["belt"] = pipeline("belt", device="kind-1", spec=both)
    stale = replace(stages[0], model=replace(other, digest="0" * 64))
    peer.pipelines["gate"] = pipeline("gate", device="kind-1", spec=replace(both, stages=(stale, stages[1])))

    said = run("models", "optimise", "shapes/1", "--calibrate", "belt.mp4")

    new = peer.models["shapes/1"]
    assert said.stdout.splitlines()[-1] == "updated: belt"
    assert new != shapes
    assert peer.pipelines["belt"].spec == replace(both, stages=(stages[0], replace(stages[1], model=new)))
    assert "gate keeps its file of shapes/1: a model of another stage was replaced" in said.stderr
    assert peer.pipelines["gate"].spec.stages == (stale, stages[1])


def test_what_is_refused_is_not_registered(
    run: Command, peer: Peer, shapes: ModelRef, built: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_builder, "build", lambda job, _: outcome_of(job, "blind on 1 of 8 frames"))

    said = run("models", "optimise", "shapes/1", "--calibrate", "f")

    assert "blind on 1 of 8 frames" in said.stdout
    assert said.stdout.splitlines()[-1] == "no variant may replace the model: nothing is registered"
    assert said.stderr == f"no device of the fleet is of this machine's kind, {BOARD}\n"
    assert peer.models["shapes/1"] == shapes


def test_a_kind_that_has_a_variant_is_not_built_for_again_until_told_to(
    run: Command, peer: Peer, shapes: ModelRef, built: list[Job]
) -> None:
    run("models", "optimise", "shapes/1", "--calibrate", "f")

    again = run("models", "optimise", "shapes/1", "--calibrate", "f")
    rebuilt = run("models", "optimise", "shapes/1", "--calibrate", "f", "--rebuild")

    assert again.stdout.startswith(f"shapes/1 has a variant already: int8 for {BOARD}: 2.12 times as fast")
    assert "from now on" in rebuilt.stdout
    assert len(built) == 2


@pytest.mark.parametrize(
    ("device", "board", "error"),
    [
        ("silent-1", "", "silent-1 has not told its kind yet"),
        ("lost-1", "this kind", "lost-1 is lost, expected a device that is ready"),
        ("nobody-1", "", "no device nobody-1"),
    ],
)
def test_a_device_that_cannot_build_is_not_asked(
    run: Command,
    api: Api,
    peer: Peer,
    shapes: ModelRef,
    built: list[Job],
    device: str,
    board: str,
    error: str,
) -> None:
    if board:
        on_board(api, peer, device, board)
    if device != "nobody-1":
        peer.devices[device] = device_of(device, state="lost" if device == "lost-1" else "ready")

    failed = run("models", "optimise", "shapes/1", "--device", device, code=1)

    assert error in failed.stderr
    assert not built


def test_samples_of_the_pipelines_that_use_the_model_are_its_pictures(
    run: Command, api: Api, peer: Peer, shapes: ModelRef, built: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = run("models", "optimise", "shapes/1", code=1)
    seen: list[int] = []
    for number in range(20):
        item = picked(number)
        answer = api.http.put(path_of(item), content=item.encode(), headers={"content-type": PICKED})
        assert answer.status_code == 201, answer.text
    peer.pipelines["door"] = pipeline("door", spec=replace(spec(), model=shapes))

    def build(job: Job, _: Any) -> Outcome:
        seen.append(len(list(Path(job.pictures).iterdir())))
        return outcome_of(job)

    monkeypatch.setattr(variant_builder, "build", build)
    run("models", "optimise", "shapes/1", "--frames", "8")
    api.http.delete("/v2/samples/parts")

    assert "expected at least 16 samples of the pipelines that use shapes/1, got 0" in few.stderr
    assert seen == [16]


# the process ----------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "model.onnx"
    path.write_bytes(conveyor_model())
    manifest = validate_model(path, digest_of(path))
    return Job(
        manifest=manifest,
        weights_path=str(path),
        pictures="scene://conveyor/5",
        folder=str(tmp_path),
        frames=8,
    )


def test_the_process_says_how_far_it_is_and_what_it_has_found(job: Job) -> None:
    told: list[str] = []

    outcome = variant_builder.build(job, told.append)

    assert outcome.board == variant_builder.this_board()
    assert [trial.precision for trial in outcome.trials] == ["int8", "int8-stem", "fp16"]
    assert "building int8 with 8 pictures" in told


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"pictures": "/nowhere.mp4"}, "there is no file /nowhere.mp4"),
        ({"pictures": "rtsp://10.0.0.1/door"}, "expected a film, a folder of pictures or a generated scene"),
        ({"weights_path": "/nowhere.onnx"}, "the model file cannot be read"),
    ],
)
def test_what_the_process_cannot_do_is_an_error(job: Job, changed: dict[str, Any], error: str) -> None:
    with pytest.raises(CommandFailed, match=error):
        variant_builder.build(replace(job, **changed), lambda _: None)


def test_a_process_that_takes_too_long_is_ended(job: Job) -> None:
    with pytest.raises(CommandFailed, match="building was ended by signal 9"):
        variant_builder.build(job, lambda _: None, timeout=0.01)


def test_a_machine_that_cannot_tell_its_kind_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant_builder, "_BOARD", "streamfleet_worker.no_such_module")

    with pytest.raises(CommandFailed, match=r"kind of this machine is unknown: .*no_such_module"):
        variant_builder.this_board()
