"""`streamfleet-worker` with stand-in cameras: each writes down what it makes, and then hands it on.

The agent and the publisher are the real ones. The path of a source is the number of predictions a second:
`rtsp://camera.example/300`. The environment variable `MADE` names the folder of the lists, one file for each
pipeline and device, with a line for each prediction: generation, incarnation, sequence number.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import msgpack

from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import ObservedState
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.child_messages import (
    REPORT_INTERVAL,
    CameraConfig,
    CameraReport,
    Change,
    Stop,
    receive,
    send,
)
from streamfleet_worker.ipc.fence import Fence
from streamfleet_worker.ipc.handover.sender import Sender

MADE = "STREAMFLEET_BENCHMARK_MADE"  # the environment variable
_TICK = 0.01  # seconds between two bursts
_OBJECTS = 8  # of each prediction, which then has 1.2 KB


def main() -> None:
    """Run the worker."""
    from streamfleet_worker import main as program
    from streamfleet_worker.agent import child_processes
    from streamfleet_worker.agent.agent import Entries

    # Not what a real camera needs, which takes seconds to load.
    child_processes.PRELOAD = ["streamfleet_worker.ipc.forkserver", __name__]
    sys.exit(
        program.run(
            Entries(camera="benchmarks.completeness.worker:camera", engine="tests.fakes.children:engine")
        )
    )


def camera(config: CameraConfig, connection: Connection) -> None:
    """Make predictions at the rate of the source until the agent says to stop."""
    _Camera(config, connection).run()


@dataclass
class _Camera:
    config: CameraConfig
    connection: Connection
    emitted: int = 0
    sequence: int = 0
    generation: int = field(init=False)
    is_running: bool = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.generation, self.is_running = config.generation, config.desired_status == "run"
        self.rate = float(str(config.spec.sources[0].reference).rpartition("/")[2])
        self.fence = Fence.open(config.fence_path)
        self.sender = Sender(config.intake_path)
        self.topic = pipeline_topic(Kind.PRED, config.pipeline_id)
        path = Path(os.environ[MADE]) / f"{config.pipeline_id}@{config.device}"
        self.list = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.document = _document(config)

    def run(self) -> None:
        """Emit at a steady rate, and report."""
        report_at, due = 0.0, 0.0
        while True:
            now = time.monotonic()
            due = min(due + _TICK * self.rate, 2 * _TICK * self.rate + 1)
            while due >= 1:
                due -= 1
                self.emit()
            self.sender.flush()
            if now >= report_at:
                report_at = now + REPORT_INTERVAL
                send(self.connection, self.report())
            if self.connection.poll(max(0.0, now + _TICK - time.monotonic())):
                message = receive(self.connection)
                if isinstance(message, Stop):
                    return
                if isinstance(message, Change):
                    if message.generation != self.generation:
                        self.generation, self.sequence = message.generation, 0
                    self.is_running = message.desired_status == "run"
                    report_at = 0.0

    def emit(self) -> None:
        """Make a prediction, unless it is paused or may not emit now."""
        if not self.is_running or (self.config.fenced and not self.fence.passes(boot_time())):
            return
        key = (self.generation, self.config.incarnation, self.sequence)
        os.write(self.list, b"%d %d %d\n" % key)
        about = self.document["inference_metadata"]
        about |= {"frame_id": self.emitted + 1, "gen": key[0], "inc": key[1], "seq": key[2]}
        header = DataHeader(
            kind=Kind.PRED,
            gen=key[0],
            inc=key[1],
            seq=key[2],
            device=self.config.short_id,
            captured_wall_ns=time.time_ns(),
        )
        self.sender.send(self.topic, header, msgpack.packb(self.document), fenced=self.config.fenced)
        self.sequence += 1
        self.emitted += 1

    def report(self) -> CameraReport:
        """The state of the camera."""
        reference = str(self.config.spec.sources[0].reference)
        state = ObservedState.RUNNING if self.is_running else ObservedState.PAUSED
        return CameraReport(
            generation=self.generation,
            state=state,
            reason="",
            waiting_for_engine=False,
            emitted=self.emitted,
            sources=(SourceStat(source_id=0, reference=reference, state="RUNNING", emitted=self.emitted),),
            dropped={"publisher": self.sender.dropped},
            fps=self.rate,
            report={
                "video_source_status_updates": [],
                "latency_reports": [],
                "inference_throughput": self.rate,
                "sources_metadata": [{"source_reference": reference, "state": "RUNNING", "source_id": 0}],
            },
            ready=True,
        )


def _document(config: CameraConfig) -> dict[str, dict[str, object]]:
    found = {"x": 161.0, "y": 90.5, "width": 30.0, "height": 28.0, "confidence": 0.93, "class_id": 0}
    objects = [{**found, "class": "bolt", "tracker_id": number} for number in range(_OBJECTS)]
    about = {"pipeline_id": config.pipeline_id, "device": config.device, "source_id": 0}
    document: dict[str, object] = {
        "image": {"width": 320, "height": 240},
        "predictions": objects,
        "inference_metadata": about,
    }
    return document  # type: ignore[return-value]


if __name__ == "__main__":
    main()
