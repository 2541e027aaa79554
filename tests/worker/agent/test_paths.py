"""The files and sockets of a data directory."""

from __future__ import annotations

from pathlib import Path

from streamfleet_worker.agent.paths import WorkerPaths


def test_an_id_is_never_part_of_a_path(folder: Path) -> None:
    worker_paths = WorkerPaths(folder)

    path = worker_paths.playback_position("../../etc/passwd", 1)

    assert path.parent == worker_paths.progress
    assert path.name.isalnum()


def test_each_run_of_a_pipeline_has_its_own_position(folder: Path) -> None:
    worker_paths = WorkerPaths(folder)

    paths = {
        worker_paths.playback_position(pipeline_id, run) for pipeline_id in ("door", "gate") for run in (1, 2)
    }

    assert len(paths) == 4


def test_every_directory_is_for_its_owner_only(folder: Path) -> None:
    worker_paths = WorkerPaths(folder / "data")

    worker_paths.make()
    worker_paths.make()

    made = (worker_paths.root, worker_paths.models, worker_paths.run, worker_paths.progress)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}
