"""A whole fleet on this machine: broker, api and workers as child processes, started and stopped together.

lock the data directory ─▶ broker, api ─▶ a token for each new worker ─▶ workers ─▶ demo ─▶ watch
Ctrl-C or SIGTERM: api, broker, workers, each with a deadline; kill -9: the kernel ends them all
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

import zmq.asyncio

from streamfleet.connection import Connection
from streamfleet.results import Pipeline
from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.client.errors import CommandFailed
from streamfleet_api.client.http_client import Client
from streamfleet_api.local import preflight
from streamfleet_api.local.child_process import ChildProcess, end
from streamfleet_api.local.demo import CAMERAS, MODEL_ID, conveyor_model
from streamfleet_api.local.hang_detector import API, BROKER, HangDetector, ProcessId
from streamfleet_api.local.health_probe import HealthProbe
from streamfleet_api.local.options import Options
from streamfleet_api.local.own_certificate import own_certificate
from streamfleet_api.local.ports import check_ports, free_port
from streamfleet_api.local.process_reports import ProcessReports
from streamfleet_api.local.startup_banner import own_addresses, startup_banner
from streamfleet_api.web.auth import UnusableToken, load_token
from streamfleet_api.web.tls import BadCertificate, CertificateFiles
from streamfleet_core.protocol.requests import CreatePipeline, PipelineView
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from streamfleet_core.runtime.file_descriptors import raise_limit
from streamfleet_core.runtime.pinned_tls import FilePinnedContext
from streamfleet_core.runtime.private_file import KeyExposed
from streamfleet_core.runtime.process import make_files_private

__all__ = ["Options", "run"]

START_TIMEOUT = 20.0  # seconds for broker and api
WORKERS_TIMEOUT = 40.0  # seconds for all workers, which load numpy and OpenCV
DEMO_TIMEOUT = 20.0  # seconds for the demo's first predictions
STOP_TIMEOUTS = {"api": 1.5, "broker": 0.8, "workers": 2.5}  # seconds to end, within five in all
_HTTP_TIMEOUT = 3.0  # seconds; while the main thread waits for an answer, it watches no child
MAX_LOG = 10 * 1024**2  # bytes; a larger log is emptied at the start


class Stopped(Exception):
    """Ctrl-C or SIGTERM was received."""


def run(options: Options, show: Callable[[str], None]) -> int:
    """Run the fleet until Ctrl-C or SIGTERM, and return the exit code. `show` prints a text for the user.

    Raises: CommandFailed when it cannot start.
    """
    make_files_private()
    raise_limit()
    preflight.check(options)
    with preflight.locked(options.data_dir), _stop_signal() as stop:
        if options.port == 0:
            options = replace(options, port=free_port(options.host))
        check_ports(options.host, options.ports)
        with _explained(options.data_dir):
            fleet = LocalFleet(options, show, stop)
        try:
            with _explained(options.data_dir):
                fleet.start()
            fleet.watch()
        except Stopped:
            show("stopping …")
        finally:
            fleet.stop()
    return 0


class LocalFleet:
    """The processes of one `streamfleet up`. The main thread runs it and outlives all children."""

    def __init__(self, options: Options, show: Callable[[str], None], stop: StopSignal) -> None:
        self._options = options
        self._show = show
        self._stop = stop
        self._token, self._token_is_new = load_token(options.api_dir / "token")
        self._certificate, self._fingerprint = _certificate(options)
        connection = Connection(
            url=options.url,
            token=self._token,
            fingerprint=self._fingerprint or None,
            data_dir=options.data_dir,
        )
        self._client = Client(connection, timeout=_HTTP_TIMEOUT)
        # Read the fingerprint from the file each time: after a renewal the api must not look hung.
        verify = FilePinnedContext(options.fingerprint_path) if options.has_tls else True
        self._probe = HealthProbe(options.url, self._token, verify)
        self._reports = ProcessReports(f"ipc://{options.broker_dir}/operators.ipc")
        self._logs = _logs(options.data_dir)
        self._children: list[ChildProcess] = []
        self._problem = ""  # why the last attempt to ask the api failed
        self._devices = [f"local-{number}" for number in range(1, options.workers + 1)]

    def start(self) -> None:
        """Start all processes and the demo. Raises: CommandFailed, Stopped."""
        self._show("starting …")
        self._add(BROKER, self._broker_command())
        api = self._add(API, self._api_command())
        self._until(lambda: self._answers(api), START_TIMEOUT, "the broker and the api")
        self._forget_strangers()
        for device in self._devices:
            self._add(
                ProcessId("worker", device),
                self._worker_command(device),
                functools.partial(self._join, device),
            )
        self._until(self._workers_ready, WORKERS_TIMEOUT, "the workers")
        demo_runs = self._options.demo and self._start_demo()
        token = self._token if self._token_is_new else None
        self._show(
            startup_banner(
                self._options,
                self._devices,
                token=token,
                demo_runs=demo_runs,
                logs=self._logs,
                fingerprint=self._fingerprint,
            )
        )

    def watch(self) -> None:
        """Restart children that exit, and kill children that hang. Raises: Stopped."""
        detector = HangDetector()
        self._probe.start()
        self._reports.start()
        while True:
            self._pause(0.1)
            for observation in self._probe.observations():
                started = {each.id: each.started for each in self._children if each.started is not None}
                self._kill(detector.observe(observation, started))
            for child in self._children:
                notice = child.revive(time.monotonic())
                if notice:
                    self._notify(child, notice)

    def stop(self) -> None:
        """Stop all processes, in an order that moves no pipeline."""
        # The api before the broker, which still answers pending requests. The workers last: a running broker
        # would move their pipelines to other devices.
        self._end("api", STOP_TIMEOUTS["api"])
        self._end("broker", STOP_TIMEOUTS["broker"])
        self._end("worker", STOP_TIMEOUTS["workers"])
        self._reports.close()
        self._probe.close()
        self._client.close()

    def _end(self, role: str, timeout: float) -> None:
        end([child for child in self._children if child.id.role == role], timeout)

    def _kill(self, hung: list[ProcessId]) -> None:
        for child in self._children:
            if child.id in hung:
                self._notify(child, "hangs and is killed")
                child.kill()

    # starting ---------------------------------------------------------------------------------------------

    def _add(
        self, child_id: ProcessId, command: list[str], environment: Callable[[], Mapping[str, str]] = dict
    ) -> ChildProcess:
        log = self._logs / f"{child_id}.log" if self._logs else None
        if log is not None and log.exists() and log.stat().st_size > MAX_LOG:
            log.unlink()
        child = ChildProcess(child_id, command, log, environment)
        self._children.append(child)
        child.start()
        return child

    def _answers(self, api: ChildProcess) -> bool:
        """Whether our api reaches our broker. Another fleet's api may listen on the port."""
        with self._noted():
            if self._client.health().pid == api.pid:
                self._client.list_devices()
                return True
        return False

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Go on after a failed attempt, and keep why, for when the time is over."""
        try:
            self._problem = ""
            yield
        except CommandFailed as exc:
            self._problem = str(exc)

    def _broker_command(self) -> list[str]:
        options = self._options
        command = ["streamfleet_broker", "--data-dir", str(options.broker_dir), "--host", options.host]
        for option, port in {**options.broker_ports, "--api-port": options.port}.items():
            command += [option, str(port)]
        for host in options.advertise:
            command += ["--advertise", host]
        if options.has_tls:
            command += ["--api-fingerprint", str(options.fingerprint_path)]
        return command

    def _api_command(self) -> list[str]:
        options = self._options
        command = ["streamfleet_api", "--data-dir", str(options.api_dir), "--host", options.host]
        command += ["--port", str(options.port), "--manager-port", str(options.manager_port)]
        repeated = {
            "--trust": options.trust,
            "--allowed-host": (*options.allowed_hosts, *options.advertise),
            "--cors": options.cors,
        }
        for option, values in repeated.items():
            for value in values:
                command += [option, value]
        if options.insecure:
            command.append("--insecure")
        if self._certificate is not None:
            command += ["--tls-cert", str(self._certificate.certificate)]
            command += ["--tls-key", str(self._certificate.key)]
        return command

    def _worker_command(self, device: str) -> list[str]:
        options = self._options
        command = ["streamfleet_worker", "--unsupervised", "--data-dir", str(options.worker_dir(device))]
        # Its identity names the broker's endpoint when it joined; the port may have changed since.
        return [*command, "--broker", options.broker_endpoint]

    def _join(self, device: str) -> dict[str, str]:
        """The join token for a new worker, in the environment, where `ps` does not show it."""
        if self._identity(device).exists():
            return {}
        with self._patient_client() as client:
            return {"STREAMFLEET_JOIN": client.add_device(device).token}

    def _forget_strangers(self) -> None:
        """Delete identities that the broker does not know, so that their workers enroll again.

        Raises: CommandFailed.
        """
        with self._patient_client() as client:
            known = {entry.device for entry in client.list_devices()}
        for device in self._devices:
            if device not in known:
                self._identity(device).unlink(missing_ok=True)

    def _patient_client(self) -> Client:
        """For what must succeed. It is made when the api runs, which has written its fingerprint then."""
        options = self._options
        connection = Connection(url=options.url, token=self._token, data_dir=options.data_dir)
        return Client(connection, timeout=START_TIMEOUT)

    def _identity(self, device: str) -> Path:
        return self._options.worker_dir(device) / "identity.json"

    def _workers_ready(self) -> bool:
        with self._noted():
            ready = {entry.device for entry in self._client.list_devices(state="ready")}
            return ready.issuperset(self._devices)
        return False

    def _start_demo(self) -> bool:
        """Register the model, create the missing pipelines, and wait until all predict."""
        content = conveyor_model()
        path = self._options.data_dir / "conveyor.onnx"
        if not path.exists() or path.read_bytes() != content:  # there may be no room to write it again
            path.write_bytes(content)
        model = self._client.add_model(MODEL_ID, path, replace=True)
        missing = CAMERAS.keys() - {entry.pipeline_id for entry in self._demo()}
        asyncio.run(_create_demo(self._options, ModelRef(MODEL_ID, model.digest), sorted(missing)))
        with contextlib.suppress(CommandFailed):
            self._until(self._demo_predicts, DEMO_TIMEOUT, "the demo's first predictions")
        return self._demo_predicts()

    def _demo_predicts(self) -> bool:
        """Whether each pipeline of the demo predicts, except those that are paused."""
        entries = self._demo()
        return bool(entries) and all(entry.fps for entry in entries if entry.desired_status == "run")

    def _demo(self) -> list[Pipeline]:
        with contextlib.suppress(CommandFailed):
            return [entry for entry in self._client.list_pipelines() if entry.pipeline_id in CAMERAS]
        return []

    # waiting ----------------------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait for the condition. Raises: CommandFailed at the deadline or when a child ends, Stopped."""
        deadline = time.monotonic() + timeout
        while not condition():
            for child in self._children:
                if child.ending() is not None:
                    raise self._why(child)
            if time.monotonic() > deadline:
                why = f": {self._problem}" if self._problem else ""
                raise CommandFailed(f"{what} did not get ready within {timeout:g} s{why}", self._where())
            self._pause(0.05)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _why(self, child: ChildProcess) -> CommandFailed:
        lines = [] if child.log is None else child.log.read_text(errors="replace").splitlines()[-3:]
        self._check_ports(child)
        return CommandFailed("\n".join([f"{child.id} {child.ending()}", *lines]), self._where())

    def _check_ports(self, ended: ChildProcess) -> None:
        """Name all ports that are taken, not only the first one. Raises: CommandFailed."""
        options = self._options
        ports = {"api": options.api_ports, "broker": options.broker_ports}
        check_ports(options.host, ports.get(ended.id.role, {}))

    def _where(self) -> str:
        return f"the logs are in {self._logs}" if self._logs else "its log is above"

    def _notify(self, child: ChildProcess, event: str) -> None:
        self._show(f"{time.strftime('%H:%M:%S')} {child.id} {event}")
        self._reports.add(str(child.id), event)


