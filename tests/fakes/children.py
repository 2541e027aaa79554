"""Small honest children for the agent's tests: real processes with the entry points' signature.

What a camera does is said by its source: `rtsp://host/<behaviour>`, or a file's name.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import msgpack

from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.values import ObservedState
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.child_messages import (
    CameraConfig,
    CameraReport,
    Change,
    EngineConfig,
    EngineReport,
    Show,
    Stop,
    receive,
    send,
)
from streamfleet_worker.ipc.fence import Fence
from streamfleet_worker.ipc.handover.sender import Sender
from streamfleet_worker.ipc.playback_position import Progress

INTERVAL = 0.05  # seconds
PICTURE = b"\xff\xd8\xff\xd9"  # an empty one


def engine(config: EngineConfig, connection: Connection) -> None:
    """Loads nothing. A model whose first label is `broken` cannot work."""
    broken = config.manifest.labels[0] == "broken"
    report = EngineReport("failed" if broken else "ready", "bad opset" if broken else "", 0, 0.0)
    while True:
        send(connection, report)
        if connection.poll(INTERVAL) and isinstance(receive(connection), Stop):
            return


def camera(config: CameraConfig, connection: Connection) -> None:
    """Emits a `pred` every interval, while it runs and the fence lets it."""
    behaviour = str(config.spec.sources[0].reference).rpartition("/")[2]
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sender, pictures = Sender(config.intake_path), Sender(config.picture_intake_path)
    _Camera(config, connection, sender, pictures, behaviour).run()


@dataclass
class _Camera:
    config: CameraConfig
    connection: Connection
    sender: Sender
    picture_sender: Sender
    behaviour: str
    emitted: int = 0
    shows: bool = False
    pictures: int = 0

    def run(self) -> None:
        fence = Fence.open(self.config.fence_path)
        progress = Progress.open(self.config.progress_path)
        generation, desired_status = self.config.generation, self.config.desired_status
        while True:
            if desired_status == "run" and (not self.config.fenced or fence.passes(boot_time())):
                self.emit(generation, progress.position() + 1)
                progress.advance(progress.position() + 1)
            state = ObservedState.RUNNING if desired_status == "run" else ObservedState.PAUSED
            if self.behaviour.endswith(".mp4") and progress.position() >= 10:
                send(self.connection, self.report(generation, ObservedState.ENDED))
                return
            if self.behaviour == "crash" and self.emitted == 5:
                os.kill(os.getpid(), signal.SIGSEGV)
            send(self.connection, self.report(generation, state))
            if self.connection.poll(INTERVAL):
                message = receive(self.connection)
                if isinstance(message, Change):
                    generation, desired_status = message.generation, message.desired_status
                elif isinstance(message, Show):
                    self.shows = message.wanted
                elif isinstance(message, Stop) and self.behaviour != "deaf":
                    return

    def emit(self, generation: int, frame_id: int) -> None:
        header = DataHeader(
            kind=Kind.PRED,
            gen=generation,
            inc=self.config.incarnation,
            seq=self.emitted,
            device=self.config.short_id,
        )
        topic = pipeline_topic(Kind.PRED, self.config.pipeline_id)
        body = msgpack.packb(
            {"frame_id": frame_id, "gen": generation, "inc": self.config.incarnation, "at": time.time()}
        )
        self.sender.send(topic, header, body, fenced=self.config.fenced)
        if self.shows:
            self.emit_picture(replace(header, kind=Kind.IMG))
        self.emitted += 1

    def emit_picture(self, header: DataHeader) -> None:
        topic = pipeline_topic(Kind.IMG, self.config.pipeline_id)
        self.picture_sender.send(topic, header, PICTURE, fenced=self.config.fenced)
        self.pictures += 1

    def report(self, generation: int, state: ObservedState) -> CameraReport:
        reference = self.config.spec.sources[0].reference
        original = {
            "video_source_status_updates": [],
            "latency_reports": [],
            "inference_throughput": 20.0,
            "sources_metadata": [{"source_reference": reference, "state": "RUNNING", "source_id": 0}],
        }
        return CameraReport(
            generation=generation,
            state=state,
            reason=f"there is no file {reference}" if self.behaviour.startswith("missing") else "",
            waiting_for_engine=False,
            emitted=self.emitted,
            sources=(SourceStat(source_id=0, reference=reference, state="RUNNING", emitted=self.emitted),),
            dropped={"pictures": self.pictures},  # made, which only a test wants to know
            fps=20.0,
            report=original,
        )
