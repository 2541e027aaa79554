"""`streamfleet up` with the real broker: what dies is started again, and at its end nothing is left."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamfleet_api.local.options import joined_before, workers_for
from streamfleet_api.local.startup_banner import program_name
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.runtime.pinned_tls import PinnedContext
from tests.api.conftest import environment
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port, open_to_others

BIN = Path(sys.executable).parent


class Fleet:
    """`streamfleet up` without workers, as a process."""

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, here: Path | None = None, **variables: str
    ) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.port = port or free_port()
        command = [str(BIN / "streamfleet"), "up", "--data-dir", str(folder / "d")]
        command += ["--workers", "0", "--port", str(self.port)]
        for name in ("manager", "devices", "relay-in", "relay-out", "pictures-in", "pictures-out"):
            command += [f"--{name}-port", str(free_port())]
        command += options  # the last one counts
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=here, env={**environment(), **variables}
            )

    def text(self) -> str:
        """All that it printed."""
        return self.log.read_text(errors="replace")  # of what is written now, perhaps half a letter

    def children(self) -> dict[str, int]:
        """Kernel's name to pid of the living processes that this one started."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in path.read_text().split()] if path.exists() else []
        found = {}
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                found[Path(f"/proc/{pid}/comm").read_text().strip()] = pid
        return {name: pid for name, pid in found.items() if alive(pid)}

    def answers(self) -> bool:
        """Does the api reach the broker?"""
        try:
            return httpx.get(
                f"http://127.0.0.1:{self.port}/v2/devices", timeout=PATIENCE, trust_env=False
            ).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """SIGTERM, and SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait(PATIENCE)


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], fleet: Fleet) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, fleet.text()
        time.sleep(0.02)


Start = Callable[..., Fleet]


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    """Starts fleets, each in a folder of its own unless told otherwise, and ends them."""
    started: list[Fleet] = []
    folder = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))

    def make(*options: str, **settings: Any) -> Fleet:
        where = settings.pop("folder", folder / str(len(started)))
        where.mkdir(parents=True, exist_ok=True)
        blocked = settings.pop("blocked", None)  # a path on which a file lies already
        if blocked is not None:
            (where / blocked).parent.mkdir(parents=True)
            (where / blocked).touch()
        started.append(Fleet(where, *options, **settings))
        return started[-1]

    try:
        yield make
    finally:
        for fleet in started:
            fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Start]:
    """For fleets of one test."""
    with starting() as start:
        yield start


@pytest.fixture(scope="module")
def standing() -> Iterator[Fleet]:
    """One that no test changes, started where all may read everything and may open half of the files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with starting() as start:
        before = os.umask(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
        try:
            fleet = ready(start())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.umask(before)
        yield fleet


@dataclass(frozen=True)
class Twice:
    """One for other machines, which was ended and started again."""

    shown: str  # the first time
    line: str  # a token that it gave to a device then
    by_name: int  # status, to who asked for an address that it advertises
    fleet: Fleet  # the second one

    @property
    def api(self) -> Path:
        return self.fleet.folder / "d/api"


@pytest.fixture(scope="module")
def twice() -> Iterator[Twice]:
    options = ("--host", "0.0.0.0", "--advertise", "10.1.2.3", "--advertise", "edge.example")
    with starting() as start:
        first = ready(start(*options))
        pin = PinnedContext((first.folder / "d/api/fingerprint").read_text())
        url = f"https://127.0.0.1:{first.port}"
        with httpx.Client(base_url=url, verify=pin, timeout=PATIENCE, trust_env=False) as client:
            line = client.post("/v2/devices", json={"name": "edge"}).json()["token"]
            by_name = client.get("/v2/devices", headers={"host": "10.1.2.3"}).status_code
        shown = first.text()
        first.stop()
        first.log.unlink()
        second = start(*options, folder=first.folder)
        yield Twice(shown, line, by_name, ready(second))


@pytest.fixture
def fleet(start: Start) -> Fleet:
    """One that is ready."""
    return ready(start())


def ready(fleet: Fleet) -> Fleet:
    """Wait until it says so."""
    until(lambda: "Streamfleet is ready." in fleet.text(), fleet)
    return fleet


def test_what_dies_is_started_again(fleet: Fleet) -> None:
    def is_another(name: str, killed: int) -> bool:
        return fleet.children().get(name, killed) != killed

    for name in ("sf-api", "sf-broker"):
        killed = fleet.children()[name]
        os.kill(killed, signal.SIGKILL)
        until(partial(is_another, name, killed), fleet)
        until(fleet.answers, fleet)

    assert re.search(r"^\d\d:\d\d:\d\d api was killed \(SIGKILL\), restarts in \d", fleet.text(), re.M)


def test_nobody_else_may_read_what_a_fleet_creates(standing: Fleet) -> None:
    assert (standing.folder / "d/broker/store.db").exists()
    assert open_to_others(standing.folder / "d") == []


def test_what_dies_is_among_the_events(fleet: Fleet) -> None:
    for name in ("sf-broker", "sf-api"):  # a broker begins with no events
        os.kill(fleet.children()[name], signal.SIGKILL)
    told: dict[str, str] = {}

    def both_are_told() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(
                f"http://127.0.0.1:{fleet.port}/v2/events/recent", timeout=PATIENCE, trust_env=False
            )
            if answer.is_success:
                events = [each for each in answer.json()["events"] if each["subject"] == "process"]
                told.update({each["id"]: f"{each['state']}: {each['reason']}" for each in events})
        return told.keys() == {"api", "broker"}

    until(both_are_told, fleet)
    assert all(
        re.fullmatch(r"restarting: was killed \(SIGKILL\), restarts in .*", text) for text in told.values()
    )


def test_every_process_may_open_as_many_files_as_the_kernel_allows(standing: Fleet) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    for name, pid in {"up": standing.process.pid, **standing.children()}.items():
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard), name


