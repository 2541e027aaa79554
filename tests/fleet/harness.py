"""A whole fleet as users start it, and receivers as users write them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
import msgpack
import zmq

from streamfleet_core.protocol.data_plane import DataHeader, split
from tests.fakes.datagrams import Datagrams
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_ports

MARK = "STREAMFLEET_TEST_MARK"
BIN = Path(sys.executable).parent
READY = "Streamfleet is ready."  # what `up` prints when all of it has started
T = TypeVar("T")

# Seconds that are waited for what a fleet must do. The first pipeline of a worker loads much, and another
# fleet may do so at the same time on the same two cores.
LOADING = 2 * PATIENCE
LIMIT = 3 * LOADING  # seconds for a whole test


def wait_for(
    condition: Callable[[], T | None],
    what: str | Callable[[], str],
    *,
    timeout: float = LOADING,
    every: float = 0.05,
) -> T:
    """The first true value of a condition. Raises: AssertionError that says what did not come."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout} s: {text}")
        time.sleep(every)


class Fleet:
    """`streamfleet up`, with its home in a folder of its own."""

    def __init__(self, home: Path, *options: str, workers: int = 1, prefix: list[str] | None = None) -> None:
        self.home = home
        self.prefix = prefix or []  # puts a command on another host
        self.data = home / ".streamfleet"
        self.mark = uuid.uuid4().hex
        self.log_path = home / "up.log"
        names = (
            "--devices-port",
            "--relay-in-port",
            "--relay-out-port",
            "--pictures-in-port",
            "--pictures-out-port",
        )
        self.port, self.manager_port, *self.broker_ports = free_ports(2 + len(names))
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            *self.prefix,
            str(BIN / "streamfleet"),
            "up",
            *("--workers", str(workers)),
            *("--port", str(self.port)),
            *("--manager-port", str(self.manager_port)),
            *(f"{name}={number}" for name, number in zip(names, self.broker_ports, strict=True)),
            *options,
        ]
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("STREAMFLEET_", "OPENCV_"))
            },
            "HOME": str(home),
            "STREAMFLEET_URL": self.url,
            "NO_COLOR": "1",
            MARK: self.mark,
        }
        self.process: subprocess.Popen[bytes] | None = None
        # A connection for each request: an api that stood still hangs up on an idle one just when it is used.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, limits=limits, trust_env=False)

    def start(self, *, timeout: float = LOADING + PATIENCE) -> Fleet:
        """Start it and wait until it says that it is ready: with all of its workers, and with the demo."""
        before = self._times_ready()
        self.launch()

        def said() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            return self._times_ready() > before

        wait_for(said, lambda: f"ready\n{self.log()}", timeout=timeout)
        wait_for(self.ready, lambda: f"ready\n{self.log()}")
        return self

    def _times_ready(self) -> int:
        return self.log().count(READY) if self.log_path.exists() else 0

    def launch(self) -> None:
        """Start it and wait for nothing."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> bool:
        """Does `GET /readyz` answer 200: do api and broker answer, and is a device ready?"""
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        if self.prefix:
            return self.cli("pipelines", check=False).returncode == 0
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """All that the fleet printed."""
        return self.log_path.read_text(errors="replace")

    def cli(
        self, *arguments: str, check: bool = True, timeout: float = LOADING
    ) -> subprocess.CompletedProcess[str]:
        """Run `streamfleet` against this fleet."""
        done = subprocess.run(
            [*self.prefix, str(BIN / "streamfleet"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def add_model(self, model_id: str, file: Path, *options: str) -> None:
        """`streamfleet models add`."""
        self.cli("models", "add", model_id, str(file), *options)

    def initialise(self, video: str, model_id: str, port: int = 9, **extra: Any) -> str:
        """`POST /initialise`: the new pipeline's id."""
        answer = self.http.post(
            "/initialise",
            json={
                "video_reference": video,
                "model_id": model_id,
                "sink_configuration": {"type": "udp_sink", "host": "127.0.0.1", "port": port},
                **extra,
            },
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["context"]["pipeline_id"])

    def command_pipeline(self, verb: str, pipeline_id: str) -> httpx.Response:
        """`POST /pause`, `/resume` or `/terminate`."""
        return self.http.post(f"/{verb}/{pipeline_id}")

    def hasten(self, pipeline_id: str) -> None:
        """Play a film as fast as it goes, which was slow until now so that a test missed nothing of it."""
        answer = self.http.patch(f"/v2/pipelines/{pipeline_id}", json={"max_fps": None})
        assert answer.is_success, answer.text

    def pipelines(self) -> list[str]:
        """`GET /list_pipelines`."""
        answer = self.http.get("/list_pipelines")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["pipelines"])

    def report(self, pipeline_id: str) -> dict[str, Any]:
        """The report of `GET /status`."""
        answer = self.http.get(f"/status/{pipeline_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["report"])

    def terminate_all(self) -> None:
        """End every pipeline."""
        for pipeline_id in self.pipelines():
            self.command_pipeline("terminate", pipeline_id)

    def pids(self, name: str | None = None) -> list[int]:
        """The living processes of this fleet whose name begins so: `camera`, `engine`, `sf-broker`, …"""
        return [pid for pid in marked_processes(self.mark) if process_name(pid).startswith(name or "")]

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one process whose name begins so."""

        def sent() -> int | None:
            for pid in self.pids(name):
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(pid, number)
                    return pid
            return None

        return wait_for(sent, lambda: f"a process {name}; there are {self.names()}")

    def kill_all(self, name: str) -> None:
        """Kill every process whose name begins so."""
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGKILL)

    def names(self) -> list[str]:
        """The names of the living processes."""
        return sorted(process_name(pid) for pid in self.pids())

    def stop(self) -> None:
        """Ctrl-C, then whatever it takes."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
        self.kill_all("")
        self.http.close()


def unwind_on_sigterm() -> None:
    """End by an exception at SIGTERM, as at Ctrl-C, so that no fleet is left behind.

    Only the first one counts: `timeout` sends one to the process and another to its group, and the second
    would interrupt the end of what was started.
    """

    def unwind(number: int, _frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)


def marked_processes(mark: str, *, variable: str = MARK) -> list[int]:
    """Every process that inherited this mark in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if (
                f"{variable}={mark}".encode() in (folder / "environ").read_bytes()
                and state(int(folder.name)) != "Z"
            ):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def process_name(pid: int) -> str:
    """The kernel's name of a process, at most 15 characters."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def state(pid: int) -> str:
    """The kernel's letter for a process's state; Z has ended already."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class UdpReceiver:
    """Collects the datagrams of a sink."""

    def __init__(self) -> None:
        self._datagrams = Datagrams()
        self.port = self._datagrams.port
        self._messages: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that was sent until now."""
        self._datagrams.settle()
        new = self._datagrams.kept[len(self._messages) :]
        self._messages += map(json.loads, new)
        return list(self._messages)

    def frame_ids(self) -> list[int]:
        """In the order of their coming."""
        return [message["inference_metadata"]["frame_id"] for message in self.messages]

    def wait_for(self, count: int, *, timeout: float = LOADING) -> None:
        """Until that many datagrams have come."""
        wait_for(
            lambda: len(self._datagrams.kept) >= count,
            lambda: f"{count} datagrams, {len(self._datagrams.kept)} came",
            timeout=timeout,
        )

    def close(self) -> None:
        """Stop collecting."""
        self._datagrams.close()


class Subscriber:
    """Collects what a SUB socket receives."""

    def __init__(
        self, endpoint: str, topic: str = "v1/pred/", *, curve: tuple[bytes, bytes, bytes] | None = None
    ) -> None:
        self.received: list[tuple[str, DataHeader, dict[str, Any]]] = []
        self._connected = threading.Event()
        self._context = zmq.Context()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(endpoint, topic, curve), name="subscriber")
        self._thread.start()

    def _run(self, endpoint: str, topic: str, curve: tuple[bytes, bytes, bytes] | None) -> None:
        with self._context.socket(zmq.SUB) as subscription:
            subscription.linger = 0
            subscription.rcvhwm = 100_000
            if curve is not None:
                subscription.curve_serverkey, subscription.curve_publickey, subscription.curve_secretkey = (
                    curve
                )
            subscription.connect(endpoint)
            subscription.subscribe(topic)
            subscription.subscribe("v1/stat/@")  # comes each second: who hears it hears all
            while not self._closing.is_set():
                if subscription.poll(100):
                    subject, header, body = split(subscription.recv_multipart())
                    if subject.startswith("@"):
                        self._connected.set()
                    else:
                        self.received.append((subject, header, msgpack.unpackb(body)))

    def await_connection(self) -> None:
        """Until its subscription has reached a device: what is published from now on comes."""
        assert self._connected.wait(PATIENCE), "a device's status"

    def of(self, pipeline_id: str) -> list[tuple[DataHeader, dict[str, Any]]]:
        """What came of one pipeline."""
        return [(header, body) for subject, header, body in list(self.received) if subject == pipeline_id]

    def keys(self, pipeline_id: str) -> list[tuple[int, int, int]]:
        """The order keys of one pipeline, as they came."""
        return [header.key for header, _ in self.of(pipeline_id)]

    def wait_for(self, pipeline_id: str, count: int, *, timeout: float = LOADING) -> None:
        """Until that many messages of a pipeline have come."""
        wait_for(
            lambda: len(self.of(pipeline_id)) >= count,
            lambda: f"{count} messages of {pipeline_id}, {len(self.of(pipeline_id))} came",
            timeout=timeout,
        )

    def close(self) -> None:
        """Stop collecting."""
        self._closing.set()
        self._thread.join(PATIENCE)
        self._context.destroy(linger=0)


def rises(keys: list[tuple[int, int, int]]) -> bool:
    """Is every key greater than the one before it?"""
    return all(earlier < later for earlier, later in itertools.pairwise(keys))
