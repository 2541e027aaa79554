"""The files and sockets of a data directory."""

from __future__ import annotations

from pathlib import Path

from streamfleet_worker.agent.paths import Places


def test_an_id_is_never_part_of_a_path(folder: Path) -> None:
    places = Places(folder)

    path = places.playing("../../etc/passwd", 1)

    assert path.parent == places.progress
    assert path.name.isalnum()


def test_each_run_of_a_pipeline_has_its_own_position(folder: Path) -> None:
    places = Places(folder)

    paths = {places.playing(pipeline_id, run) for pipeline_id in ("door", "gate") for run in (1, 2)}

    assert len(paths) == 4


def test_every_directory_is_for_its_owner_only(folder: Path) -> None:
    places = Places(folder / "data")

    places.make()
    places.make()

    made = (places.root, places.models, places.run, places.progress)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}
