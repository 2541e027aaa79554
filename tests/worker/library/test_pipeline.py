"""A pipeline inside a program: real files and models, in the test's own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import supervision as sv

from streamfleet_worker import InferencePipeline, SinkMode, VideoFrame, library
from streamfleet_worker.library import (
    PipelineWatchDog,
    SourceConnectionError,
    StatusUpdate,
    StreamOperationNotAllowedError,
)
from streamfleet_worker.video.synthetic.test_pattern import LABELS, draw, truth
from tests.fakes.detections_columns import class_ids
from tests.fakes.http_camera import HttpCamera
from tests.fakes.library_parts import Taker, found_at, nothing_left_behind, squares_model
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import wait_for
from tests.fakes.videos import write_drawn, write_pattern

SCALE = 480 / 1920  # pixels of the films that are made here for one of the pattern


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def taker() -> Taker:
    return Taker()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames."""
    return write_pattern(tmp_path_factory.mktemp("film") / "film.avi", 30)


@pytest.fixture
def running() -> Iterator[Callable[[InferencePipeline], InferencePipeline]]:
    """Starts pipelines in the background, which are over in the end."""
    started: list[InferencePipeline] = []

    def start(pipeline: InferencePipeline) -> InferencePipeline:
        started.append(pipeline)
        pipeline.start(use_main_thread=False)
        return pipeline

    yield start
    for pipeline in started:
        pipeline.terminate()
        pipeline.join()


def nothing(frames: list[VideoFrame]) -> list[dict[str, Any]]:
    return [found_at() for _ in frames]


def frames_read(pipeline: InferencePipeline) -> int:
    """Of its only source, whatever became of them."""
    (stat,) = pipeline._sources.stats()
    return stat.received


def state_of(pipeline: InferencePipeline) -> str:
    """Of its only source."""
    (source,) = pipeline.report()["sources_metadata"]
    return str(source["state"])


# frames ---------------------------------------------------------------------------------------------------


def test_every_frame_of_a_file_comes_once_in_order_with_its_boxes(
    folder: Path, film: Path, taker: Taker
) -> None:
    pipeline = InferencePipeline.init(film, squares_model(folder / "squares"), taker)

    pipeline.start()

    assert taker.frame_ids == list(range(1, 31))
    for prediction, frame in taker.calls:
        found = sv.Detections.from_inference(prediction)
        order = np.argsort(class_ids(found))
        assert [str(name) for name in found.data["class_name"][order]] == list(LABELS)
        assert np.abs(found.xyxy[order] - truth(frame.frame_id) * SCALE).max() < 4
        assert prediction["image"] == {"width": 480, "height": 270}
        assert "inference_metadata" not in prediction


def test_only_objects_of_some_classes_in_a_region_are_kept(folder: Path, film: Path, taker: Taker) -> None:
    left = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
    pipeline = InferencePipeline.init(
        film, squares_model(folder / "squares"), taker, classes=["red", "blue"], region=left
    )

    pipeline.start()

    assert taker.frame_ids == list(range(1, 31))
    kept = 0
    for prediction, frame in taker.calls:
        centers = (truth(frame.frame_id)[:, 0] + truth(frame.frame_id)[:, 2]) / 2 / 1920
        expected = {name for name, x in zip(LABELS, centers, strict=True) if name != "green" and x < 0.5}
        found = {each["class"] for each in prediction["predictions"]}
        sure = {name for name, x in zip(LABELS, centers, strict=True) if abs(x - 0.5) > 0.01}
        assert found & sure == expected & sure
        kept += len(found)
    assert kept


def test_names_that_the_model_does_not_have_are_refused(folder: Path, film: Path) -> None:
    with pytest.raises(ValueError, match="expected a class of the model, as 'red'"):
        InferencePipeline.init(film, squares_model(folder / "squares"), classes=["Red"])


def test_frames_without_motion_are_not_inferred(tmp_path: Path, taker: Taker) -> None:
    film = write_drawn(tmp_path / "film.avi", [1] * 10 + [20] * 10)
    pipeline = InferencePipeline.init_with_custom_logic(film, nothing, taker, motion={"max_still": 60})

    pipeline.start()

    assert taker.frame_ids == [1, 11]
    (stat,) = pipeline._sources.stats()
    assert stat.dropped == {"still": 18}


