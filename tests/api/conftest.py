"""The api as a process, in front of a small honest broker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result

from streamfleet.client import LIMITS
from streamfleet.results import Pipeline
from streamfleet_api.cli.main import cli
from streamfleet_api.v2.responses import Pipeline as Answered
from streamfleet_core.protocol.requests import PipelineView
from tests.fakes.broker import Peer
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port


class Api:
    """One `streamfleet-api` process."""

    def __init__(self, folder: Path, peer: Peer, *options: str, module: str = "streamfleet_api") -> None:
        self.folder = folder
        self._peer = peer
        self.log = folder / "api.log"
        self.port, self.manager_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.cache = folder / "cache"
        self._command = [sys.executable, "-m", module, "--data-dir", str(folder / "api")]
        self._command += ["--port", str(self.port), "--manager-port", str(self.manager_port)]
        self._command += ["--broker", peer.endpoint]
        self._command += ["--predictions", peer.predictions, "--pictures", peer.pictures]
        self._command += ["--model-cache-dir", str(self.cache), *options]
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again on the same port."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment())
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, limits=LIMITS, trust_env=False)
        self._starts_of_broker = self._peer.starts
        self._wait()

    def wait_for_follower(self, pipeline_id: str) -> None:
        """Until a client subscribes to this pipeline."""
        self._peer.wait_for_followers(pipeline_id)

    def wait_for_broker(self) -> None:
        """Until it has found a broker again that was away: its requests do not wait for long."""
        if self._starts_of_broker != self._peer.starts:
            until(lambda: self.http.get("/v2/devices").status_code == 200)
            self._starts_of_broker = self._peer.starts
            self._peer.asked.clear()

    @property
    def token(self) -> str:
        """The operator's token."""
        return (self.folder / "api/token").read_text().strip()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                if self.http.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.http.close()
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait(PATIENCE)


class Command:
    """`streamfleet` in front of the api under test."""

    def __init__(self, api: Api) -> None:
        self.options = ["--url", api.url, "--data-dir", str(api.folder)]

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, [*self.options, *arguments])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    def start(
        self,
        *arguments: str,
        stdin: int | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """The same as a process of its own, under way."""
        command = [sys.executable, "-m", "streamfleet_api.cli.main", *self.options, *arguments]
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env={**environment(), "COLUMNS": "80"},
        )

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same as a process of its own."""
        command = [sys.executable, "-m", "streamfleet_api.cli.main", *self.options, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False
        )


def as_client_has_it(view: PipelineView, **changes: Any) -> Pipeline:
    """A pipeline of the broker as a client gets it, with changes of its spec and of the rest."""
    plain = Answered.of(view, None).model_dump(mode="json")
    spec = {name: changes.pop(name) for name in list(changes) if name in plain["spec"]}
    return msgspec.convert({**plain, **changes, "spec": {**plain["spec"], **spec}}, Pipeline)


def until(condition: Callable[[], object], again: Callable[[], None] = lambda: None) -> None:
    """Do this again and again, until that is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        again()
        time.sleep(0.01)


def terminal_text(ours: int) -> str:
    """All that was written to a terminal whose other ends are closed."""
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while piece := terminal.read(4096):
                shown += piece
        except OSError:  # EIO: all has been read
            pass
    return shown.decode()


def environment() -> dict[str, str]:
    """Ours, without what would steer the programs under test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLEET_")}


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def one_peer(short_dir: Path) -> Iterator[Peer]:
    """The broker of the session's api."""
    peer = Peer(short_dir)
    yield peer
    peer.close()


@pytest.fixture(scope="session")
def one_api(short_dir: Path, one_peer: Peer) -> Iterator[Api]:
    """The session's api."""
    api = Api(short_dir, one_peer)
    one_peer.wait_for_subscribers(b"v1/stat/", b"v1/last/")
    yield api
    assert api.stop() == 0
    assert "Traceback" not in api.log.read_text()


@pytest.fixture
def peer(one_peer: Peer) -> Iterator[Peer]:
    """The broker, empty before and after."""
    one_peer.reset()
    yield one_peer
    one_peer.reset()


@pytest.fixture
def api(one_api: Api, peer: Peer) -> Api:
    """The api in front of an empty broker."""
    one_api.wait_for_broker()
    return one_api


@pytest.fixture
def nothing_listed(api: Api, peer: Peer) -> None:
    """No list of an earlier test: for half a second the api shares one, unless it changes something."""
    assert api.http.post("/terminate/nobody").status_code == 404
    peer.asked.clear()


@pytest.fixture
def http(api: Api) -> httpx.Client:
    """A client of it."""
    return api.http


@pytest.fixture
def run(api: Api) -> Command:
    """Runs one command."""
    return Command(api)
