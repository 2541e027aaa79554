"""A broker and an API as processes, whose store knows a whole fleet before they start."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streamfleet_broker.fleet.records import DeviceRecord, ModelRecord, PipelineRecord, Record, Write
from streamfleet_broker.keys import KEYS, load_or_make
from streamfleet_broker.storage.sqlite_store import SqliteStore
from streamfleet_core.protocol.values import ModelRef, PipelineSpec, SourceSpec
from streamfleet_core.runtime.curve import new_key_pair
from streamfleet_worker.agent.identity import Identity
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import MANIFEST
from tests.fakes.ports_and_folders import free_ports
from tests.fleet.harness import wait_for

MODEL = ModelRef("bench/1", MANIFEST.digest)
EACH = 4  # pipelines of a device
_ROOM = 2  # more pipelines than a device has that it could run
CAPACITY = EACH + _ROOM
_PORTS = ("devices", "relay-in", "relay-out", "pictures-in", "pictures-out")


@dataclass(slots=True)
class Site:
    """The two processes."""

    folder: Path
    http: int  # port
    identities: tuple[Identity, ...]
    _commands: dict[str, list[str]]
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start the broker or the API."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._commands[name], stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """End the broker or the API, as a crash does."""
        self._processes[name].kill()
        self._processes[name].wait(PATIENCE)

    def pid(self, name: str) -> int:
        """The process."""
        return self._processes[name].pid

    def memory(self, name: str) -> float:
        """The resident memory in MB."""
        status = Path(f"/proc/{self.pid(name)}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def stop(self) -> None:
        """End both."""
        for process in self._processes.values():
            process.terminate()
        for name, process in self._processes.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            self.kill(name)


@contextlib.contextmanager
def running_site(folder: Path, devices: int) -> Iterator[Site]:
    """Run a broker and an API that know so many devices with their pipelines, until the block ends."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    (http,) = free_ports(1)
    data, endpoint = folder / "broker", f"tcp://127.0.0.1:{ports['devices']}"
    identities = _prepared(data, devices, endpoint)
    broker = [sys.executable, "-m", "streamfleet_broker", "--data-dir", str(data)]
    broker += [f"--{name}-port={port}" for name, port in ports.items()]
    api = [sys.executable, "-m", "streamfleet_api", "--data-dir", str(folder / "api")]
    api += [f"--port={http}", "--manager-port=0"]
    site = Site(folder, http, identities, {"broker": broker, "api": api})
    try:
        site.start("broker")
        wait_for(lambda: (data / "operators.ipc").exists(), "the broker's socket")
        site.start("api")
        yield site
    finally:
        site.stop()


def name_of(device: int) -> str:
    """The name of a device."""
    return f"device-{device:04}"


def pipelines_of(device: int) -> list[str]:
    """The ids of its pipelines."""
    return [f"cam-{device:04}-{number}" for number in range(EACH)]


def spec_of(pipeline_id: str) -> PipelineSpec:
    """The spec of a pipeline: one camera."""
    source = SourceSpec(f"rtsp://camera.example/{pipeline_id}")
    return PipelineSpec(model=MODEL, sources=(source,), max_fps=10.0)


def _prepared(folder: Path, devices: int, endpoint: str) -> tuple[Identity, ...]:
    """Write the rows of the fleet, and return the identities of its devices."""
    folder.mkdir(mode=0o700)
    broker_key = load_or_make(folder / KEYS[0]).public
    load_or_make(folder / KEYS[1])
    identities, records = [], list[Record]([ModelRecord(MODEL.id, MODEL.digest)])
    for number in range(devices):
        pair, name = new_key_pair(), name_of(number)
        identities.append(Identity(name, (endpoint,), broker_key, pair.public, pair.secret))
        labels = {"hall": str(number % 10)}
        records.append(DeviceRecord(device=name, public_key=pair.public, short_id=number + 1, labels=labels))
        for pipeline_id in pipelines_of(number):
            generation = len(records)
            records.append(
                PipelineRecord(
                    pipeline_id=pipeline_id,
                    generation=generation,
                    run_generation=generation,
                    desired_status="run",
                    spec=spec_of(pipeline_id),
                    requested=None,
                    device=name,
                    created=generation,
                    labels=labels,
                    version=1,
                    created_at=time.time(),
                )
            )
    store = SqliteStore(folder)
    store.commit([Write(*_address(record), None, record) for record in records])
    store.close()
    return tuple(identities)


def _address(record: Record) -> tuple[str, str]:
    match record:
        case DeviceRecord():
            return "device", record.device
        case PipelineRecord():
            return "pipeline", record.pipeline_id
        case ModelRecord():
            return "model", record.id
    raise TypeError(f"expected a device, a pipeline or a model, got {type(record).__name__}")


def processors() -> int:
    """The cores that all processes share."""
    return len(os.sched_getaffinity(0))
