"""Complete predictions of a real fleet: what was made is what arrived, and what is accounted for."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamfleet
from streamfleet.complete.subscription import CompleteSubscription
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fakes.stream_client import first
from tests.fleet.edge import Edge
from tests.fleet.harness import LOADING, Fleet, wait_for

Key = tuple[int, int, int]


@pytest.fixture(scope="module")
def fleet(own_fleet: Fleet) -> Fleet:
    return own_fleet


def put(fleet: Fleet, pipeline_id: str, **fields: object) -> None:
    """A generated source with its model."""
    body = {"model": "shapes/1", "sources": ["scene://conveyor/1"], "max_fps": 20, **fields}
    answer = fleet.http.put(f"/v2/pipelines/{pipeline_id}", json=body)
    assert answer.is_success, answer.text


def key_of(prediction: streamfleet.Prediction) -> Key:
    return prediction.generation, prediction.incarnation, prediction.sequence


class Account:
    """What a subscriber got, in its order."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.gaps: list[streamfleet.Gap] = []

    def add(self, each: streamfleet.Prediction | streamfleet.Gap) -> None:
        if isinstance(each, streamfleet.Gap):
            self.gaps.append(each)
        else:
            self.keys.append(key_of(each))

    def read(self, predictions: CompleteSubscription, count: int) -> None:
        """So many predictions more."""
        most = len(self.keys) + count
        for each in predictions:
            self.add(each)
            if len(self.keys) >= most:
                return

    def unexplained(self) -> list[tuple[Key, Key]]:
        """Jumps within a run that no gap explains."""
        counted = {
            (gap.generation, gap.incarnation, gap.first + at)
            for gap in self.gaps
            if gap.count is not None and gap.first is not None
            for at in range(gap.count)
        }
        told = sorted({*self.keys, *counted})
        assert len(told) == len(self.keys) + len(counted)
        return [
            (before, key)
            for before, key in itertools.pairwise(told)
            if (key[:2] == before[:2] and key[2] != before[2] + 1) or (key[:2] != before[:2] and key[2] != 0)
        ]


@pytest.fixture
def pipeline(fleet: Fleet) -> Iterator[str]:
    put(fleet, "belt")
    yield "belt"
    fleet.http.delete("/v2/pipelines/belt")


def test_a_subscriber_that_was_away_misses_nothing(fleet: Fleet, pipeline: str) -> None:
    account = Account()
    with streamfleet.subscribe(
        pipeline, since=streamfleet.Checkpoint(), data_dir=fleet.data, timeout=PATIENCE
    ) as predictions:
        account.read(predictions, 5)
        checkpoint = predictions.checkpoint.encode()
    wait_for(lambda: last_sequence(fleet, pipeline) >= account.keys[-1][2] + 40, "predictions that it misses")

    since = streamfleet.Checkpoint.decode(checkpoint)
    with streamfleet.subscribe(pipeline, since=since, data_dir=fleet.data, timeout=PATIENCE) as predictions:
        account.read(predictions, 60)

    assert account.gaps == []
    assert account.keys == sorted(set(account.keys))
    assert account.unexplained() == []


def last_sequence(fleet: Fleet, pipeline_id: str) -> int:
    answer = fleet.http.get(f"/v2/pipelines/{pipeline_id}/predictions/last")
    return int(answer.json()["inference_metadata"]["seq"]) if answer.is_success else -1


def test_the_broker_and_the_camera_die_meanwhile(fleet: Fleet, pipeline: str) -> None:
    account = Account()
    with streamfleet.subscribe(
        pipeline, since=streamfleet.Checkpoint(), data_dir=fleet.data, timeout=PATIENCE
    ) as predictions:
        account.read(predictions, 5)
        fleet.kill("sf-broker")
        account.read(predictions, 60)
        fleet.kill("camera")
        account.read(predictions, 30)

    assert len({key[:2] for key in account.keys}) >= 2
    assert account.keys == sorted(set(account.keys))
    assert account.unexplained() == []
    assert sum(gap.count or 0 for gap in account.gaps) == 0


def test_a_publisher_that_dies_costs_what_it_kept_in_memory_and_says_so(fleet: Fleet, pipeline: str) -> None:
    account = Account()
    since = streamfleet.Checkpoint()
    with streamfleet.subscribe(pipeline, since=since, data_dir=fleet.data, timeout=PATIENCE) as predictions:
        account.read(predictions, 5)
        since = predictions.checkpoint
    fleet.kill_all("publisher")
    with streamfleet.subscribe(pipeline, since=since, data_dir=fleet.data, timeout=PATIENCE) as predictions:
        account.read(predictions, 30)

    assert account.unexplained() == []
    assert {gap.cause for gap in account.gaps} <= {"restart", "unwritten"}