def test_what_moves_outside_of_the_region_does_not_count(tmp_path: Path, taker: Taker) -> None:
    film = write_drawn(tmp_path / "film.avi", [1] * 5 + [20] * 5)
    corner = [(0, 0), (0.02, 0), (0.02, 0.02)]

    InferencePipeline.init_with_custom_logic(film, nothing, taker, region=corner, motion=True).start()

    assert taker.frame_ids == [1]


def test_a_source_that_stands_still_does_not_hold_up_another_one(tmp_path: Path, taker: Taker) -> None:
    still = write_drawn(tmp_path / "still.avi", [1] * 20)
    moving = write_pattern(tmp_path / "moving.avi", 20)
    pipeline = InferencePipeline.init_with_custom_logic([still, moving], nothing, taker, motion=[True, False])

    pipeline.start()

    first, second = zip(*taker.batches, strict=True)
    assert [each for each in first if each is not None] == [1]
    assert [each for each in second if each is not None] == list(range(1, 21))


def test_a_frame_says_where_it_comes_from(film: Path, taker: Taker) -> None:
    InferencePipeline.init_with_custom_logic(film, nothing, taker).start()

    frame = taker.frames[-1]
    assert (frame.source_id, frame.fps, frame.comes_from_video_file) == (0, 30.0, True)
    assert frame.measured_fps is not None
    assert frame.frame_timestamp.tzinfo is None


def test_no_other_frame_is_decoded_into_an_image_that_was_handed_over(film: Path, taker: Taker) -> None:
    kept: list[np.ndarray] = []
    first = InferencePipeline.init_with_custom_logic(
        film, nothing, lambda _, frame: kept.append(frame.image.copy())
    )
    second = InferencePipeline.init_with_custom_logic(film, nothing, taker)

    first.start()
    second.start()

    assert all(np.array_equal(frame.image, copy) for frame, copy in zip(taker.frames, kept, strict=True))


def test_the_test_pattern_plays_live(taker: Taker) -> None:
    pipeline: InferencePipeline

    def sink(prediction: Any, frame: VideoFrame) -> None:
        taker(prediction, frame)
        if len(taker.calls) == 3:
            pipeline.terminate()

    pipeline = InferencePipeline.init_with_custom_logic("TestPatternStreamProducer", nothing, sink)

    pipeline.start()

    assert len(taker.calls) == 3
    assert taker.frame_ids == sorted(set(taker.frame_ids))
    assert all(np.array_equal(frame.image, draw(frame.frame_id)) for frame in taker.frames)
    assert not taker.frames[0].comes_from_video_file


def test_a_limit_slows_a_file_down_and_drops_none_of_it(folder: Path, taker: Taker) -> None:
    film = write_pattern(folder / "short.avi", 6)
    times = [time.monotonic()]

    def sink(predictions: list[Any], frames: list[VideoFrame | None]) -> None:
        taker(predictions, frames)
        times.append(time.monotonic())

    InferencePipeline.init_with_custom_logic([film, film], nothing, sink, max_fps=5).start()

    assert times[-1] - times[0] >= 4 / 5, "only the second frame may come right behind the first"
    # Of each of the two sources, not of both together, whose batches would be two intervals apart.
    assert median(later - earlier for earlier, later in pairwise(times)) < 0.3
    assert taker.batches == [(frame_id, frame_id) for frame_id in range(1, 7)]


