"""How long until everything that was wished for runs again after one process was killed, against 10 seconds.

The clock starts at the kill and ends when every pipeline has sent a prediction that was captured after it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from streamfleet_api.demo import demo_model
from tests.fleet.harness import Fleet, Subscriber, rises, short_folder, wait_for

LIMIT = 10.0  # seconds
ROUNDS = 10
PIPELINES = 3
PROCESSES = ["camera", "engine", "publisher", "sf-agent", "sf-broker", "sf-api"]


def run() -> str:
    """The table."""
    lines = [f"recovery after kill -9, {PIPELINES} pipelines on 2 workers, {ROUNDS} rounds each, seconds"]
    lines.append(f"{'process':14} {'median':>8} {'max':>8} {'limit':>8}  keys rise")
    with short_folder() as home, tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "demo.onnx"
        model.write_bytes(demo_model())
        fleet = Fleet(home, workers=2)
        try:
            fleet.start()
            fleet.add_model("shapes/1", model)
            for name in PROCESSES:
                took, rising = rounds(fleet, name)
                lines.append(
                    f"{name:14} {statistics.median(took):8.2f} {max(took):8.2f} {LIMIT:8.2f}  {rising}"
                )
        finally:
            fleet.stop()
    return "\n".join(lines)


def rounds(fleet: Fleet, name: str) -> tuple[list[float], bool]:
    """Seconds of each round, and whether the order keys of every pipeline rose throughout."""
    subscriber = Subscriber(f"ipc://{fleet.data}/broker/predictions.ipc")
    wished = [fleet.initialise("TestPatternStreamProducer", "shapes/1") for _ in range(PIPELINES)]
    took = []
    try:
        for pipeline_id in wished:
            subscriber.wait_for(pipeline_id, 3)
        for _ in range(ROUNDS):
            killed_at = time.monotonic()
            fleet.kill(name)
            until_running(fleet, subscriber, wished, time.time_ns())
            took.append(time.monotonic() - killed_at)
        return took, all(rises(subscriber.keys(pipeline_id)) for pipeline_id in wished)
    finally:
        subscriber.close()
        fleet.terminate_all()


def until_running(fleet: Fleet, subscriber: Subscriber, wished: list[str], moment_ns: int) -> None:
    """Wait until every pipeline sends what it captured after a moment, and the api answers."""
    wait_for(lambda: all(newer(subscriber, each, moment_ns) for each in wished), "predictions", timeout=60)
    wait_for(fleet.ready, "the api", timeout=60)


def newer(subscriber: Subscriber, pipeline_id: str, moment_ns: int) -> bool:
    """Has a prediction come that was captured after that moment?"""
    received = subscriber.of(pipeline_id)
    return bool(received) and received[-1][0].captured_wall_ns > moment_ns
