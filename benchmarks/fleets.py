"""Fleets to measure: real processes, started like those of users, and controlled over `/v2`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.setting import Setting
from tests.fakes.ports_and_folders import short_folder
from tests.fleet.harness import Fleet, process_name, wait_for

MODEL_ID = "bench/1"
PARTS = ("agent", "fork server", "publisher", "engine", "cameras")  # of a worker
_PREFIXES = {
    "sf-agent": "agent",
    "sf-forkserver": "fork server",
    "publisher": "publisher",
    "engine": "engine",
    "camera": "cameras",
}
_OTHERS = ("streamfleet", "sf-broker", "sf-api")  # processes of the fleet outside the worker


@contextmanager
def running(setting: Setting, *, workers: int = 1, capacity: int | None = None) -> Iterator[Fleet]:
    """Run a fleet that has the model until the block ends."""
    with short_folder() as home:
        fleet = Fleet(home, workers=workers)
        if capacity is not None:
            fleet.environment["STREAMFLEET_CAPACITY"] = str(capacity)
        try:
            fleet.start()
            fleet.add_model(MODEL_ID, setting.model, *setting.model_options)
            yield fleet
        finally:
            fleet.stop()


def put(
    fleet: Fleet, pipeline_id: str, source: dict[str, Any] | str, *, port: int | None = None, **more: Any
) -> None:
    """Send `PUT /v2/pipelines/{id}`."""
    sinks = [] if port is None else [{"type": "udp", "host": "127.0.0.1", "port": port}]
    body = {"model": MODEL_ID, "sources": [source], "sinks": sinks, **more}
    answer = fleet.http.put(f"/v2/pipelines/{pipeline_id}", json=body)
    assert answer.status_code in (200, 201), answer.text


def delete(fleet: Fleet, pipeline_id: str) -> None:
    """Send `DELETE /v2/pipelines/{id}`."""
    answer = fleet.http.delete(f"/v2/pipelines/{pipeline_id}")
    assert answer.status_code == 204, answer.text


def delete_all(fleet: Fleet) -> None:
    """Delete all pipelines, and wait until their processes have ended."""
    for pipeline_id in fleet.pipelines():
        delete(fleet, pipeline_id)
    wait_for(lambda: not fleet.pids("camera"), "the end of the cameras")


def worker_processes(fleet: Fleet) -> dict[int, str]:
    """Return the living processes of the worker, and the part to which each belongs."""
    found = {}
    for pid in fleet.pids():
        name = process_name(pid)
        if not name.startswith(_OTHERS):
            # Python's resource tracker runs beside the fork server and does not set its name.
            parts = (part for prefix, part in _PREFIXES.items() if name.startswith(prefix))
            found[pid] = next(parts, "fork server")
    return found


def relay_of(fleet: Fleet) -> str:
    """Return the endpoint for subscribers on the broker's host."""
    return f"ipc://{fleet.data}/broker/predictions.ipc"


def direct_of(fleet: Fleet) -> str:
    """Return the endpoint for subscribers on the device itself."""
    return f"ipc://{fleet.data}/workers/local-1/run/predictions.ipc"


def names(count: int) -> list[str]:
    """Return ids that no earlier round has used."""
    return [f"cam-{number}-{time.monotonic_ns() % 10**9}" for number in range(1, count + 1)]
