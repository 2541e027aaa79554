"""The samples of the api: what a page costs, and what it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfleet_api.storage.sample_store import Kept, NoSuchDataset, Samples, Which
from streamfleet_core.datasets.spool import Entry, Spool
from tests.fakes.samples import picked

PARTS = Which(dataset="parts")


class WatchedSpool(Spool):
    """It says which samples were looked at."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.looked_at: list[str] = []

    def entry(self, dataset: str, name: str) -> Entry | None:
        self.looked_at.append(name)
        return super().entry(dataset, name)

    def entries(self) -> list[Entry]:
        raise AssertionError("all samples were looked at")


@pytest.fixture
def spool(tmp_path: Path) -> WatchedSpool:
    """Twelve samples: the odd ones of another device."""
    spool = WatchedSpool(tmp_path)
    for number in range(12):
        item = picked(number, device=f"edge-{number % 2}")
        spool.put(item.sample, item.image)
    return spool


@pytest.fixture
def samples(spool: WatchedSpool) -> Samples:
    made = Samples(spool.folder, size=1024**3, age=1e9)
    made.spool = spool
    return made


def numbers(kept: list[Kept]) -> list[int]:
    return [one.frame_id for one in kept]


async def test_a_page_looks_at_its_own_samples_only(samples: Samples, spool: WatchedSpool) -> None:
    first = await samples.page(PARTS, None, 3)
    spool.looked_at.clear()

    second = await samples.page(PARTS, first.next, 3)

    assert numbers(first.samples) == [0, 1, 2]
    assert numbers(second.samples) == [3, 4, 5]
    assert len(spool.looked_at) == 4  # one more, to know whether others follow


async def test_pages_show_each_sample_once_and_end(samples: Samples) -> None:
    which = Which(dataset="parts", device="edge-1")
    found, after = [], None
    for _ in range(3):
        page = await samples.page(which, after, 2)
        found += numbers(page.samples)
        after = page.next

    assert found == [1, 3, 5, 7, 9, 11]
    assert after is None


async def test_a_page_after_the_last_sample_is_empty(samples: Samples) -> None:
    page = await samples.page(PARTS, picked(99).sample.name, 2)

    assert (page.samples, page.next) == ([], None)


async def test_what_was_cut_short_is_on_no_page_and_makes_no_dataset(
    samples: Samples, spool: WatchedSpool
) -> None:
    for number in range(12):
        spool.image_path("parts", picked(number).sample.name).write_bytes(b"")

    for dataset in ("parts", "gears", "../parts"):
        with pytest.raises(NoSuchDataset):
            await samples.page(Which(dataset=dataset), None, 2)
