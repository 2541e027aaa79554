"""A whole fleet on this machine: broker, api and workers as children, started, watched and ended together.

lock the data directory ─▶ broker, api ─▶ a token for each new worker ─▶ workers ─▶ demo ─▶ watch
Ctrl-C or SIGTERM: workers, api, broker, each with a deadline; kill -9: the kernel ends them all
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

import zmq.asyncio

from streamfleet_api.auth import load_token
from streamfleet_api.client import Client
from streamfleet_api.commands import DEFAULT_URL, CommandFailed
from streamfleet_api.demo import MODEL_ID, PIPELINE_ID, demo_model
from streamfleet_api.link import Link
from streamfleet_api.process import dying_with_parent
from streamfleet_broker.protocol.requests import CreatePipeline, PipelineView
from streamfleet_broker.protocol.values import ModelRef, PipelineSpec, SourceSpec

START_TIMEOUT = 20.0  # seconds for broker and api
WORKERS_TIMEOUT = 40.0  # seconds for all workers, which load numpy and OpenCV
DEMO_TIMEOUT = 20.0  # seconds for the demo's first predictions
STOP_TIMEOUT = 3.0  # seconds that a child has to end
FIRST_PAUSE = 0.1  # seconds, doubled at each death in a row, until a child starts again
LONGEST_PAUSE = 2.0  # seconds: whatever kills a broker again and again, the fleet is back within ten
HEALTHY = 10.0  # seconds after which a death counts as the first one
_HTTP_TIMEOUT = 3.0  # seconds; whoever waits for an answer watches nobody meanwhile
MAX_LOG = 10 * 1024**2  # bytes; a log that is larger at a start begins anew
_LONGEST_SOCKET = "workers/local-99/run/publisher-direct.ipc"
_MAX_SOCKET_PATH = 107  # bytes


@dataclass(frozen=True, slots=True)
class Options:
    """What `streamfleet up` is told."""

    data_dir: Path
    workers: int = 1
    host: str = "127.0.0.1"
    port: int = 8080
    devices_port: int = 7771
    relay_in_port: int = 7773
    relay_out_port: int = 7774
    advertise: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    demo: bool = False

    @property
    def url(self) -> str:
        """Where the api is reached from this machine."""
        return f"http://{self._own_host}:{self.port}"

    @property
    def broker_endpoint(self) -> str:
        """Where the broker is reached from this machine."""
        return f"tcp://{self._own_host}:{self.devices_port}"

    @property
    def _own_host(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def broker_dir(self) -> Path:
        """The broker's data directory."""
        return self.data_dir / "broker"

    @property
    def api_dir(self) -> Path:
        """The api's data directory."""
        return self.data_dir / "api"

    def worker_dir(self, device: str) -> Path:
        """A local worker's data directory."""
        return self.data_dir / "workers" / device


class Stopped(Exception):
    """Somebody asked to stop."""


def run(options: Options, show: Callable[[str], None]) -> int:
    """Run the fleet until Ctrl-C or SIGTERM; `show` gets what people should see.

    The exit code. Raises: CommandFailed when it cannot start.
    """
    _check(options)
    options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(options.data_dir), _stop_event() as stop:
        if options.port == 0:
            options = replace(options, port=_free_port(options.host))
        up = Up(options, show, stop)
        try:
            up.start()
            up.watch()
        except Stopped:
            show("stopping …")
        finally:
            up.stop()
    return 0


