"""A folder of samples: whole or not there, never more than it may be, whoever writes and dies."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from streamfleet_core.datasets import spool as module
from streamfleet_core.datasets.picked_sample import Sample
from streamfleet_core.datasets.spool import NoSampleName, Spool, SpoolTooSmall
from streamfleet_core.runtime.small_file import FileTooLarge
from tests.core.protocol.test_sampling import SAMPLE
from tests.fakes.patience import PATIENCE

BEGAN = 1_700_000_000.0


def sample(number: int, size: int = 1000, **changes: object) -> tuple[Sample, bytes]:
    """One of `size` bytes, captured `number` seconds after the beginning."""
    image = bytes([number % 256]) * size
    return replace(SAMPLE, frame_id=number, captured_at=BEGAN + number, size=size, **changes), image  # type: ignore[arg-type]


def numbers(spool: Spool) -> list[int]:
    """Which samples are there, in their order."""
    return [int(entry.name.rsplit("-", 1)[1]) for entry in spool.entries()]


def used(folder: Path) -> int:
    """Bytes that all files of samples take."""
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_what_was_put_is_read_until_it_is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "samples")
    kept, image = sample(1)

    assert spool.put(kept, image)
    assert not spool.put(kept, b"other")  # there already

    assert spool.read("parts", kept.name) == (kept, image)
    assert [(entry.dataset, entry.name, entry.captured_at) for entry in spool.entries()] == [
        ("parts", kept.name, BEGAN + 1)
    ]
    spool.remove("parts", kept.name)
    spool.remove("parts", kept.name)
    assert spool.entries() == []
    assert spool.read("parts", kept.name) is None
    assert used(tmp_path / "samples") == 0


def test_samples_are_listed_oldest_first_whatever_their_data_set(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number, dataset in ((3, "a"), (1, "b"), (2, "a")):
        spool.put(*sample(number, dataset=dataset))

    assert numbers(spool) == [1, 2, 3]


@pytest.mark.parametrize("name", ["../x", "", "-1-door-0-1", "1-door-0-1/..", "1-do/or-0-1", "1-door-0-1\n"])
def test_a_foreign_name_is_never_joined_to_a_path(tmp_path: Path, name: str) -> None:
    spool = Spool(tmp_path)

    for dataset, one in (("parts", name), (name, SAMPLE.name)):
        with pytest.raises(NoSampleName):
            spool.read(dataset, one)
        with pytest.raises(NoSampleName):
            spool.remove(dataset, one)


def test_the_oldest_make_room_before_there_is_too_much(tmp_path: Path) -> None:
    limit = 20_000
    spool = Spool(tmp_path, size=limit)

    for number in range(100):
        spool.put(*sample(number))
        assert used(tmp_path) <= limit

    there = numbers(spool)
    assert there == list(range(100 - len(there), 100))
    assert used(tmp_path) > limit * 0.7


def test_a_sample_for_which_there_never_is_room_costs_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size=5000)
    spool.put(*sample(1))

    with pytest.raises(SpoolTooSmall):
        spool.put(*sample(2, size=5000))

    assert numbers(spool) == [1]


def test_what_is_too_old_goes_and_the_rest_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path, age=10)
    for number in range(5):
        spool.put(*sample(number, dataset=f"day-{number}"))

    assert spool.trim(BEGAN + 12.5) == 3

    assert numbers(spool) == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".use", "day-3", "day-4"]


def test_what_a_killed_writer_left_is_removed_and_was_never_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    whole, image = sample(1)
    spool.put(whole, image)
    folder = tmp_path / "parts"
    (folder / "1700000000000-door-0-2.jpg").write_bytes(b"x")
    (folder / "1700000000000-door-0-3.new").write_bytes(b"{")
    (folder / "1700000000000-door-0-4.json").write_bytes(b"{}")  # a cut of power: its picture is empty
    (folder / "1700000000000-door-0-4.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not ours")

    assert numbers(spool) == [1]
    spool.trim(BEGAN)

    assert sorted(path.name for path in folder.iterdir()) == [
        f"{whole.name}.jpg",
        f"{whole.name}.json",
        "notes.txt",
    ]


def test_a_picture_that_was_cut_short_is_not_given_away(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept, image = sample(1)
    spool.put(kept, image)

    os.truncate(spool.image_path("parts", kept.name), 500)

    assert spool.read("parts", kept.name) is None


def test_a_file_that_is_too_large_for_a_sample_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    first, second = sample(1), sample(2)
    for each in (first, second):
        spool.put(*each)
    content = spool.read_json("parts", first[0].name)
    monkeypatch.setattr(module, "MAX_JSON", len(content))

    spool.json_path("parts", first[0].name).write_bytes(content + b" ")
    spool.image_path("parts", second[0].name).write_bytes(second[1] + b"more")

    assert spool.read("parts", first[0].name) is None
    assert spool.read("parts", second[0].name) is None
    with pytest.raises(FileTooLarge, match=f"expected at most {len(content)} bytes"):
        spool.read_json("parts", first[0].name)


def test_a_wrong_count_is_found_out_before_a_sample_is_lost_by_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size=10_000)
    spool.put(*sample(1))
    (tmp_path / ".use").write_bytes((9_999).to_bytes(8, "little"))  # a writer was killed, time and again

    spool.put(*sample(2))

    assert numbers(spool) == [1, 2]


def test_a_folder_that_another_holds_for_ever_is_waited_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", 0.05)
    spool = Spool(tmp_path)
    spool.put(*sample(1))

    with (tmp_path / ".use").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            spool.put(*sample(2))

    assert numbers(spool) == [1]


def test_a_folder_that_cannot_be_one_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("a file")

    with pytest.raises(OSError, match=r"exists|directory"):
        Spool(tmp_path / "samples").put(*sample(1))


def _fill(folder: str, limit: int, seed: int) -> None:
    module._LOCK_TIMEOUT = PATIENCE
    rng, spool = random.Random(seed), Spool(Path(folder), size=limit)
    worst = 0
    for number in range(seed * 1000, seed * 1000 + 80):
        spool.put(*sample(number, size=rng.randrange(200, 3000), dataset=f"set-{seed % 2}"))
        entries = spool.entries() if number % 10 == 0 else []  # may be empty: the others remove meanwhile
        for entry in rng.sample(entries, min(1, len(entries))):
            spool.remove(entry.dataset, entry.name)
        with spool._locked():  # so that nobody is between two files
            worst = max(worst, used(Path(folder)))
    assert worst <= limit, worst


def test_several_processes_never_put_more_than_there_may_be(tmp_path: Path) -> None:
    limit = 60_000
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_fill, args=(str(tmp_path), limit, seed)) for seed in range(4)]
    for writer in writers:
        writer.start()

    for writer in writers:
        writer.join(60)

    assert [writer.exitcode for writer in writers] == [0] * 4
    spool = Spool(tmp_path, size=limit)
    assert spool.trim(BEGAN) == 0
    assert int.from_bytes((tmp_path / ".use").read_bytes(), "little") == used(tmp_path) <= limit
    assert all(spool.read(entry.dataset, entry.name) for entry in spool.entries())