async def _create_demo(options: Options, model: ModelRef, pipeline_ids: list[str]) -> None:
    context = zmq.asyncio.Context()
    broker = BrokerClient(context, f"ipc://{options.broker_dir}/operators.ipc")
    await broker.start()
    try:
        for pipeline_id in pipeline_ids:
            spec = PipelineSpec(model=model, sources=(SourceSpec(CAMERAS[pipeline_id]),), tracker="bytetrack")
            await broker.ask(CreatePipeline(pipeline_id=pipeline_id, spec=spec), PipelineView)
    finally:
        await broker.close()
        context.destroy(linger=0)


def _certificate(options: Options) -> tuple[CertificateFiles | None, str]:
    """The certificate that the api serves HTTPS with, and its fingerprint. Raises: CommandFailed, OSError."""
    if not options.has_tls:
        return None, ""
    try:
        if options.tls_cert is not None:
            files = CertificateFiles(
                options.tls_cert.absolute(), (options.tls_key or options.tls_cert).absolute()
            )
        else:
            hosts = [*options.advertise, *([] if options.is_everywhere else [options.host])]
            files = own_certificate(options.api_dir, hosts or own_addresses())
        return files, files.read()[1]
    except BadCertificate as exc:
        raise CommandFailed(f"--tls-cert, --tls-key: {exc}") from exc
    except ImportError as exc:
        hint = "pip install 'streamfleet[api]', or give it one with --tls-cert"
        raise CommandFailed(
            "a certificate is made with the package cryptography, which is missing", hint
        ) from exc


@contextlib.contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    """Turn errors of the operating system at the start into one line. Raises: CommandFailed."""
    try:
        yield
    except (KeyExposed, UnusableToken) as exc:
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
        """Set it. It cannot be cleared."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b".")

    def wait(self, seconds: float) -> bool:
        """Wait until it is set or `seconds` have passed, and return whether it is set."""
        return bool(select.select([self._reader], [], [], seconds)[0])

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._writer)
        os.close(self._reader)


@contextlib.contextmanager
def _stop_signal() -> Iterator[StopSignal]:
    """Ctrl-C and SIGTERM set it. Afterwards they do nothing: the process ends anyway, with its own code."""
    stop = StopSignal()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        stop.close()


def _logs(data_dir: Path) -> Path | None:
    """The log folder on a terminal, which stays readable; otherwise None: children log to our stderr."""
    if not sys.stderr.isatty():
        return None
    folder = data_dir / "logs"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
