"""A PostgreSQL of the tests' own, from the packages of Debian: in a folder of its own, as no other user's."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port, short_folder

USER = "streamfleet"
_NAMES = itertools.count(1)  # of databases
_IS_SYNCHRONOUS = """
SELECT 1 FROM pg_stat_replication
    WHERE sync_state = 'sync' AND current_setting('synchronous_commit') = 'remote_apply'
"""


@dataclass
class Cluster:
    """A running server. It listens on a unix socket and on the loopback address."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)
    binaries: Path

    def url(self, database: str, *, port: int | None = None) -> str:
        """The URL of a database; with a port, over TCP and through what listens there."""
        if port is not None:
            return f"postgresql://{USER}@127.0.0.1:{port}/{database}"
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={self.port}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of a test's own."""
        return psycopg.connect(self.url(database), autocommit=True)

    def new_database(self, options: str = "") -> str:
        """The name of a database that is empty."""
        name = f"t{next(_NAMES)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return name

    @contextmanager
    def with_standby(self) -> Iterator[Cluster]:
        """A second server, which has applied each commit before this one answers it."""
        data, port, user = self.folder / "standby", free_port(), _user()
        source = ["-h", str(self.folder), "-p", str(self.port), "-U", USER]
        copied = [str(self.binaries / "pg_basebackup"), *source, "-D", str(data), "-R", "--checkpoint=fast"]
        _run([*copied, "--no-sync"], user)
        with _started(self.binaries, self.folder, data, port, user) as standby, self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
            connection.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + PATIENCE
            while not connection.execute(_IS_SYNCHRONOUS).fetchall():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield standby

    def promote(self) -> None:
        """Make a standby the primary."""
        with self.connect() as connection:
            assert connection.execute("SELECT pg_promote(true, %s)", (PATIENCE,)).fetchone() == (True,)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A new server; the test is skipped without PostgreSQL."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("there is no PostgreSQL: run 'make debian'")
    with short_folder() as folder:
        data, port, user = folder / "data", free_port(), _user()
        if user is not None:
            shutil.chown(folder, user)
        made = [
            str(binaries / "initdb"),
            "--no-sync",
            "--auth=trust",
            f"--username={USER}",
            "--encoding=UTF8",
        ]
        _run([*made, "--locale=C.UTF-8", "--pgdata", str(data)], user)
        with _started(binaries, folder, data, port, user) as cluster:
            yield cluster


@contextmanager
def _started(binaries: Path, folder: Path, data: Path, port: int, user: str | None) -> Iterator[Cluster]:
    options = ["-D", str(data), "-k", str(folder), "-h", "127.0.0.1", "-p", str(port)]
    with (folder / f"log-{port}").open("wb") as log:
        process = subprocess.Popen(
            [str(binaries / "postgres"), *options], stdout=log, stderr=log, cwd="/", user=user
        )
    cluster = Cluster(folder, port, process, binaries)
    try:
        _await(cluster)
        yield cluster
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        process.wait(PATIENCE)


def _binaries() -> Path | None:
    """The folder of the programs: Debian has only some of them in the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def _user() -> str | None:
    """The user that runs the server, which refuses to be root's; None: this one."""
    if os.geteuid():
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _run(command: list[str], user: str | None) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", user=user, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _await(cluster: Cluster) -> None:
    """Wait until it takes connections."""
    deadline = time.monotonic() + PATIENCE
    while not _takes_connections(cluster):
        log = (cluster.folder / f"log-{cluster.port}").read_text()
        assert cluster.process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)


def _takes_connections(cluster: Cluster) -> bool:
    try:
        cluster.connect().close()
    except psycopg.OperationalError:
        return False
    return True