def test_a_subscriber_that_is_killed_again_and_again_continues_where_it_was(
    fleet: Fleet, pipeline: str, tmp_path: Path
) -> None:
    log, checkpoint = tmp_path / "log", tmp_path / "checkpoint"
    log.touch()
    kills = 20
    for _ in range(kills):
        before = log.stat().st_size
        with log.open("ab") as output:
            program = subprocess.Popen(
                [sys.executable, str(ROOT / "examples/complete.py"), pipeline, str(checkpoint)],
                env={**os.environ, "STREAMFLEET_DATA_DIR": str(fleet.data)},
                stdout=output,
            )
        try:
            wait_for(lambda size=before: log.stat().st_size > size + 40, "some predictions", every=0.01)  # type: ignore[misc]
        finally:
            os.kill(program.pid, signal.SIGKILL)
            program.wait(PATIENCE)

    lines = log.read_text().splitlines()
    keys = [tuple(map(int, line.split())) for line in lines]
    # The one that it was working on comes once more.
    repeated = sum(before == key for before, key in itertools.pairwise(keys))
    account = Account()
    account.keys = sorted({(key[0], key[1], key[2]) for key in keys})
    assert repeated <= kills
    assert sorted(keys) == keys
    assert len(account.keys) == len(keys) - repeated
    assert account.unexplained() == []


@pytest.fixture
def edge(fleet: Fleet) -> Iterator[Edge]:
    """A device that no program starts again when it dies."""
    with short_folder() as folder:
        edge = Edge(fleet, "edge-1", folder / "edge")
        edge.start("--join", fleet.cli("devices", "add", edge.name, "--token-only").stdout.strip())
        try:
            wait_for(lambda: device_state(fleet, edge.name) == "ready", "edge-1")
            yield edge
        finally:
            edge.kill()
            fleet.cli("devices", "remove", edge.name, "--yes")


def device_state(fleet: Fleet, name: str) -> str | None:
    state: str | None = fleet.http.get(f"/v2/devices/{name}").json().get("state")
    return state


def label(fleet: Fleet, device: str, labels: dict[str, str]) -> None:
    fleet.http.patch(f"/v2/devices/{device}", json={"labels": labels}).raise_for_status()


def test_a_device_that_dies_is_told_of_and_another_one_continues(fleet: Fleet, edge: Edge) -> None:
    labels = {"hall": "1"}
    label(fleet, edge.name, labels)
    put(fleet, "press", selector=labels)
    account = Account()
    with streamfleet.subscribe(
        "press", since=streamfleet.Checkpoint(), data_dir=fleet.data, patience=3.0, timeout=LOADING
    ) as predictions:
        account.read(predictions, 20)
        label(fleet, "local-1", labels)
        edge.kill()
        account.read(predictions, 30)
    label(fleet, "local-1", {})
    fleet.http.delete("/v2/pipelines/press")

    assert len({key[0] for key in account.keys}) == 2
    assert account.keys == sorted(set(account.keys))
    assert account.unexplained() == []
    assert [(gap.count, gap.cause, gap.device) for gap in account.gaps][-1] == (None, "away", "edge-1")


def test_labels_are_followed_and_a_wrong_one_is_told(fleet: Fleet, pipeline: str) -> None:
    put(fleet, "belt", labels={"line": "3"})
    with streamfleet.subscribe(
        "line=3", since=streamfleet.Checkpoint(), data_dir=fleet.data, timeout=LOADING
    ) as predictions:
        first_one = next(predictions)
        put(fleet, "other", labels={"line": "3"})
        others = (each.pipeline_id for each in predictions)
        assert next(each for each in others if each != "belt") == "other"
    fleet.http.delete("/v2/pipelines/other")

    assert first_one.pipeline_id == "belt"
    for names, since in ((("line=3",), None), (("line==3",), streamfleet.Checkpoint())):
        with pytest.raises(streamfleet.BadSetting, match=r"since|key=value"):
            streamfleet.subscribe(*names, since=since, data_dir=fleet.data)


def test_over_http_a_stream_continues_after_the_last_event(fleet: Fleet, pipeline: str) -> None:
    path = f"/v2/predictions?pipeline={pipeline}&since=now"
    with fleet.http.stream("GET", path, timeout=LOADING) as response:
        last, _ = first(response, 5)[-1]
    position = json.loads(last)["positions"][pipeline]
    wait_for(lambda: last_sequence(fleet, pipeline) >= position[2] + 40, "predictions that it misses")

    with fleet.http.stream("GET", path, headers={"last-event-id": last}, timeout=LOADING) as response:
        found = first(response, 60)

    sequences = [data["inference_metadata"]["seq"] for _, data in found]
    assert sequences == [position[2] + 1 + number for number in range(60)]


def test_a_pipeline_that_moves_three_times_is_complete(fleet: Fleet, pipeline: str) -> None:
    account = Account()
    devices: set[str] = set()
    with streamfleet.subscribe(
        pipeline, since=streamfleet.Checkpoint(), data_dir=fleet.data, timeout=PATIENCE
    ) as predictions:
        for _ in range(4):
            account.read(predictions, 20)
            device = fleet.http.get(f"/v2/pipelines/{pipeline}").json()["device"]
            devices.add(device)
            other = ({"local-1", "local-2"} - {device}).pop()
            put(fleet, pipeline, device=other)
        account.read(predictions, 40)

    assert devices == {"local-1", "local-2"}
    assert len({key[0] for key in account.keys}) >= 4
    assert account.keys == sorted(set(account.keys))
    assert account.unexplained() == []
    assert [gap for gap in account.gaps if gap.count] == []
