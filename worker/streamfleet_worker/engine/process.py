"""An engine process: loads one model and serves the cameras of this device until it is stopped.

loading ──► ready
       └──► failed, damaged (and waits: the agent decides whether to try again)

A model that exceeds its memory or time ends only this process.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_worker.engine.accelerators.choice import Wanted, accelerators
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.confinement import confine, limited_time
from streamfleet_worker.engine.loading import Loaded, load, offered
from streamfleet_worker.engine.onnx_session import BadModel, DamagedModel
from streamfleet_worker.engine.server import EngineServer
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.ipc.child_messages import (
    REPORT_INTERVAL,
    EngineConfig,
    EngineReport,
    Stop,
    receive,
    send,
)
from streamfleet_worker.ipc.parent_death import die_with_parent

logger = logging.getLogger(__name__)

_FOR_GPU = 3  # times as long: its libraries may compile first
_CLOSING = 1.0  # seconds for running inferences at the end


def main(config: EngineConfig, connection: Connection, probe: MachineProbe | None = None) -> None:
    """Run the process until the agent stops it, or is gone."""
    die_with_parent()
    offer = offered()  # before `confine`: the memory of ONNX Runtime does not count for the model
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server: EngineServer | None = None
    loaded: Loaded | None = None
    threads = config.threads or cores()
    failure = EngineReport("failed", "", 0, 0.0)
    try:
        send(connection, EngineReport("loading", "", 0, 0.0))
        wanted = Wanted(config.accelerator, config.provider)
        accelerated = bool(accelerators(wanted, offer))
        confine(config.manifest, runs=threads, accelerated=accelerated)
        within = partial(limited_time, times=_FOR_GPU) if accelerated else limited_time
        loaded = load(
            config.weights_path,
            config.manifest,
            wanted=wanted,
            machine=(probe or MachineProbe()).read(),
            offer=offer,
            within=within,
        )
        server = EngineServer(loaded.model, config.socket_path, threads=threads)
        server.start()
        logger.info("model %s: ready on %s", config.manifest.digest[:12], loaded.model.provider)
    except AcceleratorUnusable as exc:
        failure = replace(
            failure, reason=shown_reason(f"an accelerator is required: {exc}"), missing=exc.missing
        )
        logger.error("model %s: %s; %s", config.manifest.digest[:12], failure.reason, exc.missing.remedy)
    except (BadModel, OSError, ValueError) as exc:
        state: Literal["failed", "damaged"] = "failed"
        if isinstance(exc, DamagedModel):
            state = "damaged"
            Path(config.weights_path).unlink(missing_ok=True)  # so that it is fetched again
        failure = replace(failure, state=state, reason=shown_reason(str(exc)))
        logger.error("model %s: %s", config.manifest.digest[:12], failure.reason)
    try:
        _report_until_stop(connection, server, loaded, failure)
    except (EOFError, OSError):
        logger.info("model %s: the agent is gone", config.manifest.digest[:12])
    if server is not None:
        server.close(_CLOSING)


def _report_until_stop(
    connection: Connection, server: EngineServer | None, loaded: Loaded | None, failure: EngineReport
) -> None:
    while True:
        now = time.monotonic()
        if server is None or loaded is None:
            send(connection, failure)
        else:
            inferences, oldest_run = server.figures(now)
            reason = server.failure(now)
            report = EngineReport("ready", reason, inferences, oldest_run)
            send(connection, replace(report, provider=loaded.model.provider, missing=loaded.missing))
        next_report = now + REPORT_INTERVAL
        while (left := next_report - time.monotonic()) > 0:
            if connection.poll(left) and isinstance(receive(connection), Stop):
                return
