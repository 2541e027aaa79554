"""A camera process: one source, one model, one pipeline's sinks. This module only puts the parts together.

reader ──frames──► player ⇄ engine         each a thread; this one speaks with the agent,
                      └──► sinks           and waits for neither
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import signal
import sys
import time
from multiprocessing.connection import Connection

import cv2
import zmq

from streamfleet_broker.protocol.reference import SourceKind, kind_of
from streamfleet_worker.camera.buffer import FrameBuffer, Wakeup
from streamfleet_worker.camera.emitter import Emitter
from streamfleet_worker.camera.ledger import Ledger
from streamfleet_worker.camera.player import Player
from streamfleet_worker.camera.reader import Reader
from streamfleet_worker.camera.report import observed_state, shown_source_state
from streamfleet_worker.camera.source import quiet_libraries
from streamfleet_worker.control import (
    REPORT_INTERVAL,
    CameraConfig,
    CameraReport,
    Change,
    Stop,
    receive,
    send,
)
from streamfleet_worker.lifeline import die_with_parent
from streamfleet_worker.progress import Progress

logger = logging.getLogger(__name__)

_FILE_FRAMES = 4  # decoded ahead
_LIVE_FRAMES = 1  # the newest
_STOPPING = 0.7  # seconds that each thread gets at the end


class Camera:
    """The parts of one camera process."""

    def __init__(self, config: CameraConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Raises: OSError when the fence or the progress cannot be opened."""
        source = config.spec.sources[0]
        self._finite = kind_of(source.reference) is SourceKind.FILE
        self.changed = Wakeup()
        wakeup = Wakeup()
        self._ledger = Ledger(source.reference, now=time.monotonic(), changed=self.changed)
        self._buffer = FrameBuffer(
            _FILE_FRAMES if self._finite else _LIVE_FRAMES, waits=self._finite, wakeup=wakeup
        )
        progress = Progress.open(config.progress_path)
        self._emitter = Emitter(config, context)
        self._reader = Reader(
            source,
            position=progress.position,
            buffer=self._buffer,
            ledger=self._ledger,
        )
        self.player = Player(
            config,
            buffer=self._buffer,
            wakeup=wakeup,
            emitter=self._emitter,
            progress=progress,
            ledger=self._ledger,
            changed=self.changed,
        )

    def start(self) -> None:
        """Begin to play."""
        self.player.start()
        self._reader.start()

    def stop(self) -> None:
        """End within two seconds, whatever the source does."""
        self.player.stop(_STOPPING)  # first: nothing is emitted from here on
        self._reader.stop(_STOPPING)

    @property
    def failed(self) -> bool:
        """A thread ended by an error of ours: only a new process heals that."""
        return self.player.failed or self._reader.failed

    def report(self) -> CameraReport:
        """The present state. Waits for nothing."""
        now = time.monotonic()
        player, ledger = self.player, self._ledger
        # Read once, and before the counters: what is said to be paused has emitted all that it will.
        paused, done = player.paused, player.done
        shown = shown_source_state(ledger.state, finite=self._finite, paused=paused, done=done)
        source = ledger.source_stat(now, shown=shown)
        state = observed_state(
            ledger.state, paused=paused, done=done, attempts=source.attempts, engine_met=player.began
        )
        return CameraReport(
            gen=player.gen,
            state=state,
            reason=source.reason,
            waiting_for_engine=not done and player.waits_for_engine(now),
            emitted=source.emitted,
            sources=(source,),
            dropped=self._emitter.dropped,
            fps=ledger.fps(now),
            report=ledger.report(now, shown=shown, buffer_size=self._buffer.capacity),
        )


def main(config: CameraConfig, connection: Connection) -> None:
    """The whole life of the process. It ends when it is told to, or when the agent is gone."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_libraries()
    cv2.setNumThreads(1)  # a camera is one core's work; the engine has the others
    camera = Camera(config, zmq.Context(io_threads=1))
    camera.start()
    try:
        _serve(camera, connection)
    except (EOFError, OSError):
        logger.info("the agent is gone")
    camera.stop()
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
                    case Change(gen, want, _):
                        camera.player.change(gen, want)
            if ready:
                break
