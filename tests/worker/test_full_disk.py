"""A worker on a full disk starts, plays and says what it cannot keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.ipc.playback_position import Progress
from tests.fakes.disks import fill_up, small_disk
from tests.fakes.peers import Broker, Worker, wait_for
from tests.fakes.process_harness import ProcessHarness, until_ended, write_video


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk("4m") as folder:
        yield folder


def test_a_camera_plays_to_the_end_and_says_that_its_place_is_not_kept(
    stand: ProcessHarness, quick: Manifest, disk: Path
) -> None:
    film = str(write_video(stand.folder / "film.avi", 60))
    fill_up(disk)
    camera = stand.camera(quick, film, progress_path=str(disk / "progress"))

    report = until_ended(camera)

    assert stand.receiver.frame_ids == list(range(1, 61))
    assert "the position cannot be written: No space left on device" in report.reason
    assert camera.stop() == 0


def test_a_place_is_kept_as_soon_as_there_is_room(disk: Path) -> None:
    filler = fill_up(disk)
    progress = Progress.open(str(disk / "progress"), sources=2)
    progress.advance(5, 1)
    assert progress.error

    filler.unlink()
    progress.advance(7, 0)

    again = Progress.open(str(disk / "progress"), sources=2)
    assert [again.position(0), again.position(1), progress.error] == [7, 5, ""]
    progress.close()
    again.close()


def test_a_worker_starts_and_its_cameras_play(broker: Broker, disk: Path) -> None:
    worker = Worker(disk, "w", "--join", broker.token("cam-1"))
    worker.log = broker.log.with_name("w.log")
    worker.lay_model()
    worker.start()
    try:
        wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")
        broker.create("door", "rtsp://h/door")
        broker.await_status("door", "running")
        worker.kill()
        wait_for(lambda: not worker.family(), "no process is left")
        fill_up(disk)

        worker.start()

        wait_for(lambda: worker.children("camera"), "the camera is back")
        broker.await_status("door", "running")
        with worker.subscribed(b"v1/pred/") as receive:
            assert receive()["frame_id"]
        assert "until there is space, a restart loses changes" in worker.log.read_text()
    finally:
        worker.kill()
