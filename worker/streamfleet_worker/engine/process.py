"""An engine process: loads one model once and serves it to the cameras of this device, until it is stopped.

loading ──► ready
       └──► failed (and waits: whether to try another time is for the agent to say)
"""

from __future__ import annotations

import logging
import os
import signal
import time
from multiprocessing.connection import Connection

from streamfleet_worker.control import REPORT_INTERVAL, EngineConfig, EngineReport, Stop, receive, send
from streamfleet_worker.engine.door import Door
from streamfleet_worker.engine.session import BadModel, Session
from streamfleet_worker.lifeline import die_with_parent

logger = logging.getLogger(__name__)

_CLOSING = 1.0  # seconds that inferences under way get at the end


def main(config: EngineConfig, connection: Connection) -> None:
    """The whole life of the process. It ends when it is told to, or when the agent is gone."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    door: Door | None = None
    reason = ""
    try:
        send(connection, EngineReport("loading", "", "", 0, 0.0))
        session = Session(config.weights_path, config.manifest)
        door = Door(session, config.socket_path, threads=config.threads or len(os.sched_getaffinity(0)))
        door.start()
        logger.info("model %s: ready on %s", config.manifest.digest[:12], session.provider)
        provider = session.provider
    except (BadModel, OSError, ValueError) as exc:
        reason, provider = str(exc), ""
        logger.error("model %s: %s", config.manifest.digest[:12], reason)
    try:
        _report_until_stop(connection, door, provider, reason)
    except (EOFError, OSError):
        logger.info("model %s: the agent is gone", config.manifest.digest[:12])
    if door is not None:
        door.close(_CLOSING)


def _report_until_stop(connection: Connection, door: Door | None, provider: str, reason: str) -> None:
    while True:
        now = time.monotonic()
        if door is None:
            send(connection, EngineReport("failed", reason, "", 0, 0.0))
        else:
            inferences, oldest_run = door.figures(now)
            send(connection, EngineReport("ready", "", provider, inferences, oldest_run))
        next_report = now + REPORT_INTERVAL
        while (left := next_report - time.monotonic()) > 0:
            if connection.poll(left) and isinstance(receive(connection), Stop):
                return
