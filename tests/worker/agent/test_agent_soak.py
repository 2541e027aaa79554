"""A worker whose pipelines are started and stopped again and again keeps nothing of them.

`STREAMFLEET_TEST_ROUNDS=300 pytest -s tests/worker/agent/test_agent_soak.py` is the long run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from streamfleet_core.protocol.requests import Changed, ChangePipeline, CreatePipeline
from streamfleet_core.protocol.values import Manifest, ModelRef, PipelineSpec, SourceSpec, from_plain
from tests.fakes.models import manifest_of, write_constant_model
from tests.fakes.patience import PATIENCE
from tests.fakes.peers import Broker, Worker, wait_for

ROUNDS = int(os.environ.get("STREAMFLEET_TEST_ROUNDS", "6"))
LOOKS = 3  # the first when pools and caches have their size
MOST_GROWTH = 4096  # kB, of one process from the first look to the last

pytestmark = pytest.mark.timeout(120 + 6 * ROUNDS)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What there is of a worker."""

    processes: dict[str, int]  # name → how many
    descriptors: dict[str, int]
    memory: dict[str, int]  # kB, resident
    files: tuple[str, ...]  # in its data directory


@pytest.fixture
def model(folder: Path) -> Path:
    """Finds nothing, quickly."""
    path = folder / "model.onnx"
    write_constant_model(path, np.zeros((1, 7, 1)))
    return path


@pytest.fixture
def worker(folder: Path, broker: Broker, model: Path) -> Iterator[Worker]:
    """A device with real cameras and engines."""
    token = broker.token("cam-1")
    worker = Worker(folder, "w", "--join", token, "--engine-threads", "1", program="streamfleet_worker")
    worker.lay_model(manifest_of(model, width=64, height=64), model.read_bytes())
    worker.start()
    wait_for(lambda: broker.device("cam-1").state == "ready", "the device is ready")
    with worker.subscribed(b"v1/stat/") as receive:
        assert receive() is not None  # the publisher holds back no more, and has let the agent in
    yield worker
    worker.kill()


def test_starts_and_stops_leave_nothing(broker: Broker, worker: Worker, model: Path) -> None:
    manifest = manifest_of(model, width=64, height=64)

    looks = []
    for look in range(1, LOOKS + 1):
        for number in range(ROUNDS * (look - 1) // LOOKS, ROUNDS * look // LOOKS):
            start_and_stop(broker, f"p{number}", manifest)
        wait_for(lambda: not worker.children("camera"), "no camera is left")
        wait_for(lambda: not any((worker.data / "run/progress").iterdir()), "no progress is left")
        looks.append(settled(worker))
        print(looks[-1])

    first, last = looks[0], looks[-1]
    assert last.processes == first.processes
    assert last.descriptors == first.descriptors
    assert last.files == first.files
    assert all(last.memory[name] - first.memory[name] < MOST_GROWTH for name in first.memory)


def start_and_stop(broker: Broker, pipeline_id: str, manifest: Manifest) -> None:
    """One pipeline, which must have run."""
    sources = (SourceSpec("TestPatternStreamProducer"),)
    broker.ask(
        CreatePipeline(
            pipeline_id=pipeline_id,
            spec=PipelineSpec(model=ModelRef("quick/1", manifest.digest), sources=sources),
        )
    )
    broker.await_status(pipeline_id, "running")
    answer = broker.ask(ChangePipeline(pipeline_id, "stop", int(PATIENCE * 1000)))
    assert from_plain(answer, Changed).confirmed


def settled(worker: Worker) -> Holdings:
    """When nothing changes any more: engine and publisher notice in their own time who has gone."""
    looks: list[Holdings] = []

    def are_alike() -> bool:
        looks.append(holdings(worker))
        if replace(looks[-1], memory={}) != replace(looks[0], memory={}):
            del looks[:-1]
        return len(looks) == 20

    wait_for(are_alike, "nothing changes")
    return looks[-1]


def holdings(worker: Worker) -> Holdings:
    """At this moment."""
    processes: dict[str, int] = {}
    descriptors: dict[str, int] = {}
    memory: dict[str, int] = {}
    for pid, name in worker.family().items():
        process = Path(f"/proc/{pid}")
        with suppress(OSError, KeyError):  # it has just ended
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            count, size = len(list((process / "fd").iterdir())), int(status["VmRSS"].split()[0])
            processes[name] = processes.get(name, 0) + 1
            descriptors[name] = descriptors.get(name, 0) + count
            memory[name] = memory.get(name, 0) + size
    files = tuple(sorted(str(path.relative_to(worker.data)) for path in worker.data.rglob("*")))
    return Holdings(processes, descriptors, memory, files)
