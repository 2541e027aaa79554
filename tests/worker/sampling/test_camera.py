"""A camera process that keeps samples: what it is asked for, and never at the cost of a frame."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamfleet_core.datasets.picked_sample import Sample
from streamfleet_core.datasets.spool import Spool
from streamfleet_core.protocol.sampling import ClassesBased, Limit, Random, Sampling
from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.sampling.quota_file import path_of
from tests.fakes.process_harness import Child, ProcessHarness, until_ended, write_video

EVERY = Sampling(dataset="parts", strategies=(Random(name="every", traffic_percentage=1),))
_PATTERN = "TestPatternStreamProducer"


def kept(stand: ProcessHarness) -> list[Sample]:
    """All samples, oldest first."""
    spool = Spool(stand.folder / "samples")
    found = [spool.read(entry.dataset, entry.name) for entry in spool.entries()]
    return [one[0] for one in found if one is not None]


def keeps(stand: ProcessHarness, count: int) -> Callable[[object], bool]:
    """Whether so many are kept, whatever is reported."""
    return lambda _report: len(kept(stand)) >= count


def counters(camera: Child) -> Any:
    """What the camera said last of its samples."""
    return camera.reports[-1].samples


def hang_the_disk(folder: Path) -> Path:
    """Whoever writes a tally waits, until somebody reads what this returns."""
    path = path_of(folder / "samples", "pipeline-1")
    path.parent.mkdir(parents=True, exist_ok=True)
    hanging = path.with_name(f"{path.name}.new")
    os.mkfifo(hanging)
    return hanging


def test_a_sample_is_the_frame_and_what_was_sent_of_it(stand: ProcessHarness, squares: Manifest) -> None:
    red = ClassesBased(name="red", selected_class_names=("red",), limits=(Limit("daily", 3),))
    camera = stand.camera(squares, _PATTERN, sampling=Sampling(dataset="squares", strategies=(red,)))

    camera.until("three are kept", lambda report: report.samples and report.samples.written == 3)
    camera.stop()

    sent = {document["inference_metadata"]["frame_id"]: document for document in stand.receiver.documents}
    samples = kept(stand)
    assert len(samples) == 3
    for sample in samples:
        assert sample.prediction == sent[sample.frame_id]
        assert (sample.width, sample.height, sample.labels) == (1920, 1080, ("red", "green", "blue"))
        assert (sample.pipeline_id, sample.device, sample.dataset) == ("pipeline-1", "device-1", "squares")
        assert abs(sample.captured_at - time.time()) < 60


def test_a_file_loses_no_frame_to_a_disk_that_hangs(stand: ProcessHarness, quick: Manifest) -> None:
    hanging = hang_the_disk(stand.folder)
    film = str(write_video(stand.folder / "film.avi", 300))

    camera = stand.camera(quick, film, sampling=EVERY, max_fps=150)  # the writer has time to begin
    report = until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 301))
    assert report.sources[0].dropped == {}
    assert report.samples is not None
    assert report.samples.written == 0
    assert report.samples.dropped["queue"] == report.samples.picked - 9  # eight wait, one is being written
    with hanging.open("rb"):
        camera.until("what waited is written", lambda report: report.samples.written == 9)
    assert camera.stop() == 0


def test_the_last_report_counts_the_last_sample(stand: ProcessHarness, quick: Manifest) -> None:
    film = str(write_video(stand.folder / "film.avi", 20))

    camera = stand.camera(quick, film, sampling=EVERY)
    until_ended(camera)
    camera.stop()

    last = counters(camera)
    assert last.picked == last.written + sum(last.dropped.values())
    assert last.written == len(kept(stand))


def test_a_camera_whose_disk_hangs_ends_in_time(stand: ProcessHarness, quick: Manifest) -> None:
    hang_the_disk(stand.folder)
    camera = stand.camera(quick, _PATTERN, sampling=EVERY)
    camera.until("a sample waits", lambda report: report.samples and report.samples.picked > 1)

    assert camera.stop() == 0


@pytest.mark.parametrize("hangs", [False, True])
def test_a_live_source_emits_as_many_frames_with_samples_as_without(
    stand: ProcessHarness, quick: Manifest, hangs: bool
) -> None:
    if hangs:
        hang_the_disk(stand.folder)

    camera = stand.camera(quick, _PATTERN, sampling=EVERY)
    first = camera.until("the tally is read", lambda report: report.samples and report.samples.picked)
    # A report counts samples later than frames, and frames may come in between: not after the next report.
    later = camera.until("another report", lambda report: report.emitted > first.emitted)
    last = camera.until(
        "two seconds of frames, of which no more are dropped than where this machine stood still",
        lambda report: (
            report.emitted >= later.emitted + 20
            and (hangs or report.samples.written > 0)
            and sum(report.sources[0].dropped.values()) < report.emitted
        ),
    )

    # A frame may be counted before its sample.
    assert last.samples.picked - first.samples.picked >= last.emitted - later.emitted - 1
    assert (last.samples.written == 0) == hangs


def test_a_daily_limit_outlives_a_camera_that_is_killed(stand: ProcessHarness, quick: Manifest) -> None:
    limited = Sampling(
        dataset="parts", strategies=(Random(name="some", traffic_percentage=1, limits=(Limit("daily", 6),)),)
    )

    for incarnation, count in ((1, 2), (2, 4)):
        camera = stand.camera(quick, _PATTERN, incarnation=incarnation, sampling=limited)
        camera.until("some are kept", keeps(stand, count))
        camera.kill()
    camera = stand.camera(quick, _PATTERN, incarnation=3, sampling=limited)
    last = camera.until("the limit is reached", lambda report: report.samples and len(kept(stand)) >= 4)
    camera.until("ten frames more", lambda report: report.emitted >= last.emitted + 10)

    assert len(kept(stand)) in (4, 5, 6)  # two may have died on their way; no other takes their place


def test_sampling_begins_and_ends_while_the_pipeline_plays(stand: ProcessHarness, quick: Manifest) -> None:
    camera = stand.camera(quick, _PATTERN)
    before = camera.until("it plays", lambda report: report.emitted > 2)
    assert before.samples is None

    camera.change(2, sampling=EVERY)
    camera.until("frames are kept", lambda report: report.samples and report.samples.written > 2)
    camera.change(3)
    camera.until("it obeys", lambda report: report.generation == 3)
    after = camera.until(
        "the writer is through",
        lambda report: report.samples.picked == report.samples.written + sum(report.samples.dropped.values()),
    )
    later = camera.until("frames go on", lambda report: report.emitted > after.emitted + 5)

    assert later.samples.picked == after.samples.picked
    frame_ids = stand.receiver.frame_ids  # once: more come all the time
    assert len(frame_ids) >= later.emitted
    assert frame_ids == sorted(frame_ids)
