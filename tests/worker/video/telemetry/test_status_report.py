"""What a camera says of itself."""

from __future__ import annotations

import pytest

from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import ObservedState
from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.telemetry.event_journal import EventJournal
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics
from streamfleet_worker.video.telemetry.status_report import (
    SourceFacts,
    observed_state,
    reason_of,
    shown_source_state,
    source_metadata,
    status_report,
)

RUNS = SourceFacts(state="RUNNING", attempts=0)
READ_TO_ITS_END = SourceFacts(state="ENDED", attempts=0)  # the last frames are still under way
OVER = SourceFacts(state="ENDED", attempts=0, over=True)
OPENS = SourceFacts(state="INITIALISING", attempts=0)
LOST = SourceFacts(state="ERROR", attempts=1)
FAILED = SourceFacts(state="ERROR", attempts=3, failed=True)
OVERDUE = SourceFacts(state="INITIALISING", attempts=0, overdue=True)
TRIED_AGAIN = SourceFacts(state="INITIALISING", attempts=2)


@pytest.mark.parametrize(
    ("sources", "paused", "engine_met", "state"),
    [
        ([SourceFacts(state="NOT_STARTED", attempts=0)], False, False, ObservedState.STARTING),
        ([OPENS], False, True, ObservedState.STARTING),
        ([RUNS], False, False, ObservedState.STARTING),
        ([RUNS], False, True, ObservedState.RUNNING),
        ([READ_TO_ITS_END], False, True, ObservedState.RUNNING),
        ([OVER], False, True, ObservedState.ENDED),
        ([OVER], True, True, ObservedState.ENDED),
        ([LOST], False, False, ObservedState.RECONNECTING),
        ([SourceFacts(state="RESTARTING", attempts=0)], False, True, ObservedState.RECONNECTING),
        ([TRIED_AGAIN], False, True, ObservedState.RECONNECTING),
        ([FAILED], False, True, ObservedState.FAILED),
        ([FAILED, OVER], False, True, ObservedState.FAILED),
        ([FAILED, LOST], False, True, ObservedState.RECONNECTING),
        ([FAILED, RUNS], False, True, ObservedState.RUNNING),
        ([OVERDUE], False, True, ObservedState.RECONNECTING),
        ([RUNS], True, True, ObservedState.PAUSED),
        ([LOST], True, True, ObservedState.PAUSED),
        ([SourceFacts(state="NOT_STARTED", attempts=0)], True, False, ObservedState.PAUSED),
        # several: one that runs is enough
        ([RUNS, LOST], False, True, ObservedState.RUNNING),
        ([LOST, READ_TO_ITS_END], False, True, ObservedState.RUNNING),
        ([RUNS, LOST], False, False, ObservedState.STARTING),
        ([LOST, OPENS], False, True, ObservedState.RECONNECTING),
        ([LOST, TRIED_AGAIN], False, True, ObservedState.RECONNECTING),
        ([OVER, LOST], False, True, ObservedState.RECONNECTING),
        ([OVER, RUNS], False, True, ObservedState.RUNNING),
        ([OVER, OPENS], False, True, ObservedState.STARTING),
        ([OVER, OVER], False, True, ObservedState.ENDED),
        ([OVER, LOST], True, True, ObservedState.PAUSED),
    ],
)
def test_the_pipelines_state_follows_from_its_sources(
    sources: list[SourceFacts], paused: bool, engine_met: bool, state: ObservedState
) -> None:
    assert observed_state(sources, paused=paused, engine_met=engine_met) is state


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [
        ([""], ""),
        (["no answer"], "no answer"),
        (["", ""], ""),
        (["", "no answer", "there is no file"], "source 1: no answer; source 2: there is no file"),
    ],
)
def test_a_reason_names_its_source_when_there_are_several(reasons: list[str], reason: str) -> None:
    sources = [
        SourceStat(source_id=number, reference=0, state="ERROR", reason=text)
        for number, text in enumerate(reasons)
    ]

    assert reason_of(sources) == reason


@pytest.mark.parametrize(
    ("source", "finite", "paused", "done", "shown"),
    [
        ("RUNNING", True, False, False, "RUNNING"),
        ("RUNNING", True, True, False, "PAUSED"),
        ("RUNNING", False, True, False, "MUTED"),
        ("ENDED", True, False, False, "RUNNING"),
        ("ENDED", True, True, False, "PAUSED"),
        ("ENDED", True, True, True, "ENDED"),
        ("ERROR", False, True, False, "ERROR"),
    ],
)
def test_a_paused_source_is_shown_as_the_original_shows_it(
    source: str, finite: bool, paused: bool, done: bool, shown: str
) -> None:
    assert shown_source_state(source, finite=finite, paused=paused, done=done) == shown


def test_the_report_has_the_originals_keys_in_their_order() -> None:
    journal = EventJournal()
    metrics = SourceMetrics("rtsp://user:canary@camera/1?canary", now=0.0, changed=Wakeup(), journal=journal)
    metrics.source_is("INITIALISING")
    metrics.source_failed("no answer from the host", "timeout")
    metrics.source_is("ERROR")
    metrics.inferred(decoded_at=10.0, started_at=10.5, ready_at=12.0)
    metrics.inferred(decoded_at=20.0, started_at=20.0, ready_at=20.5)
    source = metrics.source_stat(30.0)

    report = status_report(
        events=journal.events,
        latencies=[metrics.latencies],
        throughput=source.fps,
        metadata=[
            source_metadata(
                source, properties=None, buffer_size=2, filling="DROP_OLDEST", consumption="EAGER"
            )
        ],
    )

    assert list(report) == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]
    updates = report["video_source_status_updates"]
    assert [(update["event_type"], update["severity"]) for update in updates] == [
        ("SOURCE_STATE_UPDATE", 20),
        ("SOURCE_CONNECTION_ATTEMPT_FAILED", 40),
        ("SOURCE_STATE_UPDATE", 20),
    ]
    assert [list(update) for update in updates] == [
        ["timestamp", "severity", "event_type", "payload", "context"]
    ] * 3
    assert updates[0]["payload"] == {
        "previous_state": "NOT_STARTED",
        "new_state": "INITIALISING",
        "source_id": 0,
    }
    assert report["latency_reports"] == [
        {
            "source_id": 0,
            "frame_decoding_latency": 0.25,
            "inference_latency": 1.0,
            "e2e_latency": 1.25,
        }
    ]
    assert report["sources_metadata"] == [
        {
            "source_properties": None,
            "source_reference": "rtsp://camera/1",
            "buffer_size": 2,
            "state": "ERROR",
            "buffer_filling_strategy": "DROP_OLDEST",
            "buffer_consumption_strategy": "EAGER",
            "source_id": 0,
        }
    ]
    assert (source.cause, source.reason, source.attempts) == ("timeout", "no answer from the host", 1)
    assert "canary" not in repr((report, source))