class Child:
    """One process of the fleet, started again when it dies."""

    def __init__(
        self, name: str, command: list[str], log: Path | None, environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment  # asked at each start: a worker that has no identity needs a token
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started = 0.0
        self._next = 0.0

    def start(self) -> None:
        """Start the process. Raises: CommandFailed, OSError."""
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = None
            if self.log is not None:
                output = stack.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                env={**_inherited(), **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=dying_with_parent(),
            )
        self._started = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    def exit_code(self) -> int | None:
        """How the process ended, None while it runs."""
        return None if self._process is None else self._process.poll()

    def revive(self, now: float) -> str | None:
        """Start the process again when it ended and its back-off is over; a line for people when it ended."""
        code = self.exit_code()
        if code is None and self._process is not None:
            return None
        notice = None
        if self._process is not None:
            self._failures = 1 if now - self._started > HEALTHY else self._failures + 1
            pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
            self._next = now + pause
            self._process = None
            notice = f"{self.name} ended with {code}, starts again in {pause:.1f} s"
        if now >= self._next:
            try:
                self.start()
            except (CommandFailed, OSError) as exc:
                self._next = now + 1.0
                return f"{self.name} cannot start yet: {exc}"
        return notice

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Until it has ended, or the deadline (monotonic) and then SIGKILL for its whole process group."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT)
        self._process = None


class Up:
    """The story of one `streamfleet up`, told in the main thread, which outlives all children."""

    def __init__(self, options: Options, show: Callable[[str], None], stop: threading.Event) -> None:
        self._options = options
        self._show = show
        self._stop = stop
        self._token, self._token_is_new = load_token(options.api_dir / "token")
        self._client = Client(options.url, self._token, timeout=_HTTP_TIMEOUT)
        self._logs = _logs(options.data_dir)
        self._children: list[Child] = []
        self._devices = [f"local-{number}" for number in range(1, options.workers + 1)]

    def start(self) -> None:
        """All processes and the demo. Raises: CommandFailed, Stopped."""
        self._show("starting …")
        self._add("broker", self._broker_command())
        api = self._add("api", self._api_command())
        self._until(lambda: self._answers(api), START_TIMEOUT, "the broker and the api")
        self._forget_strangers()
        for device in self._devices:
            self._add(device, self._worker_command(device), functools.partial(self._join, device))
        self._until(self._workers_ready, WORKERS_TIMEOUT, "the workers")
        rate = self._start_demo() if self._options.demo else None
        self._show(self._screen(rate))

    def watch(self) -> None:
        """Start again what dies. Raises: Stopped."""
        while True:
            self._pause(0.1)
            now = time.monotonic()
            for child in self._children:
                notice = child.revive(now)
                if notice:
                    self._show(notice)

    def stop(self) -> None:
        """End everything, in the order in which each still finds what it needs."""
        workers = [child for child in self._children if child.name in self._devices]
        # Workers first: they say goodbye to a broker that is still there.
        _end(workers)
        _end([child for child in self._children if child.name == "api"])
        _end([child for child in self._children if child.name == "broker"])
        self._client.close()

    # starting ---------------------------------------------------------------------------------------------

    def _add(
        self, name: str, command: list[str], environment: Callable[[], Mapping[str, str]] = dict
    ) -> Child:
        log = self._logs / f"{name}.log" if self._logs else None
        if log is not None and log.exists() and log.stat().st_size > MAX_LOG:
            log.unlink()
        child = Child(name, command, log, environment)
        self._children.append(child)
        child.start()
        return child

    def _answers(self, api: Child) -> bool:
        """Does our api reach our broker? On its port may be the api of another fleet."""
        alive = self._get("/healthz")
        return alive is not None and alive.get("pid") == api.pid and self._get("/v2/devices") is not None

    def _broker_command(self) -> list[str]:
        options = self._options
        command = ["streamfleet_broker", "--data-dir", str(options.broker_dir), "--host", options.host]
        command += ["--devices-port", str(options.devices_port)]
        command += ["--relay-in-port", str(options.relay_in_port)]
        command += ["--relay-out-port", str(options.relay_out_port)]
        command += ["--api-port", str(options.port)]
        for host in options.advertise:
            command += ["--advertise", host]
        return command

    def _api_command(self) -> list[str]:
        options = self._options
        command = ["streamfleet_api", "--data-dir", str(options.api_dir), "--host", options.host]
        command += ["--port", str(options.port)]
        for network in options.trust:
            command += ["--trust", network]
        return command

    def _worker_command(self, device: str) -> list[str]:
        options = self._options
        command = ["streamfleet_worker", "--data-dir", str(options.worker_dir(device))]
        # Its identity says where the broker was when it joined; the port may be another one by now.
        return [*command, "--broker", options.broker_endpoint]

    def _join(self, device: str) -> dict[str, str]:
        """A token in the environment, where `ps` does not show it, for a worker that nobody knows yet."""
        if self._identity(device).exists():
            return {}
        return {"STREAMFLEET_JOIN": self._client.send("POST", "/v2/devices", {"name": device})["token"]}

    def _forget_strangers(self) -> None:
        """A worker whose broker lost its store joins anew. Raises: CommandFailed."""
        known = {entry["device"] for entry in self._client.get("/v2/devices")["devices"]}
        for device in self._devices:
            if device not in known:
                self._identity(device).unlink(missing_ok=True)

    def _identity(self, device: str) -> Path:
        return self._options.worker_dir(device) / "identity.json"

    def _workers_ready(self) -> bool:
        answer = self._get("/v2/devices") or {"devices": []}
        ready = {entry["device"] for entry in answer["devices"] if entry["state"] == "ready"}
        return ready.issuperset(self._devices)

    def _start_demo(self) -> float | None:
        """Register the model, create the pipeline unless it is there, and wait for its rate."""
        content = demo_model()
        digest = hashlib.sha256(content).hexdigest()
        path = self._options.data_dir / "demo.onnx"
        path.write_bytes(content)
        self._client.upload(digest, path)
        model = self._client.send("PUT", f"/v2/models/{MODEL_ID}", {"weights": digest})
        if self._demo() is None:
            asyncio.run(_create_demo(self._options, ModelRef(MODEL_ID, model["digest"])))
        with contextlib.suppress(CommandFailed):
            self._until(lambda: (self._demo() or {}).get("fps"), DEMO_TIMEOUT, "the demo's first predictions")
        rate: float | None = (self._demo() or {}).get("fps")
        return rate

    def _demo(self) -> dict[str, Any] | None:
        answer = self._get("/v2/pipelines") or {"pipelines": []}
        found = [entry for entry in answer["pipelines"] if entry["pipeline_id"] == PIPELINE_ID]
        return found[0] if found else None

    def _get(self, path: str) -> Any:
        with contextlib.suppress(CommandFailed):
            return self._client.get(path)
        return None

    # waiting ----------------------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Raises: CommandFailed at the deadline or when a child ends, Stopped."""
        deadline = time.monotonic() + timeout
        while not condition():
            for child in self._children:
                if child.exit_code() is not None:
                    raise CommandFailed(*self._why(child))
            if time.monotonic() > deadline:
                raise CommandFailed(f"{what} did not get ready within {timeout:g} s", self._where())
            self._pause(0.05)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _why(self, child: Child) -> tuple[str, str]:
        lines = [] if child.log is None else child.log.read_text(errors="replace").splitlines()[-3:]
        return "\n".join([f"{child.name} ended with {child.exit_code()}", *lines]), self._where()

    def _where(self) -> str:
        return f"the logs are in {self._logs}" if self._logs else "its log is above"

    # showing ----------------------------------------------------------------------------------------------

    def _screen(self, rate: float | None) -> str:
        options = self._options
        lines = ["Streamfleet is ready.", "", f"  HTTP       {options.url}"]
        if not _is_loopback(options.host):
            shown = self._token if self._token_is_new else f"kept in {options.api_dir / 'token'}"
            lines.append(f"  token      {shown}")
        lines.append(f"  devices    {', '.join(self._devices) or 'none: streamfleet devices add NAME'}")
        if options.demo:
            text = "starting" if rate is None else f"{rate:.1f} predictions/s"
            lines.append(f"  pipelines  {PIPELINE_ID}: {text}")
        lines.append(f"  data       {options.data_dir}")
        if self._logs:
            lines.append(f"  logs       {self._logs}")
        lines += ["", "in another terminal:"]
        if options.url != DEFAULT_URL:
            lines.append(f"  export STREAMFLEET_URL={options.url}")
        lines += [
            "  streamfleet tail                       predictions as they happen",
            "  streamfleet pipelines                  what runs where",
            "  streamfleet models add ID FILE         your own model",
            "  streamfleet init --model ID --video …  your own camera",
            "",
            "Ctrl-C ends it all.",
        ]
        return "\n".join(lines)


def _inherited() -> dict[str, str]:
    """Our environment, without what children have no need to know."""
    return {name: value for name, value in os.environ.items() if name != "STREAMFLEET_TOKEN"}


def _end(children: list[Child]) -> None:
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + STOP_TIMEOUT
    for child in children:
        child.wait(deadline)


async def _create_demo(options: Options, model: ModelRef) -> None:
    context = zmq.asyncio.Context()
    link = Link(context, f"ipc://{options.broker_dir}/operators.ipc")
    await link.start()
    try:
        spec = PipelineSpec(model, (SourceSpec("TestPatternStreamProducer"),))
        await link.ask(CreatePipeline(PIPELINE_ID, spec), PipelineView)
    finally:
        await link.close()
        context.destroy(linger=0)


def _check(options: Options) -> None:
    """Raises: CommandFailed for what would only fail later, and less clearly."""
    longest = options.data_dir / _LONGEST_SOCKET
    if len(os.fsencode(longest)) > _MAX_SOCKET_PATH:
        room = _MAX_SOCKET_PATH - len(_LONGEST_SOCKET) - 1
        raise CommandFailed(
            f"expected a data directory of at most {room} characters, as unix sockets lie in it; "
            f"came {options.data_dir}",
            "choose a shorter --data-dir",
        )
    missing = [name for name in ("cv2", "onnxruntime") if importlib.util.find_spec(name) is None]
    if options.workers and missing:
        hint = "pip install 'streamfleet[api,worker,cpu]', or run it with --workers 0"
        raise CommandFailed(f"a worker on this machine needs {' and '.join(missing)}", hint)


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    with (data_dir / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            hint = "stop it first, or choose another --data-dir"
            raise CommandFailed(f"another 'streamfleet up' runs on {data_dir}", hint) from exc
        yield


@contextlib.contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _logs(data_dir: Path) -> Path | None:
    """A folder when a person looks at the screen, which stays clear; else the logs go where ours goes."""
    if not sys.stderr.isatty():
        return None
    folder = data_dir / "logs"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
