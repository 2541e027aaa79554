"""A data directory that lost something is refused or has lost nothing: never is a fleet empty in silence."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_broker.errors import StoreUnusable
from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_broker.storage.sqlite_store import SqliteStore
from streamfleet_broker.storage.version_marker import Mark, VersionMarker
from streamfleet_core.protocol.requests import (
    AddSubscriber,
    Changed,
    ChangePipeline,
    CreatePipeline,
    ListPipelines,
    PipelineView,
    Subscription,
)
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from tests.broker.test_main import command, operator, running
from tests.fakes.broker_clients import Sockets, until
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

PIPELINES = [f"p{number}" for number in range(5)]
KEYS = ["keys/broker.key", "keys/operator.key"]
FILES = ["store.db", "store.db-wal", "store.version", *KEYS]


@pytest.fixture(scope="module")
def killed() -> Iterator[Path]:
    """The data directory of a broker that was killed before it had a moment of rest: its journal is full."""
    while True:
        with short_folder() as folder:
            asyncio.run(fill(folder))
            # On a machine that stalls it may have had its rest.
            if (folder / "store.db-wal").stat().st_size > 10_000:
                yield folder
                return


async def fill(folder: Path) -> None:
    sockets = Sockets()
    with running(folder) as process:
        asking = operator(sockets, folder)
        await asking.get(AddSubscriber("wall"), Subscription)
        for name in PIPELINES:
            source = SourceSpec(f"rtsp://user:hunter2@10.0.0.9/{name}")
            spec = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(source,))
            await asking.get(CreatePipeline(pipeline_id=name, spec=spec), PipelineView)
        process.send_signal(signal.SIGKILL)
        process.wait()
    sockets.close()


@pytest.fixture
def copy(killed: Path) -> Iterator[Path]:
    """A copy of it, to be damaged."""
    with short_folder() as folder:
        yield shutil.copytree(killed, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.ipc"))


def refusal(folder: Path) -> str:
    """What a broker says that does not start."""
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


async def pipelines(folder: Path) -> list[str]:
    """Those that a broker has which starts."""
    sockets = Sockets()
    with running(folder):
        views = await operator(sockets, folder).get(ListPipelines(), tuple[PipelineView, ...])
        sockets.close()
    return [view.pipeline_id for view in views]


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x20
    path.write_bytes(content)


async def test_what_was_killed_has_lost_nothing(copy: Path) -> None:
    assert (copy / "store.db-wal").stat().st_size > 10_000

    assert await pipelines(copy) == PIPELINES


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_with_its_path_and_what_to_run(copy: Path, name: str) -> None:
    (copy / name).unlink()

    said = refusal(copy)

    assert str(copy / name).removesuffix("-wal") in said
    assert "streamfleet restore FILE" in said
    assert f"streamfleet-broker --data-dir {copy} --accept-loss" in said


def test_missing_keys_are_not_made_anew_where_somebody_relies_on_them(copy: Path) -> None:
    shutil.rmtree(copy / "keys")

    assert "programs rely on it" in refusal(copy)
    assert not (copy / "keys").exists()


def test_a_flipped_byte_in_the_journal_is_refused(copy: Path) -> None:
    path = copy / "store.db-wal"

    flip(path, path.stat().st_size - 2_000)
    assert re.search(r"its end is lost: it holds \d rows at version \d, expected 6 rows", refusal(copy))
    path.write_bytes(b"")
    assert "expected 6 rows at version" in refusal(copy)


def test_a_flipped_byte_in_a_row_is_refused(copy: Path) -> None:
    SqliteStore(copy).close()  # all of it is in the database then
    flip(copy / "store.db", (copy / "store.db").read_bytes().index(b"hunter2"))

    assert "its 6 rows are not the 6 that were written" in refusal(copy)


@pytest.mark.parametrize("rests", [False, True], ids=["journal", "database"])
def test_any_flipped_byte_is_refused_or_costs_nothing(copy: Path, rests: bool) -> None:
    if rests:
        SqliteStore(copy).close()
    rows = records(copy_of(copy))
    rng = random.Random(7)
    refused = 0

    for name in ("store.db", "store.version") if rests else ("store.db-wal", "store.db", "store.version"):
        size = (copy / name).stat().st_size
        for _ in range(60):
            folder = copy_of(copy)
            flip(folder / name, rng.randrange(size))
            try:
                assert records(folder) == rows
            except StoreUnusable:
                refused += 1

    assert refused


def copy_of(folder: Path) -> Path:
    target = folder / "copy"
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("copy", "*.ipc"))


def records(folder: Path) -> list[object]:
    """All rows of a data directory. Raises: StoreUnusable."""
    store = SqliteStore(folder)
    store.close()
    return list(store.records)


async def test_after_a_moment_of_rest_one_file_is_the_store_without_what_was_deleted(copy: Path) -> None:
    sockets = Sockets()
    with running(copy):
        asking = operator(sockets, copy)
        for name in PIPELINES:
            await asking.get(ChangePipeline(name, desired_status="stop"), Changed)
        await until(lambda: not (copy / "store.db-wal").stat().st_size, "an empty journal")
        assert not holders(copy, b"hunter2")
        sockets.close()
        shutil.copy(copy / "store.db", copy / "alone.db")
    # One file is all of the store then, as whoever copies it expects.
    (copy / "store.db").write_bytes((copy / "alone.db").read_bytes())
    (copy / "store.db-wal").unlink(missing_ok=True)
    assert await pipelines(copy) == []


def holders(folder: Path, content: bytes) -> list[str]:
    """The files with this in them."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in paths if content in path.read_bytes()]


LOSSES = [["store.db", "store.db-wal"], ["keys"]]


@pytest.mark.parametrize("lost", LOSSES)
async def test_who_accepts_the_loss_goes_on_with_what_is_left(copy: Path, lost: list[str]) -> None:
    for name in lost:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    done = subprocess.run(command(copy, "--accept-loss"), capture_output=True, text=True, check=True)

    left = PIPELINES if lost == ["keys"] else []
    assert f"with 0 devices and {len(left)} pipelines" in done.stdout
    assert await pipelines(copy) == left
    [aside] = copy.glob("replaced-*")
    assert aside.stat().st_mode & 0o077 == 0


def test_what_cannot_be_read_is_not_needed_to_go_on(copy: Path) -> None:
    SqliteStore(copy).close()
    path = copy / "store.db"
    path.write_bytes(path.read_bytes()[:3000] + b"\xff" * 20_000)

    subprocess.run(command(copy, "--accept-loss"), capture_output=True, check=True)

    SqliteStore(copy).close()


def test_generations_rise_above_all_that_devices_have_seen(copy: Path) -> None:
    before = generations(copy_of(copy))
    (copy / "store.version").unlink()

    subprocess.run(command(copy, "--accept-loss"), capture_output=True, check=True)

    after = generations(copy)
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] + 100_000 for name in before)


def generations(folder: Path) -> dict[str, int]:
    """Those at which the playing of each pipeline began."""
    return {
        each.pipeline_id: each.run_generation for each in records(folder) if isinstance(each, PipelineRecord)
    }


def test_a_note_that_was_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    marker = VersionMarker(tmp_path / "store.version")
    for version in (1, 2, 3):
        marker.write(Mark("c", version, 5))
    size = marker.path.stat().st_size

    flip(marker.path, 512 + 20)  # in the slot of the odd ones

    assert marker.read() == Mark("c", 2, 5)
    assert marker.path.stat().st_size == size == 1024
    flip(marker.path, 20)
    with pytest.raises(ValueError, match="version is damaged"):
        marker.read()
