"""How far a playing has come outlives whoever wrote it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from streamfleet_worker.ipc.playback_position import Progress
from tests.fakes.patience import PATIENCE


def test_it_begins_before_the_first_frame(tmp_path: Path) -> None:
    progress = Progress.open(str(tmp_path / "progress"))

    assert progress.position() == 0
    progress.close()


def test_a_process_that_is_killed_has_lost_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "progress")
    process = multiprocessing.get_context("spawn").Process(target=_advance_and_die, args=(path, 12_345))

    process.start()
    process.join(PATIENCE)
    progress = Progress.open(path)

    assert process.exitcode == -signal.SIGKILL
    assert progress.position() == 12_345
    progress.close()


def test_a_file_of_another_size_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.write_bytes(b"\xff" * 3)

    progress = Progress.open(str(path))
    position = progress.position()
    progress.advance(7)

    assert position == 0
    assert (progress.position(), path.stat().st_size) == (7, 8)
    progress.close()


def _advance_and_die(path: str, frame_id: int) -> None:
    Progress.open(path).advance(frame_id)
    os.kill(os.getpid(), signal.SIGKILL)