def test_a_limit_may_thin_a_file_out_instead(
    film: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_FRAME_DROP_ON_VIDEO_FILE_RATE_LIMITING", "True")
    pipeline = InferencePipeline.init_with_custom_logic(film, nothing, taker, max_fps=5)
    monkeypatch.setenv("ENABLE_FRAME_DROP_ON_VIDEO_FILE_RATE_LIMITING", "False")  # too late to matter

    pipeline.start()

    assert taker.frame_ids == [1, 7, 13, 19, 25]


def test_the_freshest_frames_of_a_file_come_at_its_own_pace(film: Path, taker: Taker) -> None:
    def slow(frames: list[VideoFrame]) -> list[dict[str, Any]]:
        time.sleep(0.1)
        return nothing(frames)

    pipeline = InferencePipeline.init_with_custom_logic(film, slow, taker, video_processing_mode="freshest")
    began = time.monotonic()
    pipeline.start()

    assert time.monotonic() - began >= 0.9
    assert taker.frame_ids == sorted(set(taker.frame_ids))
    assert 1 <= len(taker.calls) < 20


# trackers -------------------------------------------------------------------------------------------------


def test_a_tracker_gives_each_square_the_same_id_in_every_frame(
    folder: Path, film: Path, taker: Taker
) -> None:
    model = squares_model(folder / "squares")

    InferencePipeline.init(film, model, taker, tracker="bytetrack").start()

    ids = [
        {one["class"]: one["tracker_id"] for one in prediction["predictions"]}
        for prediction, _ in taker.calls
    ]
    assert len(ids) == 30
    assert all(of_frame == ids[0] for of_frame in ids)
    assert len(set(ids[0].values())) == 3
    assert list(taker.calls[0][0]["predictions"][0]) == [
        *("x", "y", "width", "height", "confidence", "class", "class_id", "tracker_id", "detection_id")
    ]


def test_without_a_tracker_nothing_has_an_id(folder: Path, film: Path, taker: Taker) -> None:
    InferencePipeline.init(film, squares_model(folder / "squares"), taker).start()

    assert not any("tracker_id" in one for prediction, _ in taker.calls for one in prediction["predictions"])


def test_ids_stay_on_their_boxes_when_one_is_of_low_confidence(film: Path, taker: Taker) -> None:
    def model(_: np.ndarray) -> dict[str, Any]:
        unsure, sure = found_at(50.0, confidence=0.15), found_at(150.0, 250.0)
        return {"predictions": unsure["predictions"] + sure["predictions"]}

    InferencePipeline.init(film, model, taker, tracker="bytetrack").start()

    ids = [
        [(one["x"], one["tracker_id"]) for one in prediction["predictions"]] for prediction, _ in taker.calls
    ]
    assert all(of_frame == ids[0] for of_frame in ids)
    assert [x for x, _ in ids[0]] == [50.0, 150.0, 250.0]


def test_each_source_has_a_tracker_of_its_own(folder: Path, film: Path, taker: Taker) -> None:
    model = squares_model(folder / "squares")

    InferencePipeline.init([film, film], model, taker, tracker="bytetrack").start()

    for predictions, _ in taker.calls:
        of_first, of_second = (
            [one["tracker_id"] for one in prediction["predictions"]] for prediction in predictions
        )
        assert of_first == of_second


# models ---------------------------------------------------------------------------------------------------


def test_a_model_is_found_in_the_cache_by_its_id(
    folder: Path, film: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares_model(folder / "cache" / "pattern" / "1")
    monkeypatch.setenv("MODEL_CACHE_DIR", str(folder / "cache"))

    InferencePipeline.init(film, "pattern/1", taker, api_key="not needed").start()

    assert all(len(prediction["predictions"]) == 3 for prediction, _ in taker.calls)


class Answer:
    def model_dump(self, **options: Any) -> dict[str, Any]:
        assert options == {"by_alias": True, "exclude_none": True}
        return found_at(7.0)


class Inferring:
    def infer(self, image: np.ndarray, **rules: Any) -> list[Answer]:
        assert image.shape == (270, 480, 3)
        assert rules["confidence"] == 0.25
        return [Answer()]


class Stepping:
    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, str]:
        return image[:1], "metadata"

    def predict(self, blob: np.ndarray) -> tuple[int, ...]:
        return blob.shape

    def postprocess(self, found: Any, metadata: str, **rules: Any) -> list[Answer]:
        assert (found, metadata, rules["max_detections"]) == ((1, 480, 3), "metadata", 300)
        return [Answer()]


def as_detections(_: np.ndarray) -> sv.Detections:
    return sv.Detections(xyxy=np.array([[0.0, 40.0, 14.0, 60.0]]))


@pytest.mark.parametrize("model", [Inferring(), Stepping(), as_detections, lambda image: found_at(7.0)])
def test_a_model_may_be_an_object_or_a_function(model: Any, film: Path, taker: Taker) -> None:
    InferencePipeline.init(film, model, taker, confidence=0.25).start()

    assert len(taker.calls) == 30
    for prediction, _ in taker.calls:
        assert prediction["image"] == {"width": 480, "height": 270}
        assert [one["x"] for one in prediction["predictions"]] == [7.0]


def test_a_function_gets_the_frames_of_all_sources_at_once(film: Path, taker: Taker) -> None:
    asked: list[list[int | None]] = []

    def count(frames: list[VideoFrame]) -> list[int]:
        asked.append([frame.source_id for frame in frames])
        return [frame.frame_id * 10 for frame in frames]

    order: list[str] = []
    InferencePipeline.init_with_custom_logic(
        [film, film],
        count,
        taker,
        on_pipeline_start=lambda: order.append("start"),
        on_pipeline_end=lambda: order.append("end"),
    ).start()

    assert asked == [[0, 1]] * 30
    assert [predictions for predictions, _ in taker.calls] == [[n * 10, n * 10] for n in range(1, 31)]
    assert order == ["start", "end"]


# what goes wrong ------------------------------------------------------------------------------------------


def test_a_sink_that_raises_is_told_and_ends_nothing(film: Path, taker: Taker) -> None:
    updates: list[StatusUpdate] = []

    def broken(_: Any, frame: VideoFrame) -> None:
        raise LookupError(f"frame {frame.frame_id}")

    def broken_handler(_: StatusUpdate) -> None:
        raise OSError("nobody hears")

    pipeline = InferencePipeline.init_with_custom_logic(
        film, nothing, [broken, taker], status_update_handlers=[broken_handler, updates.append]
    )
    pipeline.start()

    assert taker.frame_ids == list(range(1, 31))
    told = [update for update in updates if update.event_type == "INFERENCE_RESULTS_DISPATCHING_ERROR"]
    assert [update.payload["error_message"] for update in told] == [f"frame {n}" for n in range(1, 31)]
    assert told[0].payload["error_type"] == "LookupError"
    assert (told[0].severity, told[0].context) == (40, "inference_pipeline")


def test_a_model_that_raises_costs_the_frame_alone(film: Path, taker: Taker) -> None:
    updates: list[StatusUpdate] = []

    def model(frames: list[VideoFrame]) -> list[str]:
        if frames[0].frame_id == 13:
            raise ArithmeticError("unlucky")
        return ["fine"]

    pipeline = InferencePipeline.init_with_custom_logic(
        film, model, taker, status_update_handlers=[updates.append]
    )
    pipeline.start()

    assert taker.frame_ids == [n for n in range(1, 31) if n != 13]
    (told,) = [update for update in updates if update.event_type == "INFERENCE_ERROR"]
    assert told.payload["error_message"] == "ArithmeticError: unlucky"


@pytest.mark.parametrize("results", [None, [], ["one", "too many"]])
def test_a_function_must_give_a_result_for_each_frame(results: Any, film: Path, taker: Taker) -> None:
    pipeline = InferencePipeline.init_with_custom_logic(film, lambda frames: results, taker)

    pipeline.start()

    assert taker.calls == []
    (event,) = [
        event
        for event in pipeline.report()["video_source_status_updates"]
        if event["event_type"] == "INFERENCE_ERROR"
    ]
    assert "expected a list with a result for each of 1 frames" in event["payload"]["error_message"]


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_source_that_is_not_there_is_told_at_the_start(
    in_main_thread: bool, folder: Path, film: Path, taker: Taker
) -> None:
    pipeline = InferencePipeline.init_with_custom_logic([film, folder / "missing.avi"], nothing, taker)

    with pytest.raises(SourceConnectionError, match=r"there is no file .*missing\.avi") as raised:
        pipeline.start(use_main_thread=in_main_thread)
    pipeline.join()

    assert (raised.value.source_id, raised.value.cause) == (1, "not_found")
    assert taker.calls == []


def test_a_stream_that_is_lost_is_opened_again(
    taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    camera = HttpCamera(frames_each=15)
    try:
        pipeline = running(InferencePipeline.init_with_custom_logic(camera.url(), nothing, taker))
        wait_for("a second connection gives frames", lambda: taker.frame_ids[-1:] > [15])
        pipeline.terminate()
        pipeline.join()
    finally:
        camera.close()

    assert taker.frame_ids == sorted(set(taker.frame_ids))


# several sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["batch", SinkMode.BATCH, SinkMode.ADAPTIVE])
def test_a_batch_has_a_place_for_each_source(mode: SinkMode | str, folder: Path, taker: Taker) -> None:
    films = [write_pattern(folder / "long.avi", 5), write_pattern(folder / "short.avi", 3)]

    InferencePipeline.init_with_custom_logic(
        films, lambda frames: [frame.source_id for frame in frames], taker, sink_mode=mode
    ).start()

    assert taker.batches == [(1, 1), (2, 2), (3, 3), (4, None), (5, None)]
    assert [predictions for predictions, _ in taker.calls] == [[0, 1]] * 3 + [[0, None]] * 2


def test_sequential_sinks_get_the_frames_of_several_sources_one_by_one(folder: Path, taker: Taker) -> None:
    films = [write_pattern(folder / "long.avi", 5), write_pattern(folder / "short.avi", 3)]

    InferencePipeline.init_with_custom_logic(films, nothing, taker, sink_mode=SinkMode.SEQUENTIAL).start()

    came = [(frame.frame_id, frame.source_id) for frame in taker.frames]
    assert came == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (5, 0)]


def test_one_source_may_come_as_a_batch(film: Path, taker: Taker) -> None:
    InferencePipeline.init_with_custom_logic(film, nothing, taker, sink_mode=SinkMode.BATCH).start()

    assert taker.batches == [(frame_id,) for frame_id in range(1, 31)]


def test_a_round_waits_for_a_slow_source_no_longer_than_it_is_told(
    film: Path, taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    camera = HttpCamera(fps=4)
    try:
        pipeline = running(
            InferencePipeline.init_with_custom_logic(
                [film, camera.url()], nothing, taker, batch_collection_timeout=0.02, max_fps=100
            )
        )
        wait_for("the file is over", lambda: any(ids[0] == 30 for ids in taker.batches))
        pipeline.terminate()
        pipeline.join()
    finally:
        camera.close()

    assert [ids[0] for ids in taker.batches if ids[0] is not None] == list(range(1, 31))
    assert sum(ids[1] is None for ids in taker.batches) > 5


def test_a_source_that_is_lost_holds_up_no_other(
    taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    steady, shaky = HttpCamera(), HttpCamera()
    try:
        pipeline = running(
            InferencePipeline.init_with_custom_logic([steady.url(), shaky.url()], nothing, taker)
        )
        wait_for("both give frames", lambda: any(None not in ids for ids in taker.batches))
        shaky.frames_each = 0
        wait_for("the first goes on alone", lambda: taker.batches[-1][1] is None)
        alone = len(taker.batches)
        shaky.frames_each = None
        wait_for("the second comes back", lambda: any(None not in ids for ids in taker.batches[alone:]))
        pipeline.terminate()
        pipeline.join()
    finally:
        steady.close()
        shaky.close()

    came = [ids[0] for ids in taker.batches if ids[0] is not None]
    assert came == sorted(set(came))


def test_a_live_source_that_waits_for_another_gives_its_newest_frame(
    taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    fast, slow = HttpCamera(), HttpCamera(fps=2.5)
    try:
        pipeline = running(InferencePipeline.init_with_custom_logic([fast.url(), slow.url()], nothing, taker))
        wait_for("batches come", lambda: len(taker.calls) >= 6)
        pipeline.terminate()
        pipeline.join()
    finally:
        fast.close()
        slow.close()

    apart = sorted(
        abs((frames[0].frame_timestamp - frames[1].frame_timestamp).total_seconds())
        for _, frames in taker.calls[1:]
    )
    assert apart[len(apart) // 2] < 0.2  # twice as much passes from one batch to the next


# pauses and ends ------------------------------------------------------------------------------------------


def test_a_paused_file_gives_nothing_and_loses_nothing(
    folder: Path, taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    film = write_pattern(folder / "long.avi", 60)
    middle, go_on = threading.Event(), threading.Event()

    def sink(prediction: Any, frame: VideoFrame) -> None:
        taker(prediction, frame)
        if frame.frame_id == 20:
            middle.set()
            assert go_on.wait(PATIENCE)

    pipeline = running(InferencePipeline.init_with_custom_logic(film, nothing, sink))
    assert middle.wait(PATIENCE)

    pausing = threading.Thread(target=pipeline.mute_stream)
    pausing.start()
    wait_for("it is paused", lambda: state_of(pipeline) == "PAUSED")
    pausing.join(0.1)
    assert pausing.is_alive(), "it waits for the frame that the sink has"
    go_on.set()
    pausing.join()
    paused_at = len(taker.calls)
    time.sleep(0.2)  # as long as the whole film without a pause
    later = len(taker.calls)
    pipeline.resume_stream()
    pipeline.join()

    assert later == paused_at < 60
    assert taker.frame_ids == list(range(1, 61))


def test_a_paused_live_source_goes_on_with_the_present(
    taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    pipeline = running(InferencePipeline.init_with_custom_logic("scene://conveyor/1", nothing, taker))
    wait_for("frames come", lambda: len(taker.calls) > 2)

    pipeline.pause_stream()
    paused_at = taker.frame_ids[-1]
    state = state_of(pipeline)
    read = frames_read(pipeline)
    wait_for("it is read on", lambda: frames_read(pipeline) >= read + 5)
    still = taker.frame_ids[-1]
    pipeline.resume_stream()
    wait_for("frames come again", lambda: taker.frame_ids[-1] > still)

    assert state == "MUTED"
    assert still == paused_at
    assert next(frame_id for frame_id in taker.frame_ids if frame_id > still) > still + 3


def test_one_of_two_sources_is_paused_alone(
    folder: Path, taker: Taker, running: Callable[[InferencePipeline], InferencePipeline]
) -> None:
    films = [write_pattern(folder / "long.avi", 20), write_pattern(folder / "short.avi", 10)]
    pipeline = InferencePipeline.init_with_custom_logic(films, nothing, taker, max_fps=200)

    pipeline.pause_stream(1)
    running(pipeline)
    wait_for("the first is over", lambda: taker.batches[-1:] == [(20, None)])
    pipeline.resume_stream(1)
    pipeline.join()

    assert taker.batches == [(n, None) for n in range(1, 21)] + [(None, n) for n in range(1, 11)]


def test_there_must_be_a_source_to_pause(film: Path) -> None:
    pipeline = InferencePipeline.init_with_custom_logic(film, nothing)

    with pytest.raises(StreamOperationNotAllowedError, match="from 0 to 0, got 1"):
        pipeline.pause_stream(1)


def test_a_sink_may_pause_and_end_its_own_pipeline(film: Path, taker: Taker) -> None:
    def sink(prediction: Any, frame: VideoFrame) -> None:
        taker(prediction, frame)
        pipeline.pause_stream()
        pipeline.resume_stream()
        if frame.frame_id == 10:
            with pytest.raises(StreamOperationNotAllowedError, match="from another thread"):
                pipeline.join()
            pipeline.terminate()

    pipeline = InferencePipeline.init_with_custom_logic(film, nothing, sink)
    pipeline.start()
    pipeline.join()

    assert taker.frame_ids == list(range(1, 11))


def test_a_pipeline_is_started_once(film: Path) -> None:
    pipeline = InferencePipeline.init_with_custom_logic(film, nothing)
    pipeline.join()
    pipeline.start()

    with pytest.raises(StreamOperationNotAllowedError, match="not started yet"):
        pipeline.start()


def test_a_pipeline_that_waits_for_its_first_picture_can_be_ended(taker: Taker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/silent"
        pipeline = InferencePipeline.init_with_custom_logic(
            url, nothing, taker, on_pipeline_start=lambda: taker("it", "began")
        )
        starting = threading.Thread(target=pipeline.start)
        starting.start()
        asked, _ = silent.accept()
        with asked:  # and never answered
            pipeline.terminate()
            starting.join(8)  # the answer has ten seconds

            assert not starting.is_alive()
    assert taker.calls == []


def test_a_pipeline_ends_while_its_sink_waits(film: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[int] = []

    def sink(_: Any, frame: VideoFrame) -> None:
        seen.append(frame.frame_id)
        entered.set()
        assert leave.wait(PATIENCE)

    pipeline = InferencePipeline.init_with_custom_logic(film, nothing, sink)
    pipeline.start(use_main_thread=False)
    assert entered.wait(PATIENCE)
    pipeline.terminate()
    leave.set()
    pipeline.join()

    assert seen == [1]


CTRL_C_IN_JOIN = """
import os, signal, sys, threading, traceback
from streamfleet_worker import InferencePipeline

pressed = []

def sink(prediction, frame):
    waiting = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
    names = [each.name for each in waiting]
    if names[1:2] == ["join"] and "wait" in names and not pressed:
        pressed.append(True)
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
pipeline = InferencePipeline.init_with_custom_logic(
    "TestPatternStreamProducer", lambda frames: [{} for _ in frames], sink
)
pipeline.start(use_main_thread=False)
pipeline.join()
"""


def test_ctrl_c_ends_a_program_that_waits_for_its_pipeline() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C_IN_JOIN],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )

    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert done.returncode == -signal.SIGINT


def test_a_model_that_does_not_return_is_left_behind(film: Path, taker: Taker) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stuck(frames: list[VideoFrame]) -> list[dict[str, Any]]:
        entered.set()
        assert leave.wait(PATIENCE)
        return nothing(frames)

    pipeline = InferencePipeline.init_with_custom_logic(film, stuck, taker)
    pipeline.start(use_main_thread=False)
    assert entered.wait(PATIENCE)
    began = time.monotonic()
    pipeline.terminate()
    pipeline.join()
    took = time.monotonic() - began
    leave.set()

    assert took < PATIENCE / 2, "and not when the model returns"
    assert taker.calls == []


# what it is told ------------------------------------------------------------------------------------------


def test_the_report_has_the_originals_four_keys(film: Path, taker: Taker) -> None:
    pipeline = InferencePipeline.init_with_custom_logic(film, nothing, taker, decoding_buffer_size=7)
    pipeline.start()

    report = pipeline.report()

    assert list(report) == [
        *("video_source_status_updates", "latency_reports", "inference_throughput", "sources_metadata")
    ]
    (latency,) = report["latency_reports"]
    assert latency["e2e_latency"] is not None
    (source,) = report["sources_metadata"]
    assert (source["state"], source["buffer_size"]) == ("ENDED", 7)
    assert source["source_properties"]["total_frames"] == 30
    events = [event["event_type"] for event in report["video_source_status_updates"]]
    assert events[-2:] == ["SOURCE_STATE_UPDATE", "INFERENCE_THREAD_FINISHED"]


def test_a_watchdog_hears_of_frames_and_of_updates(film: Path, taker: Taker) -> None:
    class Watchdog(PipelineWatchDog):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def on_status_update(self, status_update: StatusUpdate) -> None:
            self.heard.append(status_update.event_type)

        def on_model_inference_started(self, frames: Any) -> None:
            self.heard.append(("started", [frame.frame_id for frame in frames]))

        def on_model_prediction_ready(self, frames: Any) -> None:
            self.heard.append(("ready", [frame.frame_id for frame in frames]))

    watchdog = Watchdog()
    InferencePipeline.init_with_custom_logic(film, nothing, taker, watchdog=watchdog).start()

    assert "INFERENCE_THREAD_STARTED" in watchdog.heard
    for step in ("started", "ready"):
        assert [one[1] for one in watchdog.heard if one[0] == step] == [[n] for n in range(1, 31)]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"video_reference": []}, "at least one source"),
        ({"max_fps": 0}, "max_fps: expected a number above 0"),
        ({"source_buffer_filling_strategy": "ZZZ"}, "expected one of WAIT, .*, got 'ZZZ'"),
        ({"source_buffer_consumption_strategy": "hungry"}, "expected one of EAGER|LAZY, .*, got 'hungry'"),
        ({"video_source_properties": [None, {}]}, "a list for 1 sources, got one for 2"),
        ({"confidence": 1.5}, "confidence: expected a number from 0 to 1"),
        ({"max_detections": 0}, "max_detections: expected a number above 0"),
        ({"tracker": "mcbyte"}, "tracker: expected one of bytetrack, sort, ocsort, botsort, cbiou"),
        ({"sink_mode": "parallel"}, "parallel"),
        ({"decoder": "cuda"}, "expected one of auto, software, nv, va, gst"),
        ({"video_processing_mode": "slowly"}, "expected one of auto, every_frame, freshest, legacy"),
    ],
)
def test_a_wrong_argument_is_named(wrong: dict[str, Any], text: str, film: Path) -> None:
    with pytest.raises(ValueError, match=text):
        InferencePipeline.init(**{"video_reference": film, "model_id": found_at, **wrong})


def test_what_is_no_model_and_no_source_is_refused(film: Path) -> None:
    with pytest.raises(TypeError, match=r"model: expected an id, .* got int"):
        InferencePipeline.init(film, 7)
    with pytest.raises(TypeError, match=r"video_reference: expected a path, .* got function"):
        InferencePipeline.init(found_at, found_at)  # type: ignore[arg-type]


def test_every_parameter_of_the_original_is_taken(film: Path, taker: Taker) -> None:
    InferencePipeline.init(
        video_reference=[film],
        model_id=lambda image: found_at(),
        on_prediction=[taker],
        api_key="key",
        max_fps=1000,
        watchdog=None,
        status_update_handlers=None,
        source_buffer_filling_strategy="wait",
        source_buffer_consumption_strategy="lazy",
        class_agnostic_nms=True,
        confidence=0.5,
        iou_threshold=0.5,
        max_candidates=100,
        max_detections=10,
        mask_decode_mode="accurate",
        tradeoff_factor=0.5,
        active_learning_enabled=True,
        video_source_properties={"frame_width": 480.0},
        active_learning_target_dataset="dataset",
        batch_collection_timeout=1.0,
        video_processing_mode="every_frame",
        max_staleness=0.5,
        sink_mode=SinkMode.SEQUENTIAL,
        predictions_queue_size=512,
        decoding_buffer_size=64,
        exec_session_id="session",
    ).start()

    assert taker.frame_ids == list(range(1, 31))


def test_what_is_not_run_here_names_what_to_use() -> None:
    with pytest.raises(NotImplementedError, match="use init_with_custom_logic"):
        InferencePipeline.init_with_yolo_world(video_reference=0, classes=["car"])


@pytest.mark.parametrize("source", [0, "0"])
def test_a_source_may_be_named_by_a_text(film: Path, source: int | str) -> None:
    taker = Taker()
    pipeline = InferencePipeline.init(str(film), lambda _: found_at(), on_prediction=taker)
    pipeline.mute_stream(source)
    pipeline.start(use_main_thread=False)

    pipeline.resume_stream(source)
    pipeline.join()

    assert taker.frame_ids
    with pytest.raises(StreamOperationNotAllowedError, match="from 0 to 0, got '1'"):
        pipeline.pause_stream("1")


@pytest.fixture
def at_sigterm() -> Iterator[Callable[[Callable[..., None]], None]]:
    """Sets a handler, in whose place is in the end what was there before."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(handler: Callable[..., None]) -> None:
        signal.signal(signal.SIGTERM, handler)

    yield handle
    signal.signal(signal.SIGTERM, before)


def test_a_signal_handler_may_terminate_and_join(
    at_sigterm: Callable[[Callable[..., None]], None],
) -> None:
    done: list[str] = []

    def handler(*_: Any) -> None:
        pipeline.terminate()
        pipeline.join()
        done.append("handled")

    at_sigterm(handler)
    pipeline = InferencePipeline.init(
        "TestPatternStreamProducer",
        lambda _: {"predictions": []},
        on_prediction=lambda *_: os.kill(os.getpid(), signal.SIGTERM),
    )
    pipeline.start()
    pipeline.join()
    done.append("ended")

    assert done == ["handled", "ended"]


@pytest.mark.parametrize("name", library.__all__)
def test_each_name_of_the_library_is_there(name: str) -> None:
    assert getattr(library, name).__name__ == name
