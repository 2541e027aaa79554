"""Watchdogs: what Roboflow's programs ask of them while a pipeline plays, and after it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from streamfleet_worker.library import (
    BasePipelineWatchDog,
    BufferConsumptionStrategy,
    BufferFillingStrategy,
    InferencePipeline,
    NullPipelineWatchdog,
    PipelineStateReport,
    PipelineWatchDog,
    StreamState,
    VideoFrame,
    VideoSource,
)
from streamfleet_worker.library.execution.wakeup import Wakeup
from tests.fakes.library_parts import Taker, found_at, nothing_left_behind
from tests.fakes.patience import PATIENCE
from tests.fakes.videos import write_pattern


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames."""
    return write_pattern(tmp_path_factory.mktemp("film") / "film.avi", 20)


def test_a_report_has_the_updates_the_latencies_the_throughput_and_the_sources(film: Path) -> None:
    watchdog, taker = BasePipelineWatchDog(), Taker()
    pipeline = InferencePipeline.init(
        [str(film), str(film)], lambda _: found_at(), on_prediction=taker, watchdog=watchdog
    )
    before = watchdog.get_report()
    pipeline.start()

    report = watchdog.get_report()

    assert isinstance(report, PipelineStateReport)
    assert [source.state for source in before.sources_metadata] == [StreamState.NOT_STARTED] * 2
    assert (before.inference_throughput, before.latency_reports[0].e2e_latency) == (0.0, None)
    types = {update.event_type for update in report.video_source_status_updates}
    assert {"INFERENCE_THREAD_STARTED", "SOURCE_STATE_UPDATE", "VIDEO_CONSUMPTION_FINISHED"} <= types
    assert [latency.source_id for latency in report.latency_reports] == [0, 1]
    for latency in report.latency_reports:
        assert latency.frame_decoding_latency is not None
        assert latency.inference_latency is not None
        assert latency.e2e_latency is not None
        assert latency.inference_latency <= latency.e2e_latency
    assert report.inference_throughput > 0
    (first, _) = report.sources_metadata
    assert (first.state, first.source_id, first.source_reference) == (StreamState.ENDED, 0, str(film))
    assert first.buffer_filling_strategy is BufferFillingStrategy.WAIT
    assert first.buffer_consumption_strategy is BufferConsumptionStrategy.LAZY
    assert first.source_properties is not None
    assert (first.source_properties.width, first.source_properties.is_file) == (480, True)


def test_the_inference_of_each_frame_counts_when_several_are_on_their_way() -> None:
    watchdog = BasePipelineWatchDog()
    frames = [VideoFrame(np.empty((0, 0, 3), np.uint8), number, datetime.now(), 0) for number in (1, 2)]

    for frame in frames:
        watchdog.on_model_inference_started([frame])
    watchdog.on_model_prediction_ready(frames[:1])

    (latency,) = watchdog.get_report().latency_reports
    assert latency.inference_latency is not None
    assert latency.e2e_latency is not None
    assert latency.inference_latency <= latency.e2e_latency


def test_a_report_is_plain_for_asdict_and_json(film: Path) -> None:
    watchdog = BasePipelineWatchDog()
    InferencePipeline.init(str(film), lambda _: found_at(), watchdog=watchdog).start()

    plain = asdict(watchdog.get_report())

    assert list(plain) == [
        *("video_source_status_updates", "latency_reports", "inference_throughput", "sources_metadata")
    ]
    assert json.loads(json.dumps(plain, default=str))["sources_metadata"][0]["source_id"] == 0


def test_a_watchdog_that_keeps_nothing_reports_nothing(film: Path) -> None:
    watchdog = NullPipelineWatchdog()
    InferencePipeline.init(str(film), lambda _: found_at(), watchdog=watchdog).start()

    assert watchdog.get_report() is None


def test_an_event_may_be_set_by_a_handler_while_its_own_thread_holds_it() -> None:
    wakeup = Wakeup()

    def held() -> None:
        with wakeup._cond:  # where a signal may come
            wakeup.set()

    thread = threading.Thread(target=held, daemon=True)
    thread.start()
    thread.join(PATIENCE)

    assert not thread.is_alive()
    assert wakeup.wait(0)


def test_a_watchdog_of_ones_own_is_told_the_sources_first(film: Path) -> None:
    told: list[object] = []

    class Own(PipelineWatchDog):
        def register_video_sources(self, video_sources: object) -> None:
            assert isinstance(video_sources, tuple)
            assert all(isinstance(source, VideoSource) for source in video_sources)
            told.append(len(video_sources))

        def on_status_update(self, status_update: object) -> None:
            told.append(status_update)

    InferencePipeline.init(str(film), lambda _: found_at(), watchdog=Own()).start()

    assert told[0] == 1
    assert len(told) > 1
