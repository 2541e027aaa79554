"""A backup made beside a running broker comes back whole, and nothing is put over a fleet unasked."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_broker.storage.sqlite_store import SCHEMA_VERSION
from streamfleet_core.protocol.requests import CreatePipeline, ListPipelines, PipelineView
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from tests.broker.test_main import command, operator, running
from tests.fakes.broker_clients import Operator, Sockets, serving
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

SPEC = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://10.0.0.9/door"),))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def do(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One thing that the broker's program does with a data directory."""
    return subprocess.run(
        command(folder, *options), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


async def names(asking: Operator) -> list[str]:
    return [view.pipeline_id for view in await asking.get(ListPipelines(), tuple[PipelineView, ...])]


async def test_a_backup_is_one_moment_of_a_running_fleet_and_comes_back(folder: Path) -> None:
    data, file = folder / "d", folder / "fleet.tar"
    sockets = Sockets()
    made: list[str] = []
    with running(data):
        asking = operator(sockets, data)
        backing = asyncio.create_task(asyncio.to_thread(do, data, "--backup", str(file)))
        while not backing.done():  # somebody writes all the time
            made.append(f"p{len(made)}")
            await asking.get(CreatePipeline(pipeline_id=made[-1], spec=SPEC), PipelineView)
        assert (await backing).returncode == 0, (await backing).stderr
        over_running = do(data, "--restore", str(file), "--replace")
    sockets.close()
    over_a_fleet = do(data, "--restore", str(file))
    over_it_with_a_flag = do(data, "--restore", str(file), "--replace")
    elsewhere = do(folder / "new", "--restore", str(file))

    assert (over_running.returncode, over_a_fleet.returncode) == (1, 1)
    assert "another broker is running" in over_running.stderr
    assert "already holds a fleet; --replace" in over_a_fleet.stderr
    assert over_it_with_a_flag.returncode == elsewhere.returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    sockets = Sockets()
    with running(data), running(folder / "new"):
        restored = await names(operator(sockets, data))
        assert restored == await names(operator(sockets, folder / "new")) == made[: len(restored)]
    sockets.close()
    for each in ("broker", "operator"):
        assert (folder / f"new/keys/{each}.key").read_text() == (data / f"keys/{each}.key").read_text()
    [aside] = data.glob("replaced-*")
    assert {path.name for path in aside.iterdir()} >= {"store.db", "store.version", "keys"}


@pytest.fixture(scope="module")
def backed_up() -> Iterator[Path]:
    """A data directory `d`, and its backup `b.tar` beside it."""
    with short_folder() as folder:
        with running(folder / "d"):
            assert do(folder / "d", "--backup", str(folder / "b.tar")).returncode == 0
        yield folder


def archive(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"broker/store.db": None}, "it has no broker/store.db"),
        ({"broker/keys/broker.key": None}, "it has no broker/keys/broker.key"),
        ({"broker/keys/operator.key": b"{}"}, "expected a CURVE key pair"),
        ({"broker/keys/operator.key": b"x" * 5000}, "expected a file of at most 4096 bytes"),
        ({"broker/store.db": b"x" * 5000}, "expected a backup of a broker: file is not a database"),
    ],
)
def test_what_is_no_backup_is_refused_and_changes_nothing(
    backed_up: Path, folder: Path, change: dict[str, bytes | None], said: str
) -> None:
    data = backed_up / "d"
    with tarfile.open(backed_up / "b.tar") as good:
        members = {each.name: good.extractfile(each).read() for each in good}  # type: ignore[union-attr]
    members = {name: content for name, content in {**members, **change}.items() if content is not None}
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}

    done = do(data, "--restore", str(archive(folder / "bad.tar", members)), "--replace")

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_a_store_of_another_version_is_neither_restored_nor_backed_up(
    backed_up: Path, folder: Path, version: int
) -> None:
    with tarfile.open(backed_up / "b.tar") as good:
        members = {each.name: good.extractfile(each).read() for each in good}  # type: ignore[union-attr]
    store = members["broker/store.db"]
    assert int.from_bytes(store[60:64], "big") == SCHEMA_VERSION  # where SQLite keeps `user_version`
    members["broker/store.db"] = store[:60] + version.to_bytes(4, "big") + store[64:]
    shutil.copytree(backed_up / "d", folder / "other", ignore=shutil.ignore_patterns("*.ipc"))
    with contextlib.closing(sqlite3.connect(folder / "other/store.db")) as connection:
        connection.execute(f"PRAGMA user_version = {version}")

    restored = do(folder / "new", "--restore", str(archive(folder / "other.tar", members)))
    backed = do(folder / "other", "--backup", str(folder / "b.tar"))

    said = f"expected version {SCHEMA_VERSION} of its tables, got {version}: use the version of Streamfleet"
    for done in (restored, backed):
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (folder / "new/store.db").exists()
    assert not (folder / "b.tar").exists()


