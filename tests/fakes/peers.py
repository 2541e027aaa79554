"""What the agent's tests share: a real broker, an operator, a worker as a process, and waiting for things."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import zmq

from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.data_plane import split
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import (
    AddDevice,
    CreatePipeline,
    DeviceView,
    ListDevices,
    ListPipelines,
    OperatorRequest,
    PipelineView,
    Token,
    pack_request,
)
from streamfleet_core.protocol.values import (
    Manifest,
    ModelRef,
    PipelineSpec,
    SourceSpec,
    Weights,
    from_plain,
)
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_ports

T = TypeVar("T")

WEIGHTS = b"onnx"
MANIFEST = Manifest(
    family="yolox",
    labels=("person",),
    input_width=64,
    input_height=64,
    weights=Weights(hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS)),
)


def wait_for(condition: Callable[[], T | None], what: str, *, timeout: float = PATIENCE) -> T:
    """The first true value of a condition. Raises: AssertionError that says what did not come."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}; the last was {value!r}")
        time.sleep(0.02)
    return value


class Process:
    """A program of ours, started in a session of its own, with its log in a file."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.command = command
        self.log = log
        # Descendants inherit it, so whatever is left of them can be found.
        self.mark = f"SF_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        self._environment = {**os.environ, **(environment or {}), name: value}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(PATIENCE)

    def family(self) -> dict[int, str]:
        """Every living process that it or a descendant started, and its name."""
        found = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit():
                continue
            with suppress(OSError):
                if self.mark.encode() in (directory / "environ").read_bytes():
                    found[int(directory.name)] = (directory / "comm").read_text().strip()
        return found


class Broker(Process):
    """A real one, with an operator's socket to it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "broker"
        names = ("devices", "relay-in", "relay-out", "pictures-in", "pictures-out")
        ports = [f"--{name}-port={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]
        command = [sys.executable, "-m", "streamfleet_broker", f"--data-dir={self.data}", *ports]
        super().__init__(command, folder / "broker.log")
        self._context = zmq.Context()

    def ask(self, request: OperatorRequest, timeout: float = PATIENCE) -> Any:
        """The data of the reply. Raises: AssertionError for an Error or silence."""
        with self._context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(f"ipc://{self.data}/operators.ipc")
            socket.send_multipart(encode(Envelope(pack_request(request), request_id=os.urandom(16))))
            assert socket.poll(round(timeout * 1000)), f"no answer to {request}"
            message = decode(socket.recv_multipart()).message
        assert not isinstance(message, Error), message
        assert isinstance(message, Reply)
        return message.data

    def token(self, device: str) -> str:
        return from_plain(self.ask(AddDevice(device)), Token).token

    def device(self, name: str) -> DeviceView:
        (found,) = [
            d for d in from_plain(self.ask(ListDevices()), tuple[DeviceView, ...]) if d.device == name
        ]
        return found

    def pipelines(self) -> dict[str, PipelineView]:
        views = from_plain(self.ask(ListPipelines()), tuple[PipelineView, ...])
        return {view.pipeline_id: view for view in views}

    def create(self, pipeline_id: str, reference: str, *, device: str | None = None) -> None:
        self.ask(CreatePipeline(pipeline_id=pipeline_id, spec=spec(reference), device=device))

    def await_status(self, pipeline_id: str, status: str, *, timeout: float = PATIENCE) -> PipelineView:
        def reached() -> PipelineView | None:
            view = self.pipelines().get(pipeline_id)
            return view if view is not None and view.status == status else None

        try:
            return wait_for(reached, f"{pipeline_id} {status}", timeout=timeout)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; {self.pipelines()}") from exc

    def close(self) -> None:
        self.kill()
        self._context.destroy(linger=0)


class Worker(Process):
    """The agent as a process, with the honest children of children.py unless the program is another."""

    def __init__(
        self, folder: Path, name: str, *options: str, program: str = "tests.fakes.agent_process"
    ) -> None:
        self.data = folder / name
        self.temporary = folder / f"{name}.tmp"  # what would be /tmp
        self.temporary.mkdir(exist_ok=True)
        command = [sys.executable, "-m", program, f"--data-dir={self.data}", *options]
        super().__init__(command, folder / f"{name}.log", {"TMPDIR": str(self.temporary)})

    def lay_model(self, manifest: Manifest = MANIFEST, weights: bytes = WEIGHTS) -> None:
        """As if it had been fetched before: what is in the cache needs no api."""
        models = self.data / "models"
        models.mkdir(mode=0o700, parents=True, exist_ok=True)
        (models / manifest.digest).write_bytes(manifest.encode())
        (models / manifest.weights.sha256).write_bytes(weights)

    def children(self, prefix: str) -> list[int]:
        """Pids of the children with such a name."""
        return [pid for pid, name in self.family().items() if name.startswith(prefix)]

    @contextmanager
    def subscribed(self, prefix: bytes) -> Iterator[Callable[..., Any]]:
        """Receives from the device's own PUB for this host: a function that waits for the next document."""
        with zmq.Context() as context, context.socket(zmq.SUB) as sub:
            sub.linger = 0
            sub.subscribe(prefix)
            sub.connect(f"ipc://{self.data}/run/predictions.ipc")

            def receive(timeout: float = PATIENCE) -> Any:
                """None when nothing came in so many seconds."""
                if not sub.poll(round(timeout * 1000)):
                    return None
                _, _, body = split(sub.recv_multipart())
                return msgpack.unpackb(body)

            yield receive


def spec(reference: str, **changes: Any) -> PipelineSpec:
    """A pipeline over the model of `Worker.lay_model`."""
    return PipelineSpec(
        model=ModelRef("parts/1", MANIFEST.digest), sources=(SourceSpec(reference),), **changes
    )


def device_of(token: str) -> str:
    return JoinToken.decode(token).device


def identity_of(worker: Worker) -> dict[str, Any]:
    return json.loads((worker.data / "identity.json").read_bytes())