def test_no_program_in_the_folder_one_stands_in_is_run(start: Start, short_dir: Path) -> None:
    here = short_dir / "here"
    here.mkdir()
    for name in ("types", "msgpack", "zmq"):
        (here / f"{name}.py").write_text("raise SystemExit(f'{__file__} was run')")

    fleet = ready(start("--data-dir", "data", here=here, MODEL_CACHE_DIR="models"))

    assert "was run" not in fleet.text()
    for pid in fleet.children().values():
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    # What was given as seen from that folder is meant there all the same.
    assert (here / "data/api/token").exists()
    variables = Path(f"/proc/{fleet.children()['sf-api']}/environ").read_text().split("\0")
    assert f"MODEL_CACHE_DIR={here}/models" in variables


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_ends(fleet: Fleet, number: int) -> None:
    pids = fleet.children().values()
    assert len(pids) == 2

    fleet.process.send_signal(number)

    until(lambda: not any(map(alive, pids)), fleet)
    assert fleet.process.wait(PATIENCE) == (-number if number == signal.SIGKILL else 0)
    assert "Traceback" not in fleet.text()


def test_a_stop_that_is_asked_for_again_and_again_is_one_stop(fleet: Fleet) -> None:
    while fleet.process.poll() is None:  # to its very end
        for number in (signal.SIGTERM, signal.SIGINT):
            fleet.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            fleet.process.wait(0.001)

    assert fleet.process.returncode == 0


def test_a_stop_among_requests_is_clean(fleet: Fleet) -> None:
    answered = threading.Barrier(3)
    asked = [threading.Thread(target=ask_until_the_end, args=(fleet, answered)) for _ in range(2)]
    for thread in asked:
        thread.start()
    answered.wait(PATIENCE)

    fleet.process.terminate()

    assert fleet.process.wait(PATIENCE) == 0
    for thread in asked:
        thread.join(PATIENCE)
    assert "Traceback" not in fleet.text()
    assert "ERROR" not in fleet.text()


def ask_until_the_end(fleet: Fleet, answered: threading.Barrier) -> None:
    """One question after the other, which the broker must answer, until nobody listens."""
    url = f"http://127.0.0.1:{fleet.port}/v2/devices"
    with httpx.Client(timeout=PATIENCE, trust_env=False) as http, contextlib.suppress(httpx.TransportError):
        http.get(url)
        answered.wait(PATIENCE)
        while True:
            http.get(url)


def test_two_on_one_data_directory_are_told_apart(fleet: Fleet, start: Start) -> None:
    second = start(folder=fleet.folder)

    assert second.process.wait(PATIENCE) == 1
    assert "another 'streamfleet up' runs on" in fleet.text()
    assert "--data-dir" in fleet.text()
    assert fleet.answers()


def test_all_taken_ports_are_named_by_their_options_and_nothing_is_left(start: Start) -> None:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        http, manager, devices, relay, pictures = (each.getsockname()[1] for each in taken)

        fleet = start(
            *("--manager-port", str(manager)),
            *("--devices-port", str(devices)),
            *("--relay-in-port", str(relay)),
            *("--pictures-out-port", str(pictures)),
            port=http,
        )

        assert fleet.process.wait(PATIENCE) == 1
    named = (
        f"--port {http}, --manager-port {manager}, --devices-port {devices}, --relay-in-port {relay} and "
        f"--pictures-out-port {pictures}"
    )
    assert f"{named} are taken" in fleet.text()
    assert not fleet.children()


def test_an_option_counts_more_than_the_originals_environment(start: Start) -> None:
    port = free_port()

    fleet = start("--manager-port", "0", PORT=str(port), STREAM_MANAGER_PORT=str(port))
    ready(fleet)

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_our_own_names_in_the_environment_count_more_than_the_originals(start: Start) -> None:
    fleet = start(STREAMFLEET_HOST="192.0.2.1", STREAM_MANAGEMENT_API_HOST="127.0.0.1")

    assert fleet.process.wait(PATIENCE) == 1
    assert fleet.text().splitlines() == ["error: --host 192.0.2.1: Cannot assign requested address"]