async def test_a_backup_that_cannot_be_written_says_why_and_leaves_nothing(folder: Path) -> None:
    data = folder / "d"
    async with serving(data):
        pass
    taken = folder / "taken.tar"
    taken.touch()

    over_a_file = do(data, "--backup", str(taken))
    nowhere = do(data, "--backup", str(folder / "no/b.tar"))
    of_nothing = do(folder / "nothing", "--backup", str(folder / "b.tar"))

    assert [done.returncode for done in (over_a_file, nowhere, of_nothing)] == [1, 1, 1]
    assert "taken.tar exists already" in over_a_file.stderr
    assert "No such file or directory" in nowhere.stderr
    assert "No such file or directory" in of_nothing.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["d", "taken.tar"]


@pytest.mark.parametrize("is_folder", [False, True])
async def test_what_a_killed_backup_left_is_replaced_by_the_next(folder: Path, is_folder: bool) -> None:
    async with serving(folder / "d"):
        pass
    (folder / ".b.tar.draft").write_bytes(b"x" * 1_000_000)
    if is_folder:
        (folder / ".b.tar.store").mkdir()
        (folder / ".b.tar.store/store.db").write_bytes(b"x" * 5000)

    done = do(folder / "d", "--backup", str(folder / "b.tar"))

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["b.tar", "d"]
    assert do(folder / "new", "--restore", str(folder / "b.tar")).returncode == 0


async def test_what_a_killed_restore_left_is_replaced_by_the_next(folder: Path) -> None:
    async with serving(folder / "d"):
        pass
    assert do(folder / "d", "--backup", str(folder / "b.tar")).returncode == 0
    left = folder / "new/.restore/keys/broker.key"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of a secret")

    done = do(folder / "new", "--restore", str(folder / "b.tar"))

    assert done.returncode == 0, done.stderr
    assert not left.parents[1].exists()
    assert "half" not in (folder / "new/keys/broker.key").read_text()


async def test_a_draft_that_is_being_written_is_not_touched(folder: Path) -> None:
    async with serving(folder / "d"):
        pass
    draft = folder / ".b.tar.draft"
    with draft.open("wb") as writing:
        writing.write(b"half")
        writing.flush()
        fcntl.flock(writing, fcntl.LOCK_EX)

        done = do(folder / "d", "--backup", str(folder / "b.tar"))

    assert done.returncode == 1
    assert "another process is writing it" in done.stderr
    assert draft.read_bytes() == b"half"
    assert not (folder / "b.tar").exists()


def test_a_link_in_the_place_of_a_draft_is_not_followed(folder: Path) -> None:
    with running(folder / "d"):
        (folder / "precious").write_bytes(b"mine")
        (folder / ".b.tar.draft").symlink_to("precious")

        done = do(folder / "d", "--backup", str(folder / "b.tar"))

    assert done.returncode == 1
    assert (folder / "precious").read_bytes() == b"mine"


async def test_a_store_that_lost_its_end_is_not_taken_for_a_backup(folder: Path) -> None:
    async with serving(folder / "d"):
        pass
    shutil.copytree(folder / "d", folder / "old", ignore=shutil.ignore_patterns("*.ipc"))
    async with serving(folder / "d"):
        pass
    shutil.copy(folder / "old/store.db", folder / "d/store.db")

    done = do(folder / "d", "--backup", str(folder / "b.tar"))

    assert done.returncode == 1
    assert "its end is lost" in done.stderr
