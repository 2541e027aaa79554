"""Several sources in one camera process: each in its order and by its strategy, none at another's cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamfleet_core.protocol.values import Consumption, Filling, Manifest, SourceSpec
from streamfleet_worker.camera.slot_scheduler import IN_FLIGHT
from streamfleet_worker.ipc.child_messages import CameraReport
from streamfleet_worker.video.synthetic.test_pattern import LABELS
from tests.fakes.models import write_slow_model, write_squares_model
from tests.fakes.process_harness import Child, ProcessHarness, is_camera, until_ended, wait_for, write_video
from tests.fakes.videos import write_pattern

PATTERN = "TestPatternStreamProducer"


def films(folder: Path, *frames: int) -> list[SourceSpec]:
    """A film for each number of frames."""
    paths = [write_video(folder / f"film{number}.avi", count) for number, count in enumerate(frames)]
    return [SourceSpec(str(path)) for path in paths]


def by_source(metadata: Sequence[dict[str, Any]]) -> dict[int, list[int]]:
    """Ids of the frames in the order in which they came."""
    ids: dict[int, list[int]] = {}
    for one in metadata:
        ids.setdefault(one["source_id"], []).append(one["frame_id"])
    return ids


def slow_engine(stand: ProcessHarness, *, rounds: int, threads: int = 1) -> Manifest:
    path = stand.folder / "slow.onnx"
    manifest = write_slow_model(path, rounds=rounds)
    stand.engine(path, manifest, threads=threads)
    return manifest


def dropped(report: CameraReport, source_id: int = 0) -> int:
    return sum(report.sources[source_id].dropped.values())


def test_every_frame_of_each_file_is_emitted_once_and_in_its_order(
    stand: ProcessHarness, quick: Manifest
) -> None:
    camera = stand.camera(quick, films(stand.folder, 100, 60, 80))

    report = until_ended(camera)

    metadata = stand.receiver.metadata
    assert by_source(metadata) == {
        number: list(range(1, count + 1)) for number, count in enumerate([100, 60, 80])
    }
    assert [one["seq"] for one in metadata] == list(range(240))
    assert [source.emitted for source in report.sources] == [100, 60, 80]
    assert [source.source_id for source in report.sources] == [0, 1, 2]
    assert {(source.width, source.height) for source in report.sources} == {(64, 48)}
    assert report.emitted == 240
    assert [entry["source_id"] for entry in report.report["latency_reports"]] == [0, 1, 2]
    assert [entry["state"] for entry in report.report["sources_metadata"]] == ["ENDED"] * 3
    assert camera.stop() == 0


def run_together(camera: Child) -> None:
    """End the pause in which a camera began, when all its sources are open: one may take longer for that."""
    camera.until("all are open", lambda report: all(source.received for source in report.sources))
    camera.change(2)


def test_files_of_a_pipeline_run_side_by_side(stand: ProcessHarness, quick: Manifest) -> None:
    # At a pace that leaves both readers time: without one, who reads faster is ahead.
    camera = stand.camera(quick, films(stand.folder, 150, 150), max_fps=50, desired_status="pause")
    run_together(camera)
    until_ended(camera)

    seqs = {
        source_id: [one["seq"] for one in stand.receiver.metadata if one["source_id"] == source_id]
        for source_id in (0, 1)
    }
    assert seqs[0][0] < 50
    assert seqs[1][0] < 50
    assert min(seqs[0][-1], seqs[1][-1]) > 200


def test_a_pipeline_that_was_killed_goes_on_behind_the_last_frame_of_each_file(
    stand: ProcessHarness, quick: Manifest
) -> None:
    sources = films(stand.folder, 300, 150)
    camera = stand.camera(quick, sources, max_fps=150)
    wait_for("some frames", lambda: len(stand.receiver.datagrams) > 100)

    camera.kill()
    until_ended(stand.camera(quick, sources, incarnation=2))

    ids = by_source(stand.receiver.metadata)
    for number, count in enumerate([300, 150]):
        assert sorted(set(ids[number])) == list(range(1, count + 1))
        assert len(ids[number]) <= count + 1  # the frame that was sent and not yet noted may come twice


@pytest.mark.parametrize("missing", [0, 1])
def test_a_source_that_is_missing_holds_up_no_other(
    stand: ProcessHarness, quick: Manifest, missing: int
) -> None:
    sources = films(stand.folder, 200)
    sources.insert(missing, SourceSpec(str(stand.folder / "none.avi")))
    camera = stand.camera(quick, sources, max_fps=20)

    running = camera.until(
        "one runs, the other is lost", lambda report: is_camera(report, "running") and report.reason
    )
    camera.change(2, max_fps=None)
    over = camera.until("the good one is at its end", lambda report: is_camera(report, "reconnecting"))

    assert camera.stop() == 0
    assert by_source(stand.receiver.metadata) == {1 - missing: list(range(1, 201))}
    for report in (running, over):
        assert report.reason.startswith(f"source {missing}: there is no file {stand.folder}/none.avi")
    assert running.sources[missing].cause == "not_found"
    assert over.sources[1 - missing].state == "ENDED"


def test_a_file_that_comes_later_is_played_beside_the_others(stand: ProcessHarness, quick: Manifest) -> None:
    film, late = *films(stand.folder, 100), stand.folder / "late.avi"
    camera = stand.camera(quick, [film, SourceSpec(str(late))])
    camera.until("the first is at its end", lambda report: is_camera(report, "reconnecting"))

    write_video(stand.folder / "made.avi", 50).rename(late)
    report = until_ended(camera)

    assert by_source(stand.receiver.metadata) == {0: list(range(1, 101)), 1: list(range(1, 51))}
    assert report.reason == ""


def test_a_pipeline_of_many_sources_that_do_not_answer_ends_in_time(
    stand: ProcessHarness, quick: Manifest
) -> None:
    sources = [SourceSpec(str(stand.folder / f"none{number}.avi")) for number in range(16)]
    camera = stand.camera(quick, sources)
    camera.until("all were tried", lambda report: all(one.attempts for one in report.sources))

    assert camera.stop() == 0


def test_a_busy_file_does_not_starve_a_live_source_nor_wait_for_it(stand: ProcessHarness) -> None:
    manifest = slow_engine(stand, rounds=60)
    (film,) = films(stand.folder, 3000)
    camera = stand.camera(manifest, [film, SourceSpec(PATTERN)])

    camera.until("some of the live one", lambda report: report.sources[1].emitted >= 15, deadline=60)

    metadata = stand.receiver.metadata
    ids = by_source(metadata)
    assert ids[0] == list(range(1, len(ids[0]) + 1))
    assert ids[1] == sorted(set(ids[1]))
    # However fast the machine is: a live frame waits for the turns that were given before it came, …
    live = [one for one in metadata if one["source_id"] == 1]
    file_went = [one["emission_time"] for one in metadata if one["source_id"] == 0]
    overtook = [
        sum(one["frame_decoding_time"] < went < one["emission_time"] for went in file_went) for one in live
    ]
    assert np.median(overtook) <= 2 * IN_FLIGHT
    # … and the file has a turn for each of the live one's, beside all that those leave.
    since = metadata[metadata.index(live[0]) :]
    assert sum(one["source_id"] == 0 for one in since) >= len(live) - IN_FLIGHT


def test_every_source_has_a_tracker_of_its_own(stand: ProcessHarness, squares: Manifest) -> None:
    # Films, whose time stands still with this machine: the trackers would lose what is live.
    source = SourceSpec(str(write_pattern(stand.folder / "pattern.avi", 20)))
    until_ended(stand.camera(squares, [source, source], tracker="bytetrack"))

    names: dict[tuple[int, str], set[int]] = {}
    for document in stand.receiver.documents:
        for one in document["predictions"]:
            key = (document["inference_metadata"]["source_id"], one["class"])
            names.setdefault(key, set()).add(one["tracker_id"])
    assert set(names) == {(number, label) for number in (0, 1) for label in LABELS}
    assert all(len(ids) == 1 for ids in names.values())
    assert {min(names[number, label]) for number in (0, 1) for label in LABELS} == {1, 2, 3}


def test_each_source_keeps_its_own_pace(stand: ProcessHarness, quick: Manifest) -> None:
    slow, fast = films(stand.folder, 20, 60)
    sources = [SourceSpec(slow.reference, max_fps=10), fast]

    camera = stand.camera(quick, sources, max_fps=30, desired_status="pause")
    run_together(camera)
    until_ended(camera)

    times = [
        datetime.fromisoformat(one["emission_time"])
        for one in stand.receiver.metadata
        if one["source_id"] == 0
    ]
    assert (times[-1] - times[0]).total_seconds() > 1.0  # 1.9, less what held the first one up
    first = [one["source_id"] for one in stand.receiver.metadata][:60]
    assert first.count(0) == pytest.approx(15, abs=4)
    assert by_source(stand.receiver.metadata) == {0: list(range(1, 21)), 1: list(range(1, 61))}


def test_the_latency_of_a_file_leaves_out_what_it_was_made_to_wait(
    stand: ProcessHarness, quick: Manifest
) -> None:
    def latencies(number: int) -> list[float]:
        """Of a film, all of which has been played."""
        before = len(stand.receiver.datagrams)
        path = str(stand.folder / f"progress{number}")
        camera = stand.camera(
            quick, films(stand.folder, 14), incarnation=number, max_fps=5, progress_path=path
        )
        wait_for("some frames", lambda: len(stand.receiver.datagrams) >= before + 4)
        camera.change(2, "pause")
        camera.until("it is paused", lambda report: is_camera(report, "paused"))
        reports = len(camera.reports)
        wait_for("two more reports", lambda: len(camera.reports) >= reports + 2)
        camera.change(3)
        report = until_ended(camera)
        assert report.sources[0].emitted == 14
        return [report.sources[0].latency or 0.0, report.report["latency_reports"][0]["e2e_latency"]]

    # Each frame waited most of a second, and some a pause more. What held this machine up counts, and then
    # another film tells.
    assert any(0 < min(both) <= max(both) < 0.6 for both in map(latencies, range(1, 4)))


# strategies


@pytest.mark.parametrize("filling", ["DROP_OLDEST", "DROP_LATEST", "ADAPTIVE_DROP_LATEST"])
def test_a_live_source_drops_by_its_strategy_and_counts_every_frame(
    stand: ProcessHarness, filling: Filling
) -> None:
    manifest = slow_engine(stand, rounds=1200)

    camera = stand.camera(manifest, [SourceSpec(PATTERN, filling=filling, consumption="LAZY")])
    report = camera.until("some were dropped", lambda report: report.sources[0].dropped.get("buffer", 0) >= 3)

    (source,) = report.sources
    (metadata,) = report.report["sources_metadata"]
    assert set(source.dropped) <= {"buffer", "adaptive"}
    assert 0 <= source.received - source.emitted - dropped(report) <= 6  # in the buffer or in a slot
    assert (metadata["buffer_filling_strategy"], metadata["buffer_consumption_strategy"]) == (filling, "LAZY")
    assert metadata["buffer_size"] == 2


def test_a_live_source_that_waits_loses_nothing(stand: ProcessHarness) -> None:
    manifest = slow_engine(stand, rounds=400)

    camera = stand.camera(manifest, [SourceSpec(PATTERN, filling="WAIT", consumption="LAZY")])
    report = camera.until("more frames than there is room for", lambda report: report.emitted >= 12)

    ids = stand.receiver.frame_ids
    assert ids == list(range(1, len(ids) + 1))
    assert report.sources[0].dropped == {}


def test_a_live_source_shows_the_newest_when_nobody_says_otherwise(stand: ProcessHarness) -> None:
    manifest = slow_engine(stand, rounds=1200)

    camera = stand.camera(manifest, PATTERN)
    report = camera.until("some were dropped", lambda report: dropped(report) >= 6)

    assert set(report.sources[0].dropped) <= {"buffer", "eager", "adaptive"}
    (metadata,) = report.report["sources_metadata"]
    assert metadata["buffer_filling_strategy"] == "ADAPTIVE_DROP_OLDEST"
    assert metadata["buffer_consumption_strategy"] == "EAGER"


@pytest.mark.parametrize(
    ("filling", "consumption", "causes"),
    [("WAIT", "EAGER", {"eager"}), ("DROP_OLDEST", "LAZY", {"buffer"}), ("DROP_LATEST", "LAZY", {"buffer"})],
)
def test_a_file_that_may_lose_frames_loses_them_and_counts_them(
    stand: ProcessHarness, filling: Filling, consumption: Consumption, causes: set[str]
) -> None:
    manifest = slow_engine(stand, rounds=60)
    (film,) = films(stand.folder, 300)

    camera = stand.camera(manifest, [SourceSpec(film.reference, filling=filling, consumption=consumption)])
    report = until_ended(camera)

    (source,) = report.sources
    ids = stand.receiver.frame_ids
    assert ids == sorted(set(ids))
    assert set(source.dropped) == causes
    assert source.received == 300 == source.emitted + dropped(report)


def test_a_file_that_may_lose_frames_does_not_run_through_while_it_is_paused(
    stand: ProcessHarness, quick: Manifest
) -> None:
    (film,) = films(stand.folder, 500)
    sources = [SourceSpec(film.reference, filling="DROP_OLDEST")]
    camera = stand.camera(quick, sources, desired_status="pause")
    camera.until("it is paused", lambda report: is_camera(report, "paused"))
    reports = len(camera.reports)
    wait_for("two more reports", lambda: len(camera.reports) >= reports + 2)

    assert camera.reports[-1].sources[0].received < 10
    assert dropped(camera.reports[-1]) == 0


def emitted(report: CameraReport) -> np.ndarray:
    """Frames, by source."""
    return np.array([source.emitted for source in report.sources])


def test_engines_share_their_time_among_many_sources(stand: ProcessHarness) -> None:
    path = stand.folder / "squares.onnx"
    manifest = write_squares_model(path)
    stand.engine(path, manifest)
    camera = stand.camera(manifest, [SourceSpec(PATTERN, max_fps=2)] * 8)

    begun = camera.until("each gave one", lambda report: min(emitted(report)) >= 1)  # one is open later
    report = camera.until("each gave some", lambda report: min(emitted(report) - emitted(begun)) >= 4)

    gave = emitted(report) - emitted(begun)
    assert gave.max() - gave.min() <= 3
