"""A camera process: a pipeline's sources, its model and its sinks. This module only puts the parts together.

reader ──┐
reader ──┼─frames─► player ⇄ engine        each a thread; this one speaks with the agent,
reader ──┘             ├──► sinks          and waits for none of them
                       └──► painter        pictures, while somebody looks
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import signal
import sys
import time
from multiprocessing.connection import Connection

import cv2

from streamfleet_broker.protocol.reference import is_finite
from streamfleet_broker.protocol.values import PipelineSpec, SourceSpec, Want
from streamfleet_worker.camera.buffer import Wakeup
from streamfleet_worker.camera.channel import Channel
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.ledger import Journal, Ledger
from streamfleet_worker.camera.player import Player
from streamfleet_worker.camera.reader import Reader
from streamfleet_worker.camera.report import (
    SourceFacts,
    observed_state,
    reason_of,
    source_metadata,
    status_report,
)
from streamfleet_worker.camera.source import quiet_libraries
from streamfleet_worker.control import (
    REPORT_INTERVAL,
    CameraConfig,
    CameraReport,
    Change,
    Show,
    Stop,
    receive,
    send,
)
from streamfleet_worker.lifeline import die_with_parent
from streamfleet_worker.progress import Progress
from streamfleet_worker.scheduling import let_others_finish

logger = logging.getLogger(__name__)

_STOPPING = 0.7  # seconds that the player gets at the end, and then all readers together


class Camera:
    """The parts of one camera process."""

    def __init__(self, config: CameraConfig) -> None:
        """Raises: OSError when the fence or the progress cannot be opened."""
        self._config = config
        self.changed = Wakeup()
        self._wakeup = Wakeup()
        self._journal = Journal()
        self._progress = Progress.open(config.progress_path, sources=len(config.spec.sources))
        self._emitter = Emitter(config)
        now = time.monotonic()
        self._channels = [self._channel(*numbered, now) for numbered in enumerate(config.spec.sources)]
        self._readers = [
            Reader(
                spec,
                position=self._progress.position(channel.source_id),
                buffer=channel.buffer,
                ledger=channel.ledger,
            )
            for spec, channel in zip(config.spec.sources, self._channels, strict=True)
        ]
        self.player = Player(
            config,
            self._channels,
            wakeup=self._wakeup,
            emitter=self._emitter,
            journal=self._journal,
            changed=self.changed,
        )

    def start(self) -> None:
        """Begin to play."""
        self.player.start()
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """End within two seconds, whatever the sources do."""
        self.player.stop(_STOPPING)  # first: nothing is emitted from here on
        for reader in self._readers:
            reader.stop(0.0)  # all hear it before one is waited for
        until = time.monotonic() + _STOPPING
        for reader in self._readers:
            reader.stop(max(0.0, until - time.monotonic()))

    def change(self, gen: int, want: Want, spec: PipelineSpec) -> None:
        """Go on under this generation and by this spec, or pause. When this returns, it is so."""
        self.player.change(gen, want, spec)
        self._emitter.sample(spec.sampling)

    @property
    def failed(self) -> bool:
        """A thread ended by an error of ours: only a new process heals that."""
        return self.player.failed or any(reader.failed for reader in self._readers)

    def report(self) -> CameraReport:
        """The present state. Waits for nothing."""
        now = time.monotonic()
        player, channels = self.player, self._channels
        # Read once, and before the counters: what is said to be paused has emitted all that it will.
        paused, done, over = player.paused, player.done, [channel.done for channel in channels]
        states = [channel.ledger.state for channel in channels]
        sources = tuple(channel.ledger.source_stat(now) for channel in channels)
        facts = [
            SourceFacts(state, source.attempts, ended)
            for state, source, ended in zip(states, sources, over, strict=True)
        ]
        fps = round(sum(source.fps for source in sources), 3)
        return CameraReport(
            gen=player.gen,
            state=observed_state(facts, paused=paused, engine_met=player.began),
            reason=reason_of(sources),
            waiting_for_engine=not done and player.waits_for_engine(now),
            emitted=sum(source.emitted for source in sources),
            sources=sources,
            dropped=self._emitter.dropped,
            samples=self._emitter.samples,
            fps=fps,
            report=status_report(
                events=self._journal.events,
                latencies=[channel.ledger.latencies for channel in channels],
                throughput=fps,
                metadata=[
                    source_metadata(
                        source,
                        properties=channel.ledger.properties,
                        buffer_size=channel.buffer.capacity,
                        filling=channel.buffer.filling,
                        consumption=channel.buffer.consumption,
                    )
                    for source, channel in zip(sources, channels, strict=True)
                ],
            ),
        )

    def _channel(self, source_id: int, spec: SourceSpec, now: float) -> Channel:
        ledger = Ledger(
            spec.reference,
            now=now,
            changed=self.changed,
            source_id=source_id,
            journal=self._journal,
            finite=is_finite(spec),
        )
        return Channel(source_id, spec, wakeup=self._wakeup, ledger=ledger, progress=self._progress)


def main(config: CameraConfig, connection: Connection) -> None:
    """The whole life of the process. It ends when it is told to, or when the agent is gone."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    let_others_finish()
    quiet_libraries()
    cv2.setNumThreads(1)  # a camera is one core's work; the engine has the others
    camera = Camera(config)
    camera.start()
    try:
        _serve(camera, connection)
    except (EOFError, OSError):
        logger.info("the agent is gone")
    camera.stop()
    with contextlib.suppress(OSError):
        send(connection, camera.report())  # the last frames and samples were counted after the one before
    if camera.failed:
        sys.exit(1)


def _serve(camera: Camera, connection: Connection) -> None:
    """Report at each change and every interval, do as the agent says, until it says stop."""
    while not camera.failed:
        camera.changed.clear()
        send(connection, camera.report())
        next_report = time.monotonic() + REPORT_INTERVAL
        while (left := next_report - time.monotonic()) > 0:
            ready = multiprocessing.connection.wait([connection, camera.changed.fileno()], left)
            if connection in ready:
                match receive(connection):
                    case Stop():
                        return
                    case Change(gen, want, spec):
                        camera.change(gen, want, spec)
                    case Show(wanted):
                        camera.player.show(wanted)
            if ready:
                break
