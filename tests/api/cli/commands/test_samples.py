"""Samples on the command line: what there is, taken away, removed, and how a pipeline picks some."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import supervision as sv

from streamfleet_core.datasets.picked_sample import PICKED
from streamfleet_core.protocol.requests import PutPipeline
from streamfleet_core.protocol.sampling import CloseToThreshold, Limit, Random, Sampling
from streamfleet_core.protocol.status import PipelineStat, SampleStat, empty_report
from streamfleet_core.protocol.values import ModelRef, ObservedState
from tests.api.conftest import Api, Command, until
from tests.fakes.broker import Peer, pipeline, spec
from tests.fakes.samples import path_of, picked


@pytest.fixture(autouse=True)
def no_samples(api: Api) -> Iterator[None]:
    """None after a test."""
    yield
    for dataset in api.http.get("/v2/samples").json()["datasets"]:
        api.http.delete(f"/v2/samples/{dataset['dataset']}")


def put(api: Api, *numbers: int, **changes: Any) -> None:
    for number in numbers:
        item = picked(number, **changes)
        answer = api.http.put(path_of(item), content=item.encode(), headers={"content-type": PICKED})
        assert answer.status_code == 201


def test_samples_are_a_table_of_datasets(run: Command, api: Api) -> None:
    put(api, 1, 2)
    put(api, 3, device="edge-2", pipeline_id="gate")

    head, line = run("samples").stdout.splitlines()
    listed = json.loads(run("samples", "--json").stdout)

    assert head.split() == ["dataset", "samples", "size", "newest", "devices", "pipelines"]
    cells = [cell.strip() for cell in re.split("  +", line)]
    assert cells[:2] == ["parts", "3"]
    assert cells[4:] == ["edge-1, edge-2", "door, gate"]
    assert listed == api.http.get("/v2/samples").json()["datasets"]
    assert json.loads(run("samples", "list", "--json").stdout) == listed


def test_where_there_are_none_it_says_how_to_get_some(run: Command) -> None:
    done = run("samples")

    assert done.stdout == ""
    assert "streamfleet set ID --sample DATASET" in done.stderr


def test_one_picture_is_told_as_one(run: Command, api: Api, tmp_path: Path) -> None:
    put(api, 0)

    done = run("samples", "export", "parts", str(tmp_path / "parts"))

    assert done.stdout == f"{tmp_path / 'parts'}: 1 picture, 1 object of 2 classes\n"


def test_an_export_opens_as_a_data_set(run: Command, api: Api, tmp_path: Path) -> None:
    put(api, *range(5))
    folder = tmp_path / "exports/parts"

    done = run("samples", "export", "parts", str(folder))

    assert done.stdout == f"{folder}: 5 pictures, 5 objects of 2 classes\n"
    assert sorted(path.name for path in folder.iterdir()) == ["annotations.json", "images"]
    dataset = sv.DetectionDataset.from_coco(str(folder / "images"), str(folder / "annotations.json"))
    assert (len(dataset), dataset.classes) == (5, ["bolt", "nut"])
    assert all(detections.xyxy.tolist() == [[16, 8, 24, 12]] for _, _, detections in dataset)


def test_an_export_tells_programs_what_it_wrote(run: Command, api: Api, tmp_path: Path) -> None:
    put(api, 1)

    done = run("samples", "export", "parts", str(tmp_path / "new"), "--json")

    assert json.loads(done.stdout) == {
        "dataset": "parts",
        "folder": str(tmp_path / "new"),
        "images": 1,
        "annotations": 1,
        "categories": 2,
    }


def test_an_export_mixes_with_nothing(run: Command, api: Api, tmp_path: Path) -> None:
    put(api, 1)
    (tmp_path / "mine.txt").write_text("x")

    done = run("samples", "export", "parts", str(tmp_path), code=1)

    assert f"{tmp_path} is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("command", [["export", "pats", "{folder}"], ["remove", "pats"]])
def test_a_dataset_that_is_not_there_is_guessed(
    run: Command, api: Api, tmp_path: Path, command: list[str]
) -> None:
    put(api, 1)

    done = run("samples", *(word.format(folder=tmp_path / "new") for word in command), code=1)

    assert "no dataset pats" in done.stderr
    assert "did you mean parts?" in done.stderr


def test_datasets_are_removed(run: Command, api: Api) -> None:
    put(api, 1)
    put(api, 2, dataset="faults")

    one = run("samples", "remove", "parts", "none", code=1)
    other = run("samples", "remove", "faults", "--json")

    assert one.stdout == "parts removed\n"
    assert "no dataset none" in one.stderr
    assert json.loads(other.stdout) == {"dataset": "faults", "state": "gone"}
    assert api.http.get("/v2/samples").json() == {"datasets": []}


# which are picked -----------------------------------------------------------------------------------------


@pytest.fixture
def model(peer: Peer) -> None:
    peer.models["parts/1"] = ModelRef("parts/1", "ab" * 32)


def sampling(peer: Peer) -> Sampling | None:
    """Of the last request."""
    asked = [each for each in peer.asked if isinstance(each, PutPipeline)]
    return asked[-1].spec.sampling


RUN = ["run", "--id", "door", "--model", "parts/1", "--video", "rtsp://cam/1", "--no-wait"]


def test_a_dataset_alone_gets_what_the_model_is_unsure_of(run: Command, peer: Peer, model: None) -> None:
    run(*RUN, "--sample", "doors")

    wanted = sampling(peer)
    assert wanted is not None
    assert wanted.dataset == "doors"
    assert isinstance(wanted.strategies[0], CloseToThreshold)
    assert all(strategy.limits for strategy in wanted.strategies)


def test_a_share_is_one_of_all_frames(run: Command, peer: Peer, model: None) -> None:
    run(*RUN, "--sample", "doors=0.05")

    assert sampling(peer) == Sampling(
        dataset="doors", strategies=(Random(name="random", traffic_percentage=0.05),)
    )


def test_a_file_says_all(run: Command, peer: Peer, model: None, tmp_path: Path) -> None:
    file = tmp_path / "sampling.json"
    strategy = {
        "type": "random",
        "name": "few",
        "traffic_percentage": 1,
        "limits": [{"type": "daily", "value": 3}],
    }
    file.write_text(json.dumps({"dataset": "doors", "strategies": [strategy]}))

    run(*RUN, "--sample", str(file))

    few = Random(name="few", traffic_percentage=1.0, limits=(Limit("daily", 3),))
    assert sampling(peer) == Sampling(dataset="doors", strategies=(few,))


@pytest.mark.parametrize("text", ["doors=2", "doors=", "doors=nan", "../doors", "no.json", "=0.1"])
def test_what_is_neither_is_refused(run: Command, peer: Peer, model: None, text: str) -> None:
    done = run(*RUN, "--sample", text, code=2)

    assert "--sample" in done.stderr
    assert not peer.pipelines


def test_a_file_that_the_api_refuses_is_named_by_the_option(
    run: Command, model: None, tmp_path: Path
) -> None:
    file = tmp_path / "sampling.json"
    file.write_text('{"dataset": "doors", "strategies": [{"type": "random", "name": "some"}]}')

    done = run(*RUN, "--sample", str(file), code=1)

    assert done.stderr == "error: --sample strategies.0.random.traffic_percentage: Field required\n"


def test_a_file_that_names_no_dataset_is_told_what_to_add(run: Command, model: None, tmp_path: Path) -> None:
    file = tmp_path / "sampling.json"
    file.write_text('{"enabled": true, "sampling_strategies": []}')

    done = run(*RUN, "--sample", str(file), code=2)

    assert 'sampling.json: expected "dataset": NAME in it, got enabled, sampling_strategies' in done.stderr


def test_status_tells_what_came_of_it(api: Api, run: Command, peer: Peer) -> None:
    desired = replace(
        spec(), sampling=Sampling(dataset="doors", strategies=(Random(name="any", traffic_percentage=1.0),))
    )
    peer.pipelines["picky"] = pipeline("picky", spec=desired)
    counted = SampleStat(picked=9, written=6, dropped={"queue": 3, "disk": 0}, error="the disk is full")
    stat = PipelineStat(
        pipeline_id="picky",
        device="edge-1",
        generation=peer.generation,
        incarnation=1,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=0,
        fps=5.0,
        sources=(),
        dropped={},
        report=empty_report(desired, "RUNNING"),
        at=1.5,
        samples=counted,
    )

    before = run("status", "picky").stdout.splitlines()
    until(lambda: api.http.get("/v2/pipelines/picky/status").json()["samples"], lambda: peer.tell(stat))
    after = run("status", "picky").stdout.splitlines()

    assert "  samples     for doors, 0 kept" in before
    line = after.index("  samples     for doors, 6 kept, dropped 3 queue")
    assert after[line + 1] == "              the disk is full"


def test_set_turns_it_on_and_off_while_it_plays(run: Command, peer: Peer, model: None) -> None:
    peer.pipelines["door"] = pipeline("door")

    on = run("set", "door", "--sample", "doors=0.5")
    picks = sampling(peer)
    off = run("set", "door", "--sample", "none")

    assert picks is not None
    assert sampling(peer) is None
    assert on.stdout == "door: sample none → doors (random)\nit goes on without a restart\n"
    assert off.stdout == "door: sample doors (random) → none\nit goes on without a restart\n"
