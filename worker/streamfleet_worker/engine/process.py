"""An engine process: loads one model and serves the cameras of this device until it is stopped.

loading ──► ready
       └──► failed, damaged (and waits: the agent decides whether to try again)

A model that exceeds its memory or time ends only this process.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from streamfleet_core.protocol.source_reference import shown_reason
from streamfleet_core.protocol.status import BatchingStat
from streamfleet_worker.engine.accelerators.choice import Wanted, accelerators
from streamfleet_worker.engine.accelerators.errors import AcceleratorUnusable
from streamfleet_worker.engine.batch_rules import (
    BatchRules,
    WantedBatching,
    choose_batching,
    measurement_key,
)
from streamfleet_worker.engine.confinement import confine, limited_time
from streamfleet_worker.engine.loading import load, offered
from streamfleet_worker.engine.onnx_session import BadModel, DamagedModel
from streamfleet_worker.engine.server import EngineServer
from streamfleet_worker.engine.tensorrt.background_build import BackgroundBuild
from streamfleet_worker.engine.tensorrt.build import BuildRequest
from streamfleet_worker.engine.tensorrt.plan_loading import PlanMissing, build_failed
from streamfleet_worker.engine.variant_loading import Chosen, first_provider, load_best
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.host.machine_probe import MachineProbe
from streamfleet_worker.host.own_memory import OwnMemory
from streamfleet_worker.ipc.child_messages import (
    EngineConfig,
    EngineReport,
    Stop,
    next_report_after,
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
    machine = (probe or MachineProbe()).read()
    offer = offered(machine)  # before `confine`: the memory of its libraries does not count for the model
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server: EngineServer | None = None
    chosen: Chosen | None = None
    rules: BatchRules | None = None
    build: BackgroundBuild | None = None
    threads = config.threads or cores()
    failure = EngineReport("failed", "", 0, 0.0)
    try:
        send(connection, EngineReport("loading", "", 0, 0.0))
        wanted = Wanted(config.accelerator, config.provider)
        accelerated = bool(accelerators(wanted, offer))
        confine(config.manifest, runs=threads, accelerated=accelerated)
        within = partial(limited_time, times=_FOR_GPU) if accelerated else limited_time
        load_file = partial(
            load,
            wanted=wanted,
            machine=machine,
            offer=offer,
            plans=Path(config.plans_path) if config.plans_path else None,
            within=within,
        )
        chosen, build = _load(
            connection,
            partial(
                load_best,
                load_file,
                config.weights_path,
                config.manifest,
                variant=config.variant,
                variant_path=config.variant_path,
                provider=first_provider(wanted, offer),
            ),
        )
        model = chosen.loaded.model
        rules = choose_batching(
            model,
            WantedBatching(max_batch=config.max_batch, max_delay=config.max_delay),
            key=measurement_key(
                model,
                chosen.sha256,
                tensorrt=offer.tensorrt,
                device=machine.accelerator,
            ),
            folder=Path(config.batches_path) if config.batches_path else None,
        )
        server = EngineServer(model, config.socket_path, threads=threads, batching=rules.batching)
        server.start()
        what = f" its {chosen.variant} variant" if chosen.variant else ""
        logger.info("model %s:%s ready on %s", config.manifest.digest[:12], what, model.provider)
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
        if server is None or chosen is None or rules is None:
            _report_failure(connection, failure)
        else:
            _report_until_stop(connection, server, chosen, build, rules.stat)
    except (EOFError, OSError):
        logger.info("model %s: the agent is gone", config.manifest.digest[:12])
    if build is not None:
        build.stop()
    if server is not None:
        server.close(_CLOSING)


def _load(connection: Connection, load_model: Callable[[], Chosen]) -> tuple[Chosen, BackgroundBuild | None]:
    """Load the model. If an accelerator is required that needs a plan, the plan is built first.

    Raises: BadModel, AcceleratorUnusable; SystemExit if the agent stops us meanwhile.
    """
    try:
        chosen = load_model()
    except PlanMissing as exc:
        _build_first(connection, exc.request)
        return load_model(), None
    plan = chosen.loaded.plan
    return chosen, None if plan is None else BackgroundBuild(plan)


def _build_first(connection: Connection, request: BuildRequest) -> None:
    build = BackgroundBuild(request)
    try:
        while build.is_running:
            send(connection, EngineReport("loading", "", 0, 0.0, activity=build.activity()))
            if _is_stopped(connection):
                raise SystemExit
        if build.failure:
            raise AcceleratorUnusable(build_failed(build.failure))
    finally:
        build.stop()


def _report_failure(connection: Connection, failure: EngineReport) -> None:
    while True:
        send(connection, failure)
        if _is_stopped(connection):
            return


def _report_until_stop(
    connection: Connection,
    server: EngineServer,
    chosen: Chosen,
    build: BackgroundBuild | None,
    batching: BatchingStat | None,
) -> None:
    model, missing = chosen.loaded.model, chosen.loaded.missing
    memory = OwnMemory()
    while True:
        now = time.monotonic()
        inferences, oldest_run = server.figures(now)
        report = EngineReport("ready", server.failure(now), inferences, oldest_run)
        report = replace(
            report,
            provider=model.provider,
            batching=batching,
            variant=chosen.variant,
            variant_trouble=chosen.trouble,
            cost=server.cost(),
            memory=memory.at(now),
        )
        if build is None:
            report = replace(report, missing=missing)
        elif build.is_running:
            report = replace(report, missing=missing, activity=build.activity())
        elif build.failure:
            logger.error("TensorRT built no plan: %s", build.failure)
            if model.on_cpu:
                missing = build_failed(build.failure)
            report = replace(report, missing=missing)
            build = None
        else:
            report = replace(report, missing=missing, outdated=True)
        send(connection, report)
        if _is_stopped(connection):
            return


def _is_stopped(connection: Connection) -> bool:
    """Wait until the next report is due. Returns whether the agent has asked us to stop."""
    next_report = next_report_after(time.monotonic())
    while (left := next_report - time.monotonic()) > 0:
        if connection.poll(left) and isinstance(receive(connection), Stop):
            return True
    return False