def test_an_address_of_another_machine_is_refused_by_its_option(start: Start) -> None:
    fleet = start("--host", "192.0.2.1")

    assert fleet.process.wait(PATIENCE) == 1
    assert fleet.text().splitlines() == ["error: --host 192.0.2.1: Cannot assign requested address"]


def test_a_data_directory_that_cannot_be_made_is_one_line_with_its_option(start: Start) -> None:
    fleet = start("--data-dir", "/proc/nope")

    assert fleet.process.wait(PATIENCE) == 1
    assert fleet.text().splitlines() == ["error: --data-dir /proc/nope: No such file or directory"]


def test_a_file_in_the_way_is_one_line_with_its_name(start: Start) -> None:
    fleet = start(blocked="d/api")

    assert fleet.process.wait(PATIENCE) == 1
    path = fleet.folder / "d/api"
    assert "Traceback" not in fleet.text()
    assert f"error: --data-dir {fleet.folder / 'd'}: {path}" in fleet.text()


def test_a_long_data_directory_is_refused_at_once(start: Start, short_dir: Path) -> None:
    fleet = start(folder=short_dir / ("x" * 80))

    assert fleet.process.wait(PATIENCE) == 1
    assert re.search(r"--data-dir .*: the path is \d+ bytes too long .*, \d+ are possible", fleet.text())
    assert "shorter --data-dir" in fleet.text()


def test_a_data_directory_that_is_no_text_is_refused(start: Start, short_dir: Path) -> None:
    fleet = start("--data-dir", os.fsdecode(os.fsencode(short_dir) + b"/caf\xe9"))

    assert fleet.process.wait(PATIENCE) == 1
    assert "its name is not UTF-8" in fleet.text()
    assert "Traceback" not in fleet.text()


def test_beyond_this_host_the_token_is_demanded_and_shown_once(twice: Twice) -> None:
    token = (twice.api / "token").read_text().strip()

    assert token in twice.shown
    assert token not in twice.fleet.text()
    assert "d/api/token" in twice.fleet.text()


def test_the_screen_tells_the_addresses_that_others_use(twice: Twice) -> None:
    assert f"http://127.0.0.1:{twice.fleet.port}\n" in twice.fleet.text()
    for host in ("10.1.2.3", "edge.example"):
        assert f"https://{host}:{twice.fleet.port}  from other machines" in twice.fleet.text()


def test_beyond_this_host_it_serves_tls_by_a_certificate_of_its_own_which_join_tokens_pin(
    twice: Twice,
) -> None:
    pin = (twice.api / "fingerprint").read_text()

    assert f"STREAMFLEET_FINGERPRINT={pin}" in twice.shown
    assert JoinToken.decode(twice.line).api_fingerprint == pin  # the same one after the restart
    assert twice.by_name == 200
    assert stat.S_IMODE((twice.api / "tls-key.pem").stat().st_mode) == 0o600


def test_on_this_host_alone_it_has_no_certificate_and_tokens_pin_none(standing: Fleet) -> None:
    url = f"http://127.0.0.1:{standing.port}"
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        line = client.post("/v2/devices", json={"name": "edge"}).json()["token"]

    assert JoinToken.decode(line).api_fingerprint == ""
    assert not (standing.folder / "d/api/fingerprint").exists()


def test_a_token_file_that_nobody_could_use_starts_nothing(start: Start) -> None:
    fleet = start(blocked="d/api/token")  # an empty file
    (fleet.folder / "d/api/token").chmod(0o600)

    assert fleet.process.wait(PATIENCE) == 1
    assert re.search(
        r"^error: expected .*/d/api/token to hold one token of 16 .*, got an empty file", fleet.text()
    )


@pytest.mark.parametrize(
    ("joined", "at_least", "workers"),
    [
        ([], 1, 1),
        (["local-1"], 2, 2),
        (["local-2", "local-1"], 1, 2),
        (["local-3"], 1, 3),  # the others were removed: its number is its name
        (["local-99", "local-x", "local-0", "edge-7"], 1, 64),
        (["local-x", "local-0", "edge-7"], 1, 1),
    ],
)
def test_all_local_workers_that_joined_are_there_again(
    joined: list[str], at_least: int, workers: int
) -> None:
    assert workers_for(joined, at_least=at_least) == workers


def test_a_local_worker_has_joined_when_it_has_an_identity(tmp_path: Path) -> None:
    assert joined_before(tmp_path / "new") == []
    for name in ("local-1", "local-2"):
        (tmp_path / "workers" / name).mkdir(parents=True)
    (tmp_path / "workers/local-2/identity.json").touch()

    assert joined_before(tmp_path) == ["local-2"]


@pytest.mark.parametrize(
    ("path", "folder", "typed"),
    [(BIN, "/", "streamfleet"), ("", BIN.parent, f"{BIN.name}/streamfleet"), ("", BIN, "./streamfleet")],
)
def test_the_program_is_shown_as_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, path: Path | str, folder: Path | str, typed: str
) -> None:
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.chdir(folder)

    assert program_name() == typed
