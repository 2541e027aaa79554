"""The agent of a device: one loop that performs what the session and the reconciler decide, nothing else.

    broker ◀──link──▶ session ──desired state──▶ reconciler ──actions──▶ child processes, models, state
                         ▲────────observed────┘ ▲───reports, exits────┘

Each input is handled completely before the next. Only the reconciler's actions wait, for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import zmq
import zmq.asyncio
from typing_extensions import assert_never

from streamfleet_core.datasets.spool import Spool
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.messages import Drill, Hello, Welcome
from streamfleet_core.protocol.values import Assignment
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.agent.addresses import publish_endpoints, reached_by
from streamfleet_worker.agent.blob_cache import Source
from streamfleet_worker.agent.broker_link import BrokerLink
from streamfleet_worker.agent.child_processes import ChildProcesses
from streamfleet_worker.agent.identity import Identity
from streamfleet_worker.agent.model_cache import ModelCache
from streamfleet_worker.agent.optimiser import Optimiser
from streamfleet_worker.agent.paths import WorkerPaths
from streamfleet_worker.agent.sample_retention import SampleRetention
from streamfleet_worker.agent.sample_uploader import Uploader
from streamfleet_worker.agent.source_files import SourceFiles
from streamfleet_worker.agent.state_db import State
from streamfleet_worker.agent.status_publisher import StatusPublisher
from streamfleet_worker.config import WorkerConfig
from streamfleet_worker.decisions import reconcile_actions as actions
from streamfleet_worker.decisions import reconcile_events as events
from streamfleet_worker.decisions import session_effects as effects
from streamfleet_worker.decisions.broker_session import Session
from streamfleet_worker.decisions.cost_meter import INTERVAL as SAMPLE_INTERVAL
from streamfleet_worker.decisions.device_trouble import device_trouble
from streamfleet_worker.decisions.drills import fault_target
from streamfleet_worker.decisions.reconcile_events import ChildId, Event, PublisherId, Row
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.host.board import read_board
from streamfleet_worker.host.host_stats import read_resources
from streamfleet_worker.host.sensors import Sensors, SensorThread
from streamfleet_worker.ipc.child_messages import (
    AllowSubscribers,
    CameraConfig,
    Change,
    Compare,
    EngineConfig,
    KeepConfig,
    KeepPredictions,
    ModelConfig,
    PublisherConfig,
    Relay,
    Show,
    Stop,
)
from streamfleet_worker.ipc.fence import Fence

logger = logging.getLogger(__name__)

TICK = 0.1  # seconds
TIDY_AFTER = 2.0  # seconds without a change to store, after which the database is tidied
WRITE_TIMEOUT = 0.5  # seconds for the disk at an orderly stop
STOP_TIMEOUT = 1.5  # seconds for the children at an orderly stop
GOODBYE_TIMEOUT = 1000  # milliseconds for the goodbye to leave this machine


@dataclass(frozen=True, slots=True)
class Entries:
    """The entry points of the children, each a `module:function`."""

    camera: str = "streamfleet_worker.camera.process:main"
    engine: str = "streamfleet_worker.engine.process:main"
    publisher: str = "streamfleet_worker.publisher.process:main"


class Agent:
    """The agent of one device. Create and run it in the main thread's loop; `stop` ends it in order.

    `on_turn` is called about once a second while the loop runs.
    `board`: the name of this kind of device; None: as the machine shows it.
    """

    def __init__(
        self,
        config: WorkerConfig,
        identity: Identity,
        *,
        rng: Callable[[], float],
        entries: Entries | None = None,
        on_turn: Callable[[], None] = lambda: None,
        board: str | None = None,
    ) -> None:
        board = read_board() if board is None else board
        self._config = config
        self._identity = identity
        self._entries = entries or Entries()
        self._on_turn = on_turn
        self._paths = WorkerPaths(config.data_dir)
        self._paths.make()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        self._state = State(self._paths.database, identity.broker_key)
        self._fence = Fence.create()
        self._reconcile = Reconcile(self._state.rows(), rng)
        publish = publish_endpoints(config, identity.endpoints[0])
        self._session = Session(
            Hello(
                device=identity.device,
                boot=secrets.token_bytes(16),
                agent=importlib.metadata.version("streamfleet"),
                capacity=config.capacity,
                seen_epoch=self._state.seen_epoch,
                publish=publish[0] if publish else "",
                publish_also=publish[1:],
                drills=config.allow_drills,
                optimises=True,
                resources=read_resources(board, is_limited=config.capacity_is_given),
            ),
            rng,
            several=len(config.brokers) > 1,
        )
        self._models = ModelCache(self._paths.models, self._handle_event, rng, board=board)
        self._files = SourceFiles(self._paths.files, rng)
        self._children = ChildProcesses(
            on_report=lambda child, report: self._handle_event(events.Reported(child, report)),
            on_exit=lambda child, code: self._handle_event(events.Exited(child, code)),
        )
        spool = Spool(self._paths.samples, size=config.samples_size, age=config.samples_age)
        self._retention = SampleRetention(spool)
        self._uploader = Uploader(spool, rng)
        self._optimiser = Optimiser(
            self._paths, spool, board=board, accelerator=config.accelerator, provider=config.provider
        )
        self._context = zmq.asyncio.Context()
        self._link = BrokerLink(self._context, identity.keys, self._on_message)
        self._sensors = SensorThread(Sensors(config.data_dir))
        self._status = StatusPublisher(
            self._paths.intake,
            device=identity.device,
            capacity=config.capacity,
            starts=self._state.starts,
            session=self._session,
            reconcile=self._reconcile,
            sensors=self._sensors,
            board=board,
            optimisation=lambda: self._optimiser.stat,
        )

        # Batches of actions, and what is to be stored, in order. None: tidy the database.
        self._waiting: asyncio.Queue[list[actions.Action] | Callable[[], None] | None] = asyncio.Queue()
        self._tidy_at = float("inf")  # when the database's journal is merged into its file, which is slow
        self._stopping = False
        self._isolated_until = float("-inf")  # a drill keeps us from the broker
        self._endpoint = ""  # of the broker, in use
        self._closed_for = ""  # why the last session ended, until the next one begins
        self._short_id = self._state.short_id  # until the broker tells it
        self._measured_models: frozenset[str] = frozenset()  # of whose pipelines the broker is told figures
        self._publisher: PublisherId | None = None
        self._relay: Relay | None = None
        self._allowed = AllowSubscribers(())
        self._kept = KeepPredictions({})

    def stop(self) -> None:
        """End `run`."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def run(self) -> None:
        """Work until `stop`. An unexpected exception ends it too: the program's parent starts it again."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        self._retention.start()
        self._sensors.start()
        if self._config.samples_upload:
            self._uploader.start()
        tasks = [
            asyncio.create_task(self._tick_until_stopped(), name="ticks"),
            asyncio.create_task(self._perform_until_stopped(), name="actions"),
        ]
        try:
            await asyncio.wait([self._ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for done in (self._ended, *tasks):
                if done.done():
                    done.result()
        finally:
            await self._shut_down(tasks)

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        loop.default_exception_handler(context)
        exc = context.get("exception")
        if isinstance(exc, Exception) and not self._ended.done():
            self._ended.set_exception(exc)

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        self._stopping = True
        self._retention.stop()
        self._sensors.stop()
        ticks, performer = tasks
        ticks.cancel()
        # Decisions are still stored: the next start must know which files have ended.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._performed(performer), WRITE_TIMEOUT)
        performer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Before the goodbye: the broker then gives movable pipelines to other devices at once.
        self._fence.extend(0.0)
        for effect in self._session.leave("stop"):
            assert isinstance(effect, effects.Send)
            self._link.send(effect.envelope)
        await self._models.close()
        await self._files.close()
        await self._uploader.close()
        await self._optimiser.close()
        await self._children.stop(STOP_TIMEOUT, last=self._publisher)
        self._link.close(linger=GOODBYE_TIMEOUT)
        self._context.destroy(linger=0)
        self._status.close()
        self._fence.close()
        self._state.close()

    async def _performed(self, performer: asyncio.Task[None]) -> None:
        """Return when all actions are performed, or when the performer has ended."""
        nothing_waits = asyncio.ensure_future(self._waiting.join())
        await asyncio.wait([nothing_waits, performer], return_when=asyncio.FIRST_COMPLETED)
        nothing_waits.cancel()

    # inputs

    async def _tick_until_stopped(self) -> None:
        turned_at = sampled_at = float("-inf")
        observed_before = self._reconcile.observed()
        while True:
            self._perform_effects(self._session.tick(boot_time()))
            self._put(self._reconcile.tick(boot_time()))
            self._report_to_broker()
            now, observed = boot_time(), self._reconcile.observed()
            if self._status.is_due(now) or observed != observed_before:
                self._status.publish(now, short_id=self._short_id)
            observed_before = observed
            if now >= self._tidy_at and self._waiting.empty():
                self._tidy_at = float("inf")
                self._waiting.put_nowait(None)
            if now - sampled_at >= SAMPLE_INTERVAL:
                sampled_at = now
                self._session.measure(self._reconcile.sample_costs(now))
            if now - turned_at >= 1.0:
                turned_at = now
                if self._measured_models:
                    self._session.tell_figures(self._reconcile.figures(self._measured_models, now))
                self._on_turn()
            await asyncio.sleep(TICK)

    def _on_message(self, envelope: Envelope) -> None:
        if boot_time() < self._isolated_until:
            return
        self._perform_effects(self._session.receive(envelope, boot_time()))
        self._report_to_broker()

    def _handle_event(self, event: Event) -> None:
        if not self._stopping:
            self._feed(event)
            # Before the broker confirms a command, its client must find the new status.
            self._status.publish(boot_time(), short_id=self._short_id, only=_pipeline_of(event))
            self._report_to_broker()

    def _feed(self, event: Event) -> None:
        self._put(self._reconcile.receive(event, boot_time()))

    def _put(self, batch: list[actions.Action]) -> None:
        if batch:
            self._waiting.put_nowait(batch)

    def _report_to_broker(self) -> None:
        missing = self._reconcile.missing_accelerator()
        trouble = device_trouble(missing, self._sensors.latest().throttle_reason)
        observed = self._reconcile.observed()
        self._perform_effects(self._session.observe(observed, boot_time(), trouble=trouble))

    # effects of the session

    def _perform_effects(self, batch: list[effects.Effect]) -> None:
        for effect in batch:
            self._perform_effect(effect)

    def _perform_effect(self, effect: effects.Effect) -> None:  # noqa: C901 - a table
        match effect:
            case effects.Open():
                endpoints = self._identity.endpoints
                self._endpoint = endpoints[effect.endpoint % len(endpoints)]
                self._link.open(self._endpoint)
            case effects.Close():
                self._closed(effect.reason)
            case effects.Send():
                isolated = boot_time() < self._isolated_until
                if isolated or not self._link.send(effect.envelope):
                    self._session.unsent(effect.envelope)
            case effects.RememberEpoch():
                self._waiting.put_nowait(partial(self._state.remember_epoch, effect.epoch))
            case effects.Welcomed():
                self._welcomed(effect.welcome)
            case effects.Adopt():
                logger.info(
                    "%s: revision %d of the desired state, %d pipelines",
                    self._identity.device,
                    effect.revision,
                    len(effect.assignments),
                )
                self._files.adopt(effect.assignments)
                self._optimiser.adopt(effect.optimisation, effect.assignments)
                self._keep_predictions(effect.assignments)
                self._measured_models = frozenset(effect.trials.measured)
                self._feed(events.Adopted(effect.assignments, effect.trials.shadows))
            case effects.StartWithoutBroker():
                self._start_without_broker()
            case effects.AllowSubscribers():
                self._allowed = AllowSubscribers(effect.keys)
                self._send_to_publisher(self._allowed)
            case effects.CauseFault():
                self._cause(effect.drill)
            case effects.ExtendFence():
                if not self._reconcile.is_leaving():  # a stop takes less than a lease
                    self._fence.extend(effect.until)
            case effects.CloseFence():
                self._fence.extend(0.0)
            case effects.LeaseEnded():
                logger.warning("%s: out of contact, movable pipelines are stopped", self._identity.device)
                self._fence.extend(0.0)
                self._feed(events.Fenced())
            case effects.LeaseRenewed():
                logger.info("%s: in contact", self._identity.device)
                self._feed(events.Unfenced())
            case _:
                assert_never(effect)

    def _start_without_broker(self) -> None:
        self._feed(events.BrokerAbsent())
        if resumed := len(self._reconcile.observed()):
            logger.warning(
                "%s: the broker does not answer, %d pipelines start as stored", self._identity.device, resumed
            )

    def _cause(self, drill: Drill) -> None:
        """Cause a fault, as an operator has asked for, if this device takes part in drills."""
        if not self._config.allow_drills:
            logger.warning("%s: a drill was refused: --allow-drills is not set", self._identity.device)
            return
        if drill.fault == "isolate":
            logger.warning("%s: drill: isolated for %g s", self._identity.device, drill.seconds)
            self._isolated_until = boot_time() + drill.seconds
            return
        child = fault_target(self._reconcile.children(), drill)
        if child is None:
            logger.warning("%s: drill: there is no %s to kill", self._identity.device, drill.fault)
        else:
            logger.warning("%s: drill: %s is killed", self._identity.device, _name(child))
            self._children.kill(child)

    def _closed(self, reason: str) -> None:
        self._link.close()
        # Warn of the first failure only.
        level = logging.WARNING if reason != self._closed_for else logging.DEBUG
        self._closed_for = reason
        logger.log(level, "%s: %s: %s, trying again", self._identity.device, self._endpoint, reason)

    def _welcomed(self, welcome: Welcome) -> None:
        logger.info("%s: session with the broker at %s", self._identity.device, self._endpoint)
        self._closed_for = ""
        host = urlsplit(self._endpoint).hostname or ""
        if welcome.short_id != self._short_id:
            self._short_id = welcome.short_id
            self._waiting.put_nowait(partial(self._state.remember_short_id, welcome.short_id))
        fingerprint = welcome.api_fingerprint
        if fingerprint is None:
            fingerprint = self._identity.api_fingerprint
        source = Source.of(reached_by(welcome.api, host), welcome.ticket, fingerprint)
        self._models.use(source)
        self._files.use(source)
        self._uploader.use(source)
        self._optimiser.use(source)
        relay = Relay(
            tuple(reached_by(endpoint, host) for endpoint in welcome.relay),
            self._identity.broker_key,
            tuple(reached_by(endpoint, host) for endpoint in welcome.pictures),
            welcome.replays,
        )
        if relay != self._relay:
            self._relay = relay
            self._send_to_publisher(relay)

    def _keep_predictions(self, assignments: Iterable[Assignment]) -> None:
        kept = KeepPredictions({each.pipeline_id: each.spec.keep for each in assignments})
        if kept != self._kept:
            self._kept = kept
            self._send_to_publisher(kept)

    def _send_to_publisher(self, message: Relay | AllowSubscribers | KeepPredictions) -> None:
        if self._publisher is not None:
            self._children.send(self._publisher, message)

    # actions of the reconciler

    async def _perform_until_stopped(self) -> None:
        """Perform actions in order. A thread waits for the disk: a slow one delays no heartbeat."""
        await asyncio.to_thread(self._remove_old_positions)
        while True:
            item = await self._waiting.get()
            if item is None:
                await asyncio.to_thread(self._state.tidy)
            elif isinstance(item, list):
                await self._perform_batch(item)
            else:
                await asyncio.to_thread(self._store, item)
            self._waiting.task_done()

    async def _perform_batch(self, batch: list[actions.Action]) -> None:
        changes = [change for change in batch if isinstance(change, actions.Persist | actions.Forget)]
        if changes:
            await asyncio.to_thread(self._write, changes)
            rows = tuple(change.row for change in changes if isinstance(change, actions.Persist))
            self._handle_event(events.Stored(rows))
        for action in batch:
            self._perform(action)

    def _store(self, store: Callable[[], None]) -> None:
        """Store what the broker has told."""
        self._tidy_at = boot_time() + TIDY_AFTER
        try:
            store()
        except sqlite3.Error as exc:
            logger.error("%s: what the broker told could not be stored: %s", self._paths.database, exc)

    def _write(self, changes: list[actions.Persist | actions.Forget]) -> None:
        """Store changes. With a full disk everything goes on, but a restart does not know these changes."""
        self._tidy_at = boot_time() + TIDY_AFTER
        try:
            self._state.write(changes)
        except sqlite3.Error as exc:
            logger.error("%s: %d changes could not be stored: %s", self._paths.database, len(changes), exc)
        else:
            self._remove_old_positions()

    def _remove_old_positions(self) -> None:
        """Remove the playback positions of runs that are over."""
        rows: list[Row] = self._state.rows()
        keep = {self._paths.playback_position(row.pipeline_id, row.run_generation).name for row in rows}
        for path in self._paths.progress.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def _perform(self, action: actions.Action) -> None:  # noqa: C901 - a table
        match action:
            case actions.Persist() | actions.Forget():
                pass  # already stored, before all others
            case actions.Refuse():
                logger.warning(
                    "%s: an assignment of generation %d was refused, %d is known",
                    action.pipeline_id,
                    action.generation,
                    action.known_generation,
                )
            case actions.FetchModel():
                self._models.fetch(action.digest)
            case actions.CancelFetch():
                self._models.cancel(action.digest)
            case actions.StartPublisher():
                self._start_publisher(action)
            case actions.StartEngine():
                self._start_engine(action)
            case actions.StartCamera():
                self._start_camera(action)
            case actions.ChangeCamera():
                self._change_camera(action)
            case actions.ShadowCamera():
                self._shadow_camera(action)
            case actions.ShowPictures():
                self._children.send(action.child, Show(action.wanted))
            case actions.StopChild():
                self._children.send(action.child, Stop())
            case actions.KillChild():
                logger.warning("%s: killed: %s", _name(action.child), action.reason)
                self._children.kill(action.child)
            case _:
                assert_never(action)

    def _change_camera(self, action: actions.ChangeCamera) -> None:
        assignment = action.assignment
        refs = assignment.spec.ordered_models if action.manifests else ()
        models = tuple(
            None if manifest is None else ModelConfig(manifest, self._paths.engine(ref.digest))
            for ref, manifest in zip(refs, action.manifests, strict=True)
        )
        spec = self._files.local(assignment.spec)
        self._children.send(
            action.child, Change(assignment.generation, assignment.desired_status, spec, models)
        )

    def _shadow_camera(self, action: actions.ShadowCamera) -> None:
        shadow, compare = action.shadow, Compare(None)
        if shadow is not None and action.manifest is not None:
            model = ModelConfig(action.manifest, self._paths.engine(shadow.model.digest))
            compare = Compare(model, shadow.share, shadow.dataset)
        self._children.send(action.child, compare)

    def _start_publisher(self, action: actions.StartPublisher) -> None:
        config = self._config
        direct = "" if config.publish_port is None else f"tcp://{config.publish_host}:{config.publish_port}"
        self._publisher = action.child
        self._children.start(
            action.child,
            name=_name(action.child),
            entry=self._entries.publisher,
            config=PublisherConfig(
                device=self._identity.device,
                intake_path=self._paths.intake,
                picture_intake_path=self._paths.picture_intake,
                local_endpoint=self._paths.predictions,
                local_picture_endpoint=self._paths.pictures,
                direct_endpoint=direct,
                public_key=self._identity.public_key,
                secret_key=self._identity.secret_key,
                fence_path=self._fence.path,
                keep=KeepConfig(
                    folder=str(self._paths.sent),
                    memory_size=config.keep_memory,
                    disk_size=config.keep_disk,
                    age=config.keep_age,
                ),
            ),
        )
        if self._relay is not None:
            self._send_to_publisher(self._relay)
        self._send_to_publisher(self._allowed)
        self._send_to_publisher(self._kept)

    def _start_engine(self, action: actions.StartEngine) -> None:
        variant = action.variant
        self._children.start(
            action.child,
            name=_name(action.child),
            entry=self._entries.engine,
            config=EngineConfig(
                manifest=action.manifest,
                weights_path=str(self._models.path(action.manifest.weights.sha256)),
                socket_path=self._paths.engine(action.child.digest),
                threads=self._config.engine_threads,
                accelerator=self._config.accelerator,
                provider=self._config.provider,
                plans_path=str(self._paths.plans),
                batches_path=str(self._paths.batches),
                max_batch=self._config.max_batch,
                max_delay=self._config.max_delay,
                variant=variant,
                variant_path="" if variant is None else str(self._models.path(variant.weights.sha256)),
            ),
        )

    def _start_camera(self, action: actions.StartCamera) -> None:
        assignment = action.assignment
        self._children.start(
            action.child,
            name=_name(action.child),
            entry=self._entries.camera,
            config=CameraConfig(
                pipeline_id=assignment.pipeline_id,
                device=self._identity.device,
                short_id=self._short_id,
                generation=assignment.generation,
                incarnation=action.child.incarnation,
                desired_status=assignment.desired_status,
                spec=self._files.local(assignment.spec),
                manifest=action.manifests[0],
                stages=tuple(
                    ModelConfig(manifest, self._paths.engine(stage.model.digest))
                    for stage, manifest in zip(assignment.spec.stages, action.manifests[1:], strict=True)
                ),
                defaults=self._config.defaults,
                engine_socket=self._paths.engine(assignment.spec.model.digest),
                intake_path=self._paths.intake,
                picture_intake_path=self._paths.picture_intake,
                progress_path=str(
                    self._paths.playback_position(assignment.pipeline_id, assignment.run_generation)
                ),
                fence_path=self._fence.path,
                fenced=assignment.on_disconnect == "stop",
                samples_path=str(self._paths.samples),
                samples_size=self._config.samples_size,
                decoder=self._config.decoder,
            ),
        )


def _pipeline_of(event: Event) -> str | None:
    """Return the one pipeline that an event is about, or None if it may be about several."""
    match event:
        case events.Reported(events.CameraId() as child) | events.Exited(events.CameraId() as child):
            return child.pipeline_id
    return None


def _name(child: ChildId) -> str:
    """Return the name of a child, for logs and `ps`."""
    match child:
        case events.CameraId():
            return f"camera {child.pipeline_id}"
        case events.EngineId():
            return f"engine {child.digest[:8]}"
        case PublisherId():
            return "publisher"
        case _:
            assert_never(child)
