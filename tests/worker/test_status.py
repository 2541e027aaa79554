"""The status document of a pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamfleet_broker.protocol.reference import redacted
from streamfleet_broker.protocol.status import PipelineStat, SourceStat
from streamfleet_broker.protocol.values import Observed, ObservedState, SourceSpec, Wish
from streamfleet_worker.control import CameraReport
from streamfleet_worker.status import pipeline_stat
from tests.worker.peers import spec

ADDRESS = "rtsp://user:secret@cam/door?key=secret#secret"
WISH = Wish("door", 2, 1, "run", "stop", spec(ADDRESS))
REPORT = CameraReport(
    gen=2,
    state=ObservedState.RUNNING,
    reason="",
    waiting_for_engine=False,
    emitted=9,
    sources=(SourceStat(0, ADDRESS, "RUNNING", emitted=9, fps=20.0, latency=0.05, last_frame_age=0.5),),
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
    observed = Observed("door", 2, 4, ObservedState.RUNNING, restarts=1)

    document = pipeline_stat(
        WISH,
        observed,
        REPORT,
        device="cam-7",
        alive=True,
        report_age=0.1,
        at=1.5,
        last_crash="ended by SIGSEGV",
    )

    assert (document.restarts, document.reason, document.last_crash) == (1, "", "ended by SIGSEGV")


def stat(state: ObservedState, report: CameraReport | None, *, alive: bool, age: float = 0.1) -> PipelineStat:
    observed = Observed("door", 2, 3, state)
    return pipeline_stat(
        WISH, observed, report, device="cam-7", alive=alive, report_age=age, at=1.5, last_crash=""
    )


def test_it_is_what_the_camera_said() -> None:
    assert stat(ObservedState.RUNNING, REPORT, alive=True) == PipelineStat(
        pipeline_id="door",
        device="cam-7",
        gen=2,
        inc=3,
        want="run",
        state=ObservedState.RUNNING,
        reason="",
        restarts=0,
        fps=20.0,
        sources=(replace(REPORT.sources[0], reference="rtsp://cam/door", last_frame_age=0.6),),
        dropped={"udp": 1},
        report=REPORT.report,
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
    assert document.sources == (SourceStat(0, "rtsp://cam/door", expected),)


def test_before_the_first_report_each_source_is_there() -> None:
    two = replace(WISH, spec=replace(WISH.spec, sources=(SourceSpec(ADDRESS), SourceSpec(3))))
    observed = Observed("door", 2, 3, ObservedState.STARTING)

    document = pipeline_stat(
        two, observed, None, device="cam-7", alive=True, report_age=9.0, at=1.5, last_crash=""
    )

    assert document.sources == (
        SourceStat(0, "rtsp://cam/door", "INITIALISING"),
        SourceStat(1, 3, "INITIALISING"),
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


def test_a_dead_camera_has_no_figures_and_its_source_is_in_error() -> None:
    document = stat(ObservedState.BACKOFF, REPORT, alive=False)

    assert (document.fps, document.report["inference_throughput"]) == (0.0, 0.0)
    assert document.report["sources_metadata"][0]["state"] == document.sources[0].state == "ERROR"
    assert document.sources[0].last_frame_age is None


def test_a_source_at_its_end_stays_there_though_the_camera_of_another_crashes() -> None:
    original = {"sources_metadata": [{"state": "ENDED"}, {"state": "RUNNING"}]}
    sources = (SourceStat(0, "a.mp4", "ENDED"), SourceStat(1, "rtsp://h/door", "RUNNING"))

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
