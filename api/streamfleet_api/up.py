"""A whole fleet on this machine: broker, api and workers as children, started, watched and ended together.

lock the data directory ─▶ broker, api ─▶ a token for each new worker ─▶ workers ─▶ demo ─▶ watch
Ctrl-C or SIGTERM: api, broker, workers, each with a deadline; kill -9: the kernel ends them all
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import zmq.asyncio

from streamfleet_api import preflight
from streamfleet_api.auth import load_token
from streamfleet_api.child import Child, end
from streamfleet_api.client import Client
from streamfleet_api.commands import CommandFailed
from streamfleet_api.demo import CAMERAS, MODEL_ID, conveyor_model
from streamfleet_api.link import Link
from streamfleet_api.options import Options
from streamfleet_api.patience import Patience
from streamfleet_api.probe import Probe
from streamfleet_api.screen import screen
from streamfleet_broker.protocol.keyfile import KeyExposed
from streamfleet_broker.protocol.requests import CreatePipeline, PipelineView
from streamfleet_broker.protocol.values import ModelRef, PipelineSpec, SourceSpec

__all__ = ["Options", "run"]

START_TIMEOUT = 20.0  # seconds for broker and api
WORKERS_TIMEOUT = 40.0  # seconds for all workers, which load numpy and OpenCV
DEMO_TIMEOUT = 20.0  # seconds for the demo's first predictions
STOP_TIMEOUTS = {"api": 1.5, "broker": 0.8, "workers": 2.5}  # seconds to end, within five in all
_HTTP_TIMEOUT = 3.0  # seconds; whoever waits for an answer watches nobody meanwhile
MAX_LOG = 10 * 1024**2  # bytes; a log that is larger at a start begins anew


class Stopped(Exception):
    """Somebody asked to stop."""


def run(options: Options, show: Callable[[str], None]) -> int:
    """Run the fleet until Ctrl-C or SIGTERM; `show` gets what people should see.

    The exit code. Raises: CommandFailed when it cannot start.
    """
    preflight.check(options)
    with preflight.locked(options.data_dir), _stop_signal() as stop:
        if options.port == 0:
            options = replace(options, port=preflight.free_port(options.host))
        preflight.check_ports(options.host, options.ports)
        with _explained(options.data_dir):
            up = Up(options, show, stop)
        try:
            with _explained(options.data_dir):
                up.start()
            up.watch()
        except Stopped:
            show("stopping …")
        finally:
            up.stop()
    return 0


class Up:
    """The story of one `streamfleet up`, told in the main thread, which outlives all children."""

    def __init__(self, options: Options, show: Callable[[str], None], stop: StopSignal) -> None:
        self._options = options
        self._show = show
        self._stop = stop
        self._token, self._token_is_new = load_token(options.api_dir / "token")
        self._client = Client(options.url, self._token, timeout=_HTTP_TIMEOUT)
        self._probe = Probe(options.url, self._token)
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
        playing = self._options.demo and self._start_demo()
        token = self._token if self._token_is_new else None
        self._show(screen(self._options, self._devices, token=token, playing=playing, logs=self._logs))

    def watch(self) -> None:
        """Start again what dies, and kill what hangs, so that it dies. Raises: Stopped."""
        patience = Patience()
        self._probe.start()
        while True:
            self._pause(0.1)
            for look in self._probe.looks():
                started = {each.name: each.started for each in self._children if each.started is not None}
                self._kill(patience.see(look, started))
            for child in self._children:
                notice = child.revive(time.monotonic())
                if notice:
                    self._tell(notice)

    def stop(self) -> None:
        """End everything, in the order in which nothing is moved."""
        # The api before the broker, which still answers the requests under way. The workers last: a broker
        # that hears their goodbyes gives their streams to other devices.
        end([child for child in self._children if child.name == "api"], STOP_TIMEOUTS["api"])
        end([child for child in self._children if child.name == "broker"], STOP_TIMEOUTS["broker"])
        end([child for child in self._children if child.name in self._devices], STOP_TIMEOUTS["workers"])
        self._probe.close()
        self._client.close()

    def _kill(self, names: list[str]) -> None:
        for child in self._children:
            if child.name in names:
                self._tell(f"{child.name} hangs and is killed")
                child.kill()

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
        for option, port in {**options.broker_ports, "--api-port": options.port}.items():
            command += [option, str(port)]
        for host in options.advertise:
            command += ["--advertise", host]
        return command

    def _api_command(self) -> list[str]:
        options = self._options
        command = ["streamfleet_api", "--data-dir", str(options.api_dir), "--host", options.host]
        command += ["--port", str(options.port), "--manager-port", str(options.manager_port)]
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

    def _start_demo(self) -> bool:
        """Register the model, create the pipelines that are not there, and wait until all predict."""
        content = conveyor_model()
        digest = hashlib.sha256(content).hexdigest()
        path = self._options.data_dir / "conveyor.onnx"
        path.write_bytes(content)
        self._client.upload(digest, path)
        model = self._client.send("PUT", f"/v2/models/{MODEL_ID}", {"weights": digest, "replace": True})
        missing = CAMERAS.keys() - {entry["pipeline_id"] for entry in self._demo()}
        asyncio.run(_create_demo(self._options, ModelRef(MODEL_ID, model["digest"]), sorted(missing)))
        with contextlib.suppress(CommandFailed):
            self._until(self._demo_plays, DEMO_TIMEOUT, "the demo's first predictions")
        return self._demo_plays()

    def _demo_plays(self) -> bool:
        """Does each pipeline of the demo predict? One that somebody paused need not."""
        entries = self._demo()
        return bool(entries) and all(entry["fps"] for entry in entries if entry["want"] == "run")

    def _demo(self) -> list[dict[str, Any]]:
        answer = self._get("/v2/pipelines") or {"pipelines": []}
        return [entry for entry in answer["pipelines"] if entry["pipeline_id"] in CAMERAS]

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
                if child.ending() is not None:
                    raise self._why(child)
            if time.monotonic() > deadline:
                raise CommandFailed(f"{what} did not get ready within {timeout:g} s", self._where())
            self._pause(0.05)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _why(self, child: Child) -> CommandFailed:
        lines = [] if child.log is None else child.log.read_text(errors="replace").splitlines()[-3:]
        self._check_ports(child)
        return CommandFailed("\n".join([f"{child.name} {child.ending()}", *lines]), self._where())

    def _check_ports(self, ended: Child) -> None:
        """It names the first port that is taken; people want to know them all. Raises: CommandFailed."""
        options = self._options
        ports = {"api": options.api_ports, "broker": options.broker_ports}
        preflight.check_ports(options.host, ports.get(ended.name, {}))

    def _where(self) -> str:
        return f"the logs are in {self._logs}" if self._logs else "its log is above"

    def _tell(self, event: str) -> None:
        self._show(f"{time.strftime('%H:%M:%S')} {event}")


async def _create_demo(options: Options, model: ModelRef, pipeline_ids: list[str]) -> None:
    context = zmq.asyncio.Context()
    link = Link(context, f"ipc://{options.broker_dir}/operators.ipc")
    await link.start()
    try:
        for pipeline_id in pipeline_ids:
            spec = PipelineSpec(model, (SourceSpec(CAMERAS[pipeline_id]),), tracker="bytetrack")
            await link.ask(CreatePipeline(pipeline_id, spec), PipelineView)
    finally:
        await link.close()
        context.destroy(linger=0)


@contextlib.contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    """What the machine refuses at the start, in one line. Raises: CommandFailed."""
    try:
        yield
    except KeyExposed as exc:
        raise CommandFailed(str(exc)) from exc
    except OSError as exc:
        file = exc.filename if isinstance(exc.filename, str) else ""
        option = f"--data-dir {data_dir}: " if file.startswith(str(data_dir)) else "cannot start: "
        raise CommandFailed(f"{option}{file and file + ': '}{exc.strerror}") from exc


class StopSignal:
    """Set by SIGINT and SIGTERM. A handler may interrupt anything, itself too, so it must take no lock."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self) -> None:
        """For ever."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b".")

    def wait(self, seconds: float) -> bool:
        """Whether it is set, after so long at most."""
        return bool(select.select([self._reader], [], [], seconds)[0])

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._writer)
        os.close(self._reader)


@contextlib.contextmanager
def _stop_signal() -> Iterator[StopSignal]:
    stop = StopSignal()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


def _logs(data_dir: Path) -> Path | None:
    """A folder when a person looks at the screen, which stays clear; else the logs go where ours goes."""
    if not sys.stderr.isatty():
        return None
    folder = data_dir / "logs"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
