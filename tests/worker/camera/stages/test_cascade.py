"""A camera process with a second model: its results lie under the objects that they belong to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from streamfleet_core.protocol.values import Manifest, ModelRef, SourceSpec, Stage
from streamfleet_worker.ipc.child_messages import CameraReport, Change, ModelConfig
from tests.fakes.models import manifest_of, write_colour_classifier, write_constant_model
from tests.fakes.process_harness import Child, ProcessHarness, is_camera, until_ended, wait_for, write_video
from tests.fakes.videos import write_pattern


def stage_of(manifest: Manifest, **more: Any) -> Stage:
    return Stage(name="colour", model=ModelRef("colours/1", manifest.digest), **more)


def engine_of_colours(stand: ProcessHarness) -> tuple[Manifest, Child]:
    path = stand.folder / "colours.onnx"
    manifest = write_colour_classifier(path)
    return manifest, stand.engine(path, manifest, name="colours")


def config_of(stand: ProcessHarness, manifest: Manifest) -> tuple[ModelConfig]:
    return (ModelConfig(manifest, str(stand.folder / "colours")),)


def test_each_object_has_the_result_for_its_own_part_of_the_frame(
    stand: ProcessHarness, squares: Manifest
) -> None:
    colours, _ = engine_of_colours(stand)
    film = write_pattern(stand.folder / "film.avi", 40)
    camera = stand.camera(
        squares, str(film), stages=(stage_of(colours),), stage_configs=config_of(stand, colours)
    )

    report = until_ended(camera)

    predictions = [each for document in stand.receiver.documents for each in document["predictions"]]
    assert len(stand.receiver.documents) == 40
    assert stand.receiver.frame_ids == list(range(1, 41))
    assert len(predictions) > 40
    assert {each["stages"]["colour"]["top"] == each["class"] for each in predictions} == {True}
    assert {each["class"] for each in predictions} == {"red", "green", "blue"}
    (stat,) = report.stages
    assert (stat.name, stat.inferred, stat.late, stat.failed) == ("colour", len(predictions), 0, 0)


def test_boxes_of_a_stage_are_in_pixels_of_the_frame(stand: ProcessHarness, quick: Manifest) -> None:
    # Both models find a box of 16 x 8 in the middle of their input of 64 x 64.
    path = stand.folder / "inner.onnx"
    write_constant_model(path, np.array([[32, 32, 16, 8, 0.9, 0, 0]], np.float32).T[None])
    inner = manifest_of(path, width=64, height=64)
    stand.engine(path, inner, name="colours")
    film = write_video(stand.folder / "film.avi", 3)
    camera = stand.camera(quick, str(film), stages=(stage_of(inner),), stage_configs=config_of(stand, inner))

    until_ended(camera)

    (parent,) = stand.receiver.documents[0]["predictions"]
    (child,) = parent["stages"]["colour"]["predictions"]
    # The box of 16 x 8 at (32, 24) is enlarged four times to 64 x 32, so its inner box is 4 x 2.
    assert [parent[key] for key in ("x", "y", "width", "height")] == [32, 24, 16, 8]
    assert [child[key] for key in ("x", "y", "width", "height")] == [32, 24, 4, 2]
    assert "image" not in parent["stages"]["colour"]


def test_a_live_frame_does_not_wait_for_a_stage_without_an_engine(
    stand: ProcessHarness, squares: Manifest
) -> None:
    colours = write_colour_classifier(stand.folder / "colours.onnx")
    camera = stand.camera(
        squares,
        [SourceSpec("TestPatternStreamProducer")],
        stages=(stage_of(colours, max_delay=0.05),),
        stage_configs=config_of(stand, colours),
    )

    def is_late(report: Any) -> bool:
        return isinstance(report, CameraReport) and report.stages[0].late > 3 and report.emitted > 3

    report = camera.until("objects are late", is_late)

    assert report.stages[0].inferred == 0
    assert report.waiting_for_engine
    predictions = [each for document in stand.receiver.documents for each in document["predictions"]]
    assert predictions
    assert not any("stages" in each for each in predictions)


def test_the_frames_of_a_file_wait_for_an_engine_that_begins_again(
    stand: ProcessHarness, squares: Manifest
) -> None:
    colours, engine = engine_of_colours(stand)
    film = write_pattern(stand.folder / "film.avi", 200)
    camera = stand.camera(
        squares, str(film), max_fps=100, stages=(stage_of(colours),), stage_configs=config_of(stand, colours)
    )
    camera.until("some objects", lambda report: report.stages and report.stages[0].inferred > 20)
    engine.kill()
    camera.until("it waits", lambda report: report.waiting_for_engine)
    stand.engine(stand.folder / "colours.onnx", colours, name="colours")

    until_ended(camera)

    documents = stand.receiver.documents
    assert stand.receiver.frame_ids == list(range(1, 201))
    assert all("stages" in each for document in documents for each in document["predictions"])


def test_a_pause_ends_the_wait_for_stages(stand: ProcessHarness, squares: Manifest) -> None:
    colours, _ = engine_of_colours(stand)
    camera = stand.camera(
        squares,
        [SourceSpec("TestPatternStreamProducer")],
        stages=(stage_of(colours),),
        stage_configs=config_of(stand, colours),
    )
    camera.until("some objects", lambda report: report.stages and report.stages[0].inferred > 5)

    camera.change(2, "pause")
    camera.until("it is paused", lambda report: is_camera(report, "paused"))
    camera.change(3, "run")
    before = camera.reports[-1].stages[0].inferred
    camera.until("more objects", lambda report: report.stages[0].inferred > before)

    assert camera.stop() == 0


def test_another_model_of_a_stage_takes_over_between_two_frames(
    stand: ProcessHarness, squares: Manifest
) -> None:
    colours, _ = engine_of_colours(stand)
    path = stand.folder / "sides.onnx"
    write_constant_model(path, np.array([[32, 32, 16, 8, 0.9, 0, 0]], np.float32).T[None])
    sides = manifest_of(path, width=64, height=64, labels=("side", "front", "back"))
    film = write_pattern(stand.folder / "film.avi", 200)
    camera = stand.camera(
        squares, str(film), max_fps=40, stages=(stage_of(colours),), stage_configs=config_of(stand, colours)
    )
    camera.until("some objects", lambda report: report.stages and report.stages[0].inferred > 20)

    spec = camera.config.spec
    other = replace(spec.with_models([spec.model, ModelRef("sides", sides.digest)]), max_fps=None)
    camera.tell(Change(2, "run", other, (None, ModelConfig(sides, str(stand.folder / "sides")))))
    camera.until("frames meanwhile", lambda report: report.emitted > 60)
    meanwhile = {one["inference_metadata"]["gen"] for one in stand.receiver.documents}
    stand.engine(path, sides, name="sides")
    report = until_ended(camera)

    documents = stand.receiver.documents
    results = {
        (document["inference_metadata"]["gen"], "top" in each["stages"]["colour"])
        for document in documents
        for each in document["predictions"]
    }
    assert meanwhile == {1}
    assert stand.receiver.frame_ids == list(range(1, 201))
    assert results == {(1, True), (2, False)}
    last = next(document for document in reversed(documents) if document["predictions"])
    inside = last["predictions"][0]["stages"]["colour"]["predictions"]
    assert [each["class"] for each in inside] == ["side"]
    (stat,) = report.stages
    assert (stat.inferred, stat.late) == (sum(len(one["predictions"]) for one in documents), 0)


def test_the_first_model_and_that_of_a_stage_take_over_together(
    stand: ProcessHarness, squares: Manifest
) -> None:
    colours, _ = engine_of_colours(stand)
    path = stand.folder / "one.onnx"
    write_constant_model(path, np.array([[32, 32, 16, 8, 0.9, 0, 0]], np.float32).T[None])
    one = manifest_of(path, width=64, height=64, labels=("one", "two", "three"))
    camera = stand.camera(
        squares,
        [SourceSpec("TestPatternStreamProducer")],
        stages=(stage_of(colours),),
        stage_configs=config_of(stand, colours),
    )
    camera.until("some objects", lambda report: report.stages and report.stages[0].inferred > 5)

    spec = camera.config.spec.with_models([ModelRef("one", one.digest)] * 2)
    config = ModelConfig(one, str(stand.folder / "one"))
    camera.tell(Change(2, "run", spec, (config, config)))
    stand.engine(path, one, name="one")
    camera.until("they took over", lambda report: report.generation == 2)
    wait_for("a prediction", lambda: any(each["gen"] == 2 for each in stand.receiver.metadata))

    known = {
        (
            document["inference_metadata"]["gen"],
            each["class"] == "one",
            "top" in each["stages"]["colour"],
        )
        for document in stand.receiver.documents
        for each in document["predictions"]
        if "stages" in each
    }
    assert known == {(1, False, True), (2, True, False)}
    assert camera.stop() == 0
