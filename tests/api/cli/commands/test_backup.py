"""`streamfleet backup` and `restore`: from a running fleet to another data directory."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import tarfile
from pathlib import Path

import httpx

from tests.api.conftest import environment
from tests.api.local.test_up import BIN, Fleet, Start, ready, start
from tests.fakes.broker_clients import serving
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import open_to_others, short_folder

__all__ = ["start"]


def run(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command about a data directory."""
    command = [str(BIN / "streamfleet"), "--data-dir", str(data), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=PATIENCE, check=False
    )


def get(fleet: Fleet, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{fleet.port}{path}", timeout=PATIENCE, trust_env=False)


def test_a_running_fleet_is_backed_up_and_runs_again_elsewhere(start: Start) -> None:
    fleet = ready(start())
    data, new = fleet.folder / "d", fleet.folder / "Prüfstand 検/d"
    content = b"a model" * 1000
    digest = hashlib.sha256(content).hexdigest()
    url = f"http://127.0.0.1:{fleet.port}"
    assert httpx.put(
        f"{url}/v2/blobs/{digest}", content=content, timeout=PATIENCE, trust_env=False
    ).is_success
    (data / "api/samples/parts").mkdir(parents=True, exist_ok=True)
    (data / "api/samples/parts/x.jpg").write_bytes(b"picture")

    made = run(data, "backup", str(fleet.folder / "b.tar"))
    small = run(data, "backup", str(fleet.folder / "small.tar"), "--without-models")
    again = run(data, "backup", str(fleet.folder / "b.tar"))
    over_running = run(data, "restore", str(fleet.folder / "b.tar"), "--replace")

    assert (made.returncode, small.returncode) == (0, 0), made.stderr
    assert "exists already" in again.stderr
    assert "another 'streamfleet up' runs" in over_running.stderr
    with tarfile.open(fleet.folder / "b.tar") as archive:
        names = set(archive.getnames())
    assert {"broker/store.db", "broker/keys/broker.key", "api/token", f"api/blobs/{digest}"} <= names
    assert not any("samples" in name for name in names)
    with tarfile.open(fleet.folder / "small.tar") as archive:
        assert set(archive.getnames()) == names - {f"api/blobs/{digest}"}

    done = run(new, "restore", str(fleet.folder / "b.tar"))
    assert done.returncode == 0, done.stderr
    over_a_fleet = run(new, "restore", str(fleet.folder / "b.tar"))
    assert "holds a fleet already" in over_a_fleet.stderr
    replaced = run(new, "restore", str(fleet.folder / "b.tar"), "--replace")
    assert replaced.returncode == 0, replaced.stderr
    assert (new / "api/token").read_text() == (data / "api/token").read_text()
    [aside] = new.glob("api-replaced-*")
    assert (aside / "token").exists()
    other = ready(start(folder=new.parent))
    assert get(other, f"/v2/blobs/{digest}").content == content
    assert open_to_others(new) == []


def test_what_is_no_backup_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(b"nothing" * 500)

    bad = run(tmp_path / "d", "restore", str(tmp_path / "b.tar"))
    missing = run(tmp_path / "d", "restore", str(tmp_path / "c.tar"))
    nothing = run(tmp_path / "e", "backup", str(tmp_path / "d.tar"))

    for done in (bad, missing, nothing):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
    assert "expected a backup" in bad.stderr
    assert "there is no broker" in nothing.stderr


async def test_what_a_killed_backup_left_is_replaced_and_one_under_way_is_not_touched() -> None:
    with short_folder() as folder:
        async with serving(folder / "d/broker"):
            pass
        for name in (".b.tar.draft", ".b.tar.part", "..b.tar.part.draft"):
            (folder / name).write_bytes(b"half")

        with (folder / ".b.tar.draft").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            refused = run(folder / "d", "backup", str(folder / "b.tar"))
        assert refused.returncode == 1
        assert "b.tar: another process is writing it" in refused.stderr
        assert (folder / ".b.tar.part").read_bytes() == b"half"

        made = run(folder / "d", "backup", str(folder / "b.tar"))

        assert made.returncode == 0, made.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["b.tar", "d"]
