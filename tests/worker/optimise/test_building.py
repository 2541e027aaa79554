"""Variants of the demo's detector: a good one is faster and finds the same, spoilt ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from streamfleet_api.local.demo import conveyor_model
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.optimisation import Job
from streamfleet_core.protocol.tasks.optimisation import Failed, Outcome
from streamfleet_worker.engine.accelerators.choice import CPU
from streamfleet_worker.host.board import read_cpu
from streamfleet_worker.optimise.building import Board, CannotCompare, optimise
from streamfleet_worker.optimise.candidates import Candidate
from tests.fakes.process_harness import write_video

BOARD = Board(name="this board", provider=CPU, cpu=read_cpu())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "model.onnx"
    path.write_bytes(conveyor_model())
    return Job(
        manifest=validate_model(path, digest_of(path)),
        weights_path=str(path),
        pictures="scene://conveyor/5",
        folder=str(tmp_path),
        frames=8,
    )


def spoilt(job: Job, change: Callable[[ModelProto], None]) -> Outcome:
    """What is found out about a file that was changed so."""

    def build(source: Path, target: Path, _: Iterator[dict[str, Any]], __: Candidate) -> None:
        model = onnx.load(str(source))
        change(model)
        onnx.save(model, str(target))

    return optimise(job, BOARD, lambda _: None, build)


def after_output(operator: str, value: float) -> Callable[[ModelProto], None]:
    """A change: one more operation on the scores of all boxes."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        (output,) = graph.output
        rows = output.type.tensor_type.shape.dim[1].dim_value
        factor = np.full((1, rows, 1), 1 if operator == "Mul" else 0, np.float32)
        factor[:, 4:] = value
        maker = next(node for node in graph.node if output.name in node.output)
        maker.output[list(maker.output).index(output.name)] = "raw output"
        graph.initializer.append(numpy_helper.from_array(factor, "row factors"))
        graph.node.append(helper.make_node(operator, ["raw output", "row factors"], [output.name]))

    return change


def test_int8_is_measured_on_other_pictures_than_it_is_built_with(job: Job) -> None:
    told: list[str] = []

    outcome = optimise(job, BOARD, told.append)

    assert (outcome.board, outcome.calibrated, outcome.compared, outcome.failed) == ("this board", 8, 8, ())
    assert outcome.boxes > 0
    assert [each.precision for each in outcome.trials] == ["int8", "int8-stem", "fp16"]
    for trial in outcome.trials:
        assert trial.agreement is not None
        assert trial.agreement > 0.9
        assert trial.blind_frames == 0
        assert trial.weights.sha256 == digest_of(Path(trial.path))
        assert trial.weights.size < job.manifest.weights.size * 0.6
    assert outcome.trials[-1].agreement == 1.0
    assert told[-1] == "comparing fp16 on 8 other pictures"


def test_a_variant_that_finds_nothing_is_refused(job: Job) -> None:
    outcome = spoilt(job, after_output("Mul", 0.0))

    assert {each.refusal for each in outcome.trials} == {"blind on 8 of 8 frames"}
    assert outcome.winner is None


def test_a_variant_that_is_less_sure_is_refused_by_its_agreement(job: Job) -> None:
    outcome = spoilt(job, after_output("Mul", 0.6))

    (refusal,) = {each.refusal for each in outcome.trials}
    assert refusal.startswith(("expected an agreement of 0.98, got", "blind on"))
    assert outcome.winner is None


@pytest.mark.parametrize(("operator", "value"), [("Mul", 3.0), ("Add", -0.5), ("Mul", float("nan"))])
def test_a_variant_whose_scores_are_no_scores_is_no_variant(job: Job, operator: str, value: float) -> None:
    outcome = spoilt(job, after_output(operator, value))

    assert outcome.trials == ()
    assert all("expected scores from 0 to 1" in each.reason for each in outcome.failed)


def test_a_variant_that_is_the_model_itself_is_not_faster_and_another_may_fail(job: Job) -> None:
    def build(source: Path, target: Path, _: Iterator[dict[str, Any]], candidate: Candidate) -> None:
        if candidate.keep_stem:
            raise ValueError("no such operator")
        target.write_bytes(source.read_bytes())

    outcome = optimise(job, BOARD, lambda _: None, build)

    assert [each.precision for each in outcome.trials] == ["int8", "fp16"]
    for each in outcome.trials:
        assert (each.agreement, each.class_agreement, each.shift, each.blind_frames) == (1.0, 1.0, 0.0, 0)
    assert outcome.failed == (Failed(precision="int8-stem", reason="no such operator"),)


def test_pictures_in_which_the_model_finds_nothing_say_nothing(job: Job, tmp_path: Path) -> None:
    film = write_video(tmp_path / "grey.avi", 60)

    with pytest.raises(CannotCompare, match="the model finds nothing in 8 pictures"):
        optimise(
            Job(
                manifest=job.manifest,
                weights_path=job.weights_path,
                pictures=str(film),
                folder=job.folder,
                frames=8,
            ),
            BOARD,
            lambda _: None,
        )
