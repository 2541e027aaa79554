"""The status document of a pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import msgspec
import pytest

from streamfleet_core.protocol.limits import MAX_STAT_BODY
from streamfleet_core.protocol.source_reference import redacted
from streamfleet_core.protocol.status import PipelineStat, SourceStat, StatusReport
from streamfleet_core.protocol.values import Assignment, Observed, ObservedState, SourceSpec
from streamfleet_worker.decisions.pipeline_stat import encoded, pipeline_stat
from streamfleet_worker.ipc.child_messages import CameraReport
from streamfleet_worker.video.telemetry.status_report import source_metadata
from tests.fakes.peers import spec

ADDRESS = "rtsp://user:secret@cam/door?key=secret#secret"
ASSIGNMENT = Assignment(
    pipeline_id="door",
    generation=2,
    run_generation=1,
    desired_status="run",
    on_disconnect="stop",
    spec=spec(ADDRESS),
)
REPORT = CameraReport(
    generation=2,
    state=ObservedState.RUNNING,
    reason="",
    waiting_for_engine=False,
    emitted=9,
    sources=(
        SourceStat(
            source_id=0,
            reference=ADDRESS,
            state="RUNNING",
            emitted=9,
            fps=20.0,
            latency=0.05,
            last_frame_age=0.5,
        ),
    ),
    dropped={"udp": 1},
    fps=20.0,
    report={
        "video_source_status_updates": [],
        "latency_reports": [],
        "inference_throughput": 21.0,
        "sources_metadata": [{"source_reference": "rtsp://cam/door", "state": "RUNNING", "source_id": 0}],
    },
)


def test_it_tells_why_it_was_restarted_last() -> None:
    observed = Observed(
        pipeline_id="door", generation=2, incarnation=4, state=ObservedState.RUNNING, restarts=1
    )

    document = pipeline_stat(
        ASSIGNMENT,
        observed,
        REPORT,
        device="cam-7",
        alive=True,
        report_age=0.1,
        at=1.5,
        last_crash="ended by SIGSEGV",
    )

    assert (document.restarts, document.reason, document.last_crash) == (1, "", "ended by SIGSEGV")


def stat(
    state: ObservedState, report: CameraReport | None, *, alive: bool, age: float | None = 0.1
) -> PipelineStat:
    observed = Observed(pipeline_id="door", generation=2, incarnation=3, state=state)
    return pipeline_stat(
        ASSIGNMENT, observed, report, device="cam-7", alive=alive, report_age=age, at=1.5, last_crash=""
    )


def test_it_is_what_the_camera_said() -> None:
    assert stat(ObservedState.RUNNING, REPORT, alive=True) == PipelineStat(
        pipeline_id="door",
        device="cam-7",
        generation=2,
        incarnation=3,
        desired_status="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=0,
        fps=20.0,
        sources=(replace(REPORT.sources[0], reference="rtsp://cam/door", last_frame_age=0.6),),
        dropped={"udp": 1},
        report=cast(StatusReport, REPORT.report),
        at=1.5,
    )


@pytest.mark.parametrize(
    ("state", "alive", "expected"),
    [
        (ObservedState.STARTING, False, "NOT_STARTED"),
        (ObservedState.STARTING, True, "INITIALISING"),
        (ObservedState.FAILED, False, "ERROR"),
        (ObservedState.BACKOFF, False, "ERROR"),
    ],
)
def test_before_the_first_report_it_has_the_originals_four_keys(
    state: ObservedState, alive: bool, expected: str
) -> None:
    document = stat(state, None, alive=alive)

    assert list(document.report) == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]
    (source,) = document.report["sources_metadata"]
    assert (source["state"], source["source_reference"]) == (expected, "rtsp://cam/door")
    assert document.sources == (SourceStat(source_id=0, reference="rtsp://cam/door", state=expected),)


def test_before_the_first_report_each_source_is_there() -> None:
    two = replace(ASSIGNMENT, spec=replace(ASSIGNMENT.spec, sources=(SourceSpec(ADDRESS), SourceSpec(3))))
    observed = Observed(pipeline_id="door", generation=2, incarnation=3, state=ObservedState.STARTING)

    document = pipeline_stat(
        two, observed, None, device="cam-7", alive=True, report_age=9.0, at=1.5, last_crash=""
    )

    assert document.sources == (
        SourceStat(source_id=0, reference="rtsp://cam/door", state="INITIALISING"),
        SourceStat(source_id=1, reference=3, state="INITIALISING"),
    )
    assert [entry["source_id"] for entry in document.report["sources_metadata"]] == [0, 1]
    assert [entry["source_id"] for entry in document.report["latency_reports"]] == [0, 1]


def test_figures_of_a_camera_that_falls_silent_fall_to_nothing() -> None:
    halfway = stat(ObservedState.RUNNING, REPORT, alive=True, age=2.0)
    silent = stat(ObservedState.RUNNING, REPORT, alive=True, age=3.0)

    assert (halfway.fps, halfway.report["inference_throughput"]) == (10.0, 10.5)
    assert (silent.fps, silent.report["inference_throughput"]) == (0.0, 0.0)
    assert (halfway.sources[0].fps, halfway.sources[0].latency) == (10.0, 0.05)
    assert (silent.sources[0].fps, silent.sources[0].latency) == (0.0, None)
    assert silent.sources[0].last_frame_age == 3.5


def test_a_camera_that_was_restarted_and_has_said_nothing_yet_has_no_figures() -> None:
    document = stat(ObservedState.STARTING, REPORT, alive=True, age=None)

    (source,) = document.sources
    assert (document.fps, source.fps, source.latency, source.last_frame_age) == (0.0, 0.0, None, None)
    assert msgspec.msgpack.decode(encoded(document), type=PipelineStat) == document


def test_a_status_that_is_too_large_goes_without_its_oldest_updates() -> None:
    updates = [
        {"timestamp": str(number), "severity": 40, "payload": {"error_message": "x" * 4000}}
        for number in range(128)
    ]
    report = replace(REPORT, report={**REPORT.report, "video_source_status_updates": updates})
    document = stat(ObservedState.RUNNING, report, alive=True)

    content = encoded(document)
    told = msgspec.msgpack.decode(content, type=PipelineStat).report["video_source_status_updates"]

    assert len(content) <= MAX_STAT_BODY
    assert len(told) > 16
    assert told == updates[-len(told) :]


def test_a_rate_that_is_no_number_does_not_take_the_status_with_it() -> None:
    metadata = source_metadata(
        REPORT.sources[0],
        properties={"fps": float("nan"), "width": 640},
        buffer_size=1,
        filling="WAIT",
        consumption="LAZY",
    )
    report = replace(REPORT, report={**REPORT.report, "sources_metadata": [metadata]})

    document = stat(ObservedState.RUNNING, report, alive=True)

    assert msgspec.msgpack.decode(encoded(document), type=PipelineStat) == document
    assert document.report["sources_metadata"][0]["source_properties"] == {"fps": None, "width": 640}


def test_a_dead_camera_has_no_figures_and_its_source_is_in_error() -> None:
    document = stat(ObservedState.BACKOFF, REPORT, alive=False)

    assert (document.fps, document.report["inference_throughput"]) == (0.0, 0.0)
    assert document.report["sources_metadata"][0]["state"] == document.sources[0].state == "ERROR"
    assert document.sources[0].last_frame_age is None


def test_a_source_at_its_end_stays_there_though_the_camera_of_another_crashes() -> None:
    original = {"sources_metadata": [{"state": "ENDED"}, {"state": "RUNNING"}]}
    sources = (
        SourceStat(source_id=0, reference="a.mp4", state="ENDED"),
        SourceStat(source_id=1, reference="rtsp://h/door", state="RUNNING"),
    )

    document = stat(ObservedState.BACKOFF, replace(REPORT, sources=sources, report=original), alive=False)

    assert [source.state for source in document.sources] == ["ENDED", "ERROR"]
    assert [entry["state"] for entry in document.report["sources_metadata"]] == ["ENDED", "ERROR"]


def test_a_camera_that_is_being_killed_has_no_figures_either() -> None:
    document = stat(ObservedState.CRASHED, REPORT, alive=True)

    assert (document.fps, document.report["inference_throughput"]) == (0.0, 0.0)


def test_no_secret_of_an_address_is_shown() -> None:
    for report in (None, REPORT):
        assert "secret" not in str(stat(ObservedState.RUNNING, report, alive=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open rtsp://u:p@cam:554/1?k=v, retrying", "cannot open rtsp://cam:554/1, retrying"),
        ("'http://u:p@h/x' and rtsps://a:b@c", "'http://h/x' and rtsps://c"),
        ("no address here: 3/4 of it", "no address here: 3/4 of it"),
    ],
)
def test_an_address_in_a_text_loses_what_opens_doors(text: str, expected: str) -> None:
    assert redacted(text) == expected
