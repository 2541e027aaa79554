"""What a status says of the present."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_api.feeds.statuses import Seen, as_of_now
from streamfleet_api.roboflow.mapping import report_of
from streamfleet_core.protocol.requests import PipelineStatus
from streamfleet_core.protocol.status import SourceMetadata
from streamfleet_core.protocol.values import SourceSpec
from tests.api.monitoring.test_metrics import TOLD
from tests.fakes.broker import pipeline, spec


def test_a_status_that_is_fresh_is_told_as_it_came() -> None:
    now = as_of_now(Seen(TOLD, 1.0))

    assert [source.last_frame_age for source in now.sources] == [1.5, 1.5]
    assert replace(now, sources=TOLD.sources) == TOLD


def test_the_rates_of_a_device_that_is_silent_are_0_and_its_counters_stay() -> None:
    still = replace(TOLD, sources=tuple(replace(source, frozen_for=30.0) for source in TOLD.sources))

    now = as_of_now(Seen(still, 60.0))

    assert now.fps == now.report["inference_throughput"] == 0
    for source in now.sources:
        assert (source.fps, source.frozen_for, source.last_frame_age) == (0, None, 60.5)
        assert (source.received, source.decoded, source.inferred, source.emitted) == (10, 10, 9, 8)
    assert "inference_throughput" not in TOLD.report, "what came stays as it came"


def test_the_report_has_all_that_is_known_beside_the_originals_keys() -> None:
    view = pipeline("door")

    report = report_of(view, Seen(TOLD, 1.0))
    before = report_of(view, None)

    assert list(before)[:4] == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]
    assert [source["state"] for source in before["sources"]] == ["NOT_STARTED"]
    assert report["dropped"] == {"udp": 4}
    assert [source["source_id"] for source in report["sources"]] == [0, 1]
    first = report["sources"][0]
    assert first["dropped"] == {"late": 1, "buffer": 0}
    assert {key: first[key] for key in ("received", "decoded", "inferred", "emitted", "failures")} == {
        "received": 10,
        "decoded": 10,
        "inferred": 9,
        "emitted": 8,
        "failures": 3,
    }


@pytest.mark.parametrize(
    ("status", "reference", "before", "state"),
    [
        ("paused", "rtsp://cam/door", "RUNNING", "MUTED"),
        ("paused", "/film.mp4", "RUNNING", "PAUSED"),
        ("paused", "/film.mp4", "ENDED", "ENDED"),
        ("paused", "rtsp://cam/door", "ERROR", "ERROR"),
        ("running", "rtsp://cam/door", "MUTED", "RUNNING"),
        ("ended", "/film.mp4", "RUNNING", "RUNNING"),
    ],
)
def test_a_pause_that_is_confirmed_is_in_the_report_though_the_device_has_not_said_it_there_yet(
    status: PipelineStatus, reference: str, before: str, state: str
) -> None:
    view = pipeline(
        "door", generation=4, status=status, spec=replace(spec(), sources=(SourceSpec(reference),))
    )
    source = replace(TOLD.sources[0], state=before)
    metadata: list[SourceMetadata] = [{"source_id": 0, "state": before, "source_properties": None}]
    stat = replace(TOLD, sources=(source,), report={**TOLD.report, "sources_metadata": metadata})

    report = report_of(view, Seen(stat, 0.1))
    later = report_of(view, Seen(replace(stat, generation=4), 0.1))

    assert report["sources"][0]["state"] == report["sources_metadata"][0]["state"] == state
    assert later["sources"][0]["state"] == before
