"""A camera process with a motion gate: what is inferred, and that every frame is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.values import Manifest, Motion, SourceSpec
from streamfleet_worker.ipc.child_messages import CameraReport
from streamfleet_worker.ipc.playback_position import Progress
from tests.fakes.fake_publisher import fake_publisher
from tests.fakes.process_harness import ProcessHarness, is_camera, until_ended, wait_for

PATIENT = Motion(max_still=60.0)  # longer than any of the films
FPS = 25


def write_film(path: Path, places: Iterable[int | None]) -> str:
    """A film of a bright square that is so many pixels from the left in each frame; None: it is not there."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (128, 72))
    assert writer.isOpened()
    for place in places:
        picture = np.full((72, 128, 3), 60, np.uint8)
        if place is not None:
            picture[30:46, place : place + 16] = 220
        writer.write(picture)
    writer.release()
    return str(path)


def source(path: str, motion: Motion | None = PATIENT, **more: Any) -> tuple[SourceSpec]:
    return (SourceSpec(path, motion=motion, **more),)


def assert_accounted_for(report: CameraReport) -> None:
    """Each frame was emitted, or dropped with its cause."""
    for stat in report.sources:
        assert stat.received == stat.emitted + sum(stat.dropped.values())


def test_only_frames_with_motion_are_inferred_and_the_others_counted(
    stand: ProcessHarness, quick: Manifest
) -> None:
    places = [None] * 20 + [8 * step for step in range(10)] + [72] * 30
    camera = stand.camera(quick, source(write_film(stand.folder / "film.avi", places)))

    report = until_ended(camera)

    assert stand.receiver.frame_ids == [1, *range(21, 31)]
    assert report.sources[0].dropped == {"still": 49}
    assert (report.sources[0].received, report.sources[0].decoded, report.sources[0].inferred) == (60, 60, 11)
    assert_accounted_for(report)
    progress = Progress.open(str(stand.folder / "progress"))
    assert progress.position() == 60, "the frames without motion at the end are done, too"
    progress.close()


def test_a_frame_is_inferred_after_the_longest_time_without_motion(
    stand: ProcessHarness, quick: Manifest
) -> None:
    film = write_film(stand.folder / "film.avi", [40] * 50)
    camera = stand.camera(quick, source(film, Motion(max_still=0.5)))

    report = until_ended(camera)

    assert stand.receiver.frame_ids == [1, 14, 27, 40]
    assert_accounted_for(report)


def test_only_motion_in_the_region_counts(stand: ProcessHarness, quick: Manifest) -> None:
    film = write_film(stand.folder / "film.avi", [*range(0, 40, 4), *range(40, 112, 4)])
    right = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    camera = stand.camera(quick, source(film, region=right))

    report = until_ended(camera)

    ids = stand.receiver.frame_ids
    assert ids[0] == 1
    assert 11 <= ids[1] <= 15, "the square reaches the region with its right side at 64 pixels"
    assert ids[-1] == 28
    assert report.sources[0].dropped["still"] >= 9
    assert_accounted_for(report)


def test_tracks_outlast_a_time_without_motion(stand: ProcessHarness, quick: Manifest) -> None:
    film = write_film(stand.folder / "film.avi", [0, 8, 16, *[16] * 100, 24, 32, 40])
    camera = stand.camera(quick, source(film), tracker="bytetrack")

    until_ended(camera)

    assert stand.receiver.frame_ids == [1, 2, 3, 104, 105, 106]
    ids = [box["tracker_id"] for document in stand.receiver.documents for box in document["predictions"]]
    assert ids == [1] * 6


def test_a_file_that_is_paused_does_not_play_on_through_still_frames(
    stand: ProcessHarness, quick: Manifest
) -> None:
    film = write_film(stand.folder / "film.avi", [40] * 400)
    camera = stand.camera(quick, source(film), desired_status="pause")
    camera.until("it is open", lambda report: is_camera(report, "paused") and report.sources[0].received)

    seen = len(camera.reports)
    wait_for("more reports", lambda: len(camera.reports) >= seen + 3)
    waiting = camera.reports[-1]
    camera.change(2)
    report = until_ended(camera)

    assert waiting.sources[0].received < 20
    assert report.sources[0].received == 400
    assert_accounted_for(report)


def test_a_killed_process_goes_on_behind_the_frames_that_showed_no_motion(
    stand: ProcessHarness, quick: Manifest
) -> None:
    film = write_film(stand.folder / "film.avi", [0, *[40] * 300])
    camera = stand.camera(quick, source(film))
    until_ended(camera)
    camera.kill()

    report = until_ended(stand.camera(quick, source(film), incarnation=2))

    assert stand.receiver.frame_ids == [1, 2]
    assert report.sources[0].received == 0


def test_the_gate_and_other_settings_change_during_a_run(stand: ProcessHarness, quick: Manifest) -> None:
    film = write_film(stand.folder / "film.avi", [40] * 50)
    live = source(film, mode="live")
    camera = stand.camera(quick, live)
    camera.until("it stands still", lambda report: report.sources[0].dropped.get("still", 0) > 10)

    camera.change(2, sources=live, confidence=0.95)
    wait_for("the new threshold", lambda: any(one["gen"] == 2 for one in stand.receiver.metadata))
    camera.change(3, sources=source(film, None, mode="live"))
    wait_for("every frame", lambda: sum(one["gen"] == 3 for one in stand.receiver.metadata) > 10)
    camera.change(4, sources=live)
    still = camera.until("it stands still", lambda report: report.generation == 4 and is_still(report))

    documents = stand.receiver.documents
    emptied = [one for one in documents if one["inference_metadata"]["gen"] == 2]
    assert [one["predictions"] for one in emptied] == [[]]
    assert is_camera(still, "running")
    assert still.sources[0].failures == 0


def is_still(report: CameraReport) -> bool:
    """Whether it emits nothing any more."""
    return report.fps == 0 and report.sources[0].dropped.get("still", 0) > 0


def test_the_last_predictions_are_repeated_without_motion(stand: ProcessHarness, quick: Manifest) -> None:
    film = write_film(stand.folder / "film.avi", [40] * 50)
    with fake_publisher(stand.intake_path) as publisher:
        stand.camera(quick, source(film, mode="live"))
        headers = [DataHeader.unpack(publisher.receive().header) for _ in range(4)]

    assert [header.kind for header in headers] == [Kind.PRED, *[Kind.LAST] * 3]
    assert len({(header.gen, header.inc, header.seq) for header in headers}) == 1
