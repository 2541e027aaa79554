"""The agent of a device: one loop that performs what `session` and `reconcile` decide, and decides nothing.

    broker ◀──link──▶ session ──wishes──▶ reconcile ──actions──▶ supervisor, models, state
                         ▲────────observed────┘ ▲───reports, exits───┘

Inputs are handled whole, one after the other. Only the actions of `reconcile` wait: for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import logging
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgpack
import zmq
import zmq.asyncio
from typing_extensions import assert_never

from streamfleet_broker.protocol.control import Envelope
from streamfleet_broker.protocol.data import DataHeader, Kind, device_topic, pipeline_topic
from streamfleet_broker.protocol.messages import Hello, Welcome
from streamfleet_broker.protocol.spool import Spool
from streamfleet_broker.protocol.status import DeviceStat
from streamfleet_broker.protocol.values import to_plain
from streamfleet_worker import reconcile as actions
from streamfleet_worker import session as effects
from streamfleet_worker.config import SAMPLES, WorkerConfig
from streamfleet_worker.control import (
    Allow,
    CameraConfig,
    Change,
    EngineConfig,
    PublisherConfig,
    Relay,
    Show,
    Stop,
)
from streamfleet_worker.fence import Fence, boot_time
from streamfleet_worker.handover.outlet import Outlet
from streamfleet_worker.identity import Identity
from streamfleet_worker.link import Link
from streamfleet_worker.machine import look
from streamfleet_worker.models import Models, Source
from streamfleet_worker.reconcile import ChildId, Event, PipelineView, PublisherId, Reconcile, Row
from streamfleet_worker.samples.sweeper import Sweeper
from streamfleet_worker.samples.upload import Uploader
from streamfleet_worker.session import Session
from streamfleet_worker.state import State
from streamfleet_worker.status import pipeline_stat
from streamfleet_worker.supervisor import Supervisor

logger = logging.getLogger(__name__)

TICK = 0.1  # seconds
STAT_INTERVAL = 1.0  # seconds
WRITE_PATIENCE = 0.5  # seconds that the disk gets at an orderly stop
STOP_PATIENCE = 1.5  # seconds that children get at an orderly stop


@dataclass(frozen=True, slots=True)
class Entries:
    """What the children run, each a `module:function`."""

    camera: str = "streamfleet_worker.camera.process:main"
    engine: str = "streamfleet_worker.engine.process:main"
    publisher: str = "streamfleet_worker.publisher:main"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie in a data directory."""

    root: Path

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def database(self) -> Path:
        return self.root / "worker.db"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def samples(self) -> Path:
        return self.root / SAMPLES

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def fence(self) -> Path:
        return self.run / "fence"

    @property
    def progress(self) -> Path:
        return self.run / "progress"

    @property
    def temporary(self) -> Path:
        return self.run / "tmp"

    @property
    def intake(self) -> str:
        return str(self.run / "publisher.sock")

    @property
    def picture_intake(self) -> str:
        return str(self.run / "pictures.sock")

    @property
    def predictions(self) -> str:
        return f"ipc://{self.run}/predictions.ipc"

    @property
    def pictures(self) -> str:
        return f"ipc://{self.run}/pictures.ipc"

    def engine(self, digest: str) -> str:
        """The same for every process of one model, so that cameras find the next one where the last was."""
        return str(self.run / f"engine-{digest[:16]}.sock")

    def playing(self, pipeline_id: str, start_gen: int) -> Path:
        """How far one playing has come. An id is never part of a path."""
        name = hashlib.blake2b(f"{start_gen} {pipeline_id}".encode(), digest_size=16).hexdigest()
        return self.progress / name

    def make(self) -> None:
        """Raises: OSError."""
        for directory in (self.root, self.models, self.run, self.progress):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)


class Agent:
    """One device's agent. Made and run in the main thread's loop; `stop` ends it in order.

    `on_turn` is called about once a second while the loop turns.
    """

    def __init__(
        self,
        config: WorkerConfig,
        identity: Identity,
        *,
        rng: Callable[[], float],
        entries: Entries | None = None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._entries = entries or Entries()
        self._on_turn = on_turn
        self._places = Places(config.data_dir)
        self._places.make()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        self._state = State(self._places.database, identity.broker_key)
        self._fence = Fence.create(str(self._places.fence))
        self._reconcile = Reconcile(self._state.rows(), rng)
        self._session = Session(
            Hello(
                device=identity.device,
                boot=secrets.token_bytes(16),
                agent=importlib.metadata.version("streamfleet"),
                capacity=config.capacity,
                seen_epoch=self._state.seen_epoch,
                publish=_publish_endpoint(config, identity.endpoints[0]),
            ),
            rng,
        )
        self._models = Models(self._places.models, self._feed_and_tell, rng)
        self._supervisor = Supervisor(
            on_report=lambda child, report: self._feed_and_tell(actions.Reported(child, report)),
            on_exit=lambda child, code: self._feed_and_tell(actions.Exited(child, code)),
        )
        spool = Spool(self._places.samples, size=config.samples_size, age=config.samples_age)
        self._sweeper = Sweeper(spool)
        self._uploader = Uploader(spool, rng)
        self._context = zmq.asyncio.Context()
        self._link = Link(self._context, identity.keys, self._on_message)
        # Status is repeated every second: what is not taken now would be the past.
        self._stat = Outlet(self._places.intake, waiting=0)
        self._stat_seq = self._state.starts << 32  # rises across restarts, whatever the clock does
        self._stat_at = float("-inf")
        self._told: dict[str, object] = {}  # states by pipeline, as they were published last

        # Actions in their order, and what must be on the disk before them.
        self._waiting: asyncio.Queue[list[actions.Action] | effects.RememberEpoch] = asyncio.Queue()
        self._stopping = False
        self._endpoint = ""  # of the broker, as it is being used
        self._closed_for = ""  # why the last session ended, until there is one again
        self._short_id = 0
        self._publisher: PublisherId | None = None
        self._relay: Relay | None = None
        self._allowed = Allow(())

    def stop(self) -> None:
        """End `run`."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def run(self) -> None:
        """Work until `stop`. A bug of ours anywhere ends it too, as whatever started us starts us again."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        self._sweeper.start()
        if self._config.samples_upload:
            self._uploader.start()
        tasks = [
            asyncio.create_task(self._tick_for_ever(), name="ticks"),
            asyncio.create_task(self._perform_for_ever(), name="actions"),
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
        self._sweeper.stop()
        ticks, performer = tasks
        ticks.cancel()
        # What was decided is still written: an end of file must be known when we come back.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._performed(performer), WRITE_PATIENCE)
        performer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Before the broker hears of it, as it gives movable pipelines to others at once.
        self._fence.extend(0.0)
        for effect in self._session.leave("stop"):
            assert isinstance(effect, effects.Send)
            self._link.send(effect.envelope)
        await self._models.close()
        await self._uploader.close()
        await self._supervisor.stop(STOP_PATIENCE)
        await asyncio.sleep(TICK)  # a socket without linger forgets what its thread has not sent
        self._link.close()
        self._context.destroy(linger=0)
        self._stat.close()
        self._fence.close()
        self._state.close()

    async def _performed(self, performer: asyncio.Task[None]) -> None:
        """Until nothing waits any more, or nobody is there to do it."""
        nothing_waits = asyncio.ensure_future(self._waiting.join())
        await asyncio.wait([nothing_waits, performer], return_when=asyncio.FIRST_COMPLETED)
        nothing_waits.cancel()

    # inputs

    async def _tick_for_ever(self) -> None:
        turned_at = float("-inf")
        while True:
            self._drive(self._session.tick(boot_time()))
            self._put(self._reconcile.tick(boot_time()))
            self._tell_broker()
            now = boot_time()
            self._publish_stats(now)
            if now - turned_at >= 1.0:
                turned_at = now
                self._on_turn()
            await asyncio.sleep(TICK)

    def _on_message(self, envelope: Envelope) -> None:
        self._drive(self._session.receive(envelope, boot_time()))
        self._tell_broker()

    def _feed_and_tell(self, event: Event) -> None:
        if not self._stopping:
            self._feed(event)
            # First: who hears from the broker that it is done, looks there.
            self._publish_stats(boot_time(), only=_pipeline_of(event))
            self._tell_broker()

    def _feed(self, event: Event) -> None:
        self._put(self._reconcile.receive(event, boot_time()))

    def _put(self, batch: list[actions.Action]) -> None:
        if batch:
            self._waiting.put_nowait(batch)

    def _tell_broker(self) -> None:
        self._drive(self._session.observe(self._reconcile.observed(), boot_time()))

    # effects of the session

    def _drive(self, batch: list[effects.Effect]) -> None:
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
                if not self._link.send(effect.envelope):
                    self._session.unsent(effect.envelope)
            case effects.RememberEpoch():
                self._waiting.put_nowait(effect)
            case effects.Welcomed():
                self._welcomed(effect.welcome)
            case effects.Adopt():
                logger.info(
                    "%s: revision %d wishes for %d pipelines",
                    self._identity.device,
                    effect.rev,
                    len(effect.wishes),
                )
                self._feed(actions.Adopted(effect.wishes))
            case effects.Allow():
                self._allowed = Allow(effect.keys)
                self._tell_publisher(self._allowed)
            case effects.ExtendFence():
                if not self._reconcile.is_leaving():  # a stop takes less than a lease: it opens in time
                    self._fence.extend(effect.until)
            case effects.CloseFence():
                self._fence.extend(0.0)
            case effects.LeaseEnded():
                logger.warning("%s: out of contact, movable pipelines are stopped", self._identity.device)
                self._fence.extend(0.0)
                self._feed(actions.Fenced())
            case effects.LeaseRenewed():
                logger.info("%s: in contact", self._identity.device)
                self._feed(actions.Unfenced())
            case _:
                assert_never(effect)

    def _closed(self, reason: str) -> None:
        self._link.close()
        level = (
            logging.WARNING if reason != self._closed_for else logging.DEBUG
        )  # not for as long as it lasts
        self._closed_for = reason
        logger.log(level, "%s: %s: %s, trying again", self._identity.device, self._endpoint, reason)

    def _welcomed(self, welcome: Welcome) -> None:
        logger.info("%s: session with the broker at %s", self._identity.device, self._endpoint)
        self._closed_for = ""
        host = urlsplit(self._endpoint).hostname or ""
        self._short_id = welcome.short_id
        source = Source(_reached_by(welcome.api, host), welcome.ticket)
        self._models.use(source)
        self._uploader.use(source)
        relay = Relay(
            tuple(_reached_by(endpoint, host) for endpoint in welcome.relay),
            self._identity.broker_key,
            tuple(_reached_by(endpoint, host) for endpoint in welcome.pictures),
        )
        if relay != self._relay:
            self._relay = relay
            self._tell_publisher(relay)

    def _tell_publisher(self, message: Relay | Allow) -> None:
        if self._publisher is not None:
            self._supervisor.tell(self._publisher, message)

    # actions of reconcile

    async def _perform_for_ever(self) -> None:
        """The disk is awaited in a thread: a slow one delays actions, and never a beat."""
        await asyncio.to_thread(self._sweep)
        while True:
            item = await self._waiting.get()
            if isinstance(item, effects.RememberEpoch):
                await asyncio.to_thread(self._remember_epoch, item.epoch)
            else:
                await self._perform_batch(item)
            self._waiting.task_done()

    async def _perform_batch(self, batch: list[actions.Action]) -> None:
        changes = [change for change in batch if isinstance(change, actions.Persist | actions.Forget)]
        if changes:
            await asyncio.to_thread(self._write, changes)
        for action in batch:
            self._perform(action)

    def _remember_epoch(self, epoch: int) -> None:
        try:
            self._state.remember_epoch(epoch)
        except sqlite3.Error as exc:
            logger.error("%s: epoch %d is not remembered: %s", self._places.database, epoch, exc)

    def _write(self, changes: list[actions.Persist | actions.Forget]) -> None:
        """With a full disk, what runs goes on; only a restart in that time would not know what it was."""
        try:
            self._state.write(changes)
        except sqlite3.Error as exc:
            logger.error("%s: %d changes are not remembered: %s", self._places.database, len(changes), exc)
        else:
            self._sweep()

    def _sweep(self) -> None:
        """Remove the progress of playings that are over."""
        rows: list[Row] = self._state.rows()
        keep = {self._places.playing(row.pipeline_id, row.start_gen).name for row in rows}
        for path in self._places.progress.iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def _perform(self, action: actions.Action) -> None:  # noqa: C901 - a table
        match action:
            case actions.Persist() | actions.Forget():
                pass  # done, before all others
            case actions.Refuse():
                logger.warning(
                    "%s: a wish of generation %d was refused, %d is known",
                    action.pipeline_id,
                    action.gen,
                    action.known_gen,
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
                wish = action.wish
                self._supervisor.tell(action.child, Change(wish.gen, wish.want, wish.spec))
            case actions.ShowPictures():
                self._supervisor.tell(action.child, Show(action.wanted))
            case actions.StopChild():
                self._supervisor.tell(action.child, Stop())
            case actions.KillChild():
                logger.warning("%s: killed: %s", _name(action.child), action.reason)
                self._supervisor.kill(action.child)
            case _:
                assert_never(action)

    def _start_publisher(self, action: actions.StartPublisher) -> None:
        config = self._config
        direct = "" if config.publish_port is None else f"tcp://{config.publish_host}:{config.publish_port}"
        self._publisher = action.child
        self._supervisor.start(
            action.child,
            name=_name(action.child),
            entry=self._entries.publisher,
            config=PublisherConfig(
                device=self._identity.device,
                intake_path=self._places.intake,
                picture_intake_path=self._places.picture_intake,
                local_endpoint=self._places.predictions,
                local_picture_endpoint=self._places.pictures,
                direct_endpoint=direct,
                public_key=self._identity.public_key,
                secret_key=self._identity.secret_key,
                fence_path=str(self._places.fence),
            ),
        )
        if self._relay is not None:
            self._tell_publisher(self._relay)
        self._tell_publisher(self._allowed)

    def _start_engine(self, action: actions.StartEngine) -> None:
        self._supervisor.start(
            action.child,
            name=_name(action.child),
            entry=self._entries.engine,
            config=EngineConfig(
                manifest=action.manifest,
                weights_path=str(self._models.path(action.manifest.weights.sha256)),
                socket_path=self._places.engine(action.child.digest),
                threads=self._config.engine_threads,
            ),
        )

    def _start_camera(self, action: actions.StartCamera) -> None:
        wish = action.wish
        self._supervisor.start(
            action.child,
            name=_name(action.child),
            entry=self._entries.camera,
            config=CameraConfig(
                pipeline_id=wish.pipeline_id,
                device=self._identity.device,
                short_id=self._short_id,
                gen=wish.gen,
                inc=action.child.inc,
                want=wish.want,
                spec=wish.spec,
                manifest=action.manifest,
                defaults=self._config.defaults,
                engine_socket=self._places.engine(wish.spec.model.digest),
                intake_path=self._places.intake,
                picture_intake_path=self._places.picture_intake,
                progress_path=str(self._places.playing(wish.pipeline_id, wish.start_gen)),
                fence_path=str(self._places.fence),
                fenced=wish.on_disconnect == "stop",
                samples_path=str(self._places.samples),
                samples_size=self._config.samples_size,
            ),
        )

    # status

    def _publish_stats(self, now: float, *, only: str | None = None) -> None:
        """Of all each second, and of what is in another state at once: whoever changed it may look now.

        `only`: no other pipeline can have changed. Cameras report twice a second each, and to look at all of
        them each time would cost with the square of their number.
        """
        due = only is None and now - self._stat_at >= STAT_INTERVAL
        at = time.time()
        views = self._reconcile.pipelines(now, only)
        states = {view.wish.pipeline_id: _states(view) for view in views}
        told, self._told = self._told, states if only is None else self._told | states
        for view in views:
            if not due and states[view.wish.pipeline_id] == told.get(view.wish.pipeline_id):
                continue
            stat = pipeline_stat(
                view.wish,
                view.observed,
                view.report,
                device=self._identity.device,
                alive=view.alive,
                report_age=view.report_age,
                at=at,
                last_crash=view.last_crash,
            )
            topic = pipeline_topic(Kind.STAT, stat.pipeline_id)
            self._publish(topic, stat, at, now, gen=stat.gen, inc=stat.inc)
        if due:
            self._stat_at = now
            self._publish_device(len(views), at, now)

    def _publish_device(self, pipelines: int, at: float, now: float) -> None:
        machine = look()
        device = DeviceStat(
            device=self._identity.device,
            session=self._session.state(now).value,
            capacity=self._config.capacity,
            pipelines=pipelines,
            engines=self._reconcile.engines(),
            at=at,
            cores=machine.cores,
            load=machine.load,
            memory=machine.memory,
            memory_available=machine.memory_available,
        )
        self._publish(device_topic(device.device), device, at, now)

    def _publish(
        self, topic: bytes, document: object, at: float, now: float, *, gen: int = 0, inc: int = 0
    ) -> None:
        """Status is repeated every second, so what cannot be sent now is dropped and not waited for."""
        self._stat_seq += 1
        header = DataHeader(
            kind=Kind.STAT,
            gen=gen,
            inc=inc,
            seq=self._stat_seq,
            device=self._short_id,
            captured_wall_ns=int(at * 1e9),
            captured_boot_ns=int(now * 1e9),
        )
        body = msgpack.packb(to_plain(document))
        if not self._stat.send(topic, header, body, fenced=False) and self._stat.dropped % 1000 == 0:
            logger.info("%d status messages dropped so far", self._stat.dropped)


def _pipeline_of(event: Event) -> str | None:
    """The one pipeline that an event is about; None: it may be about any."""
    match event:
        case actions.Reported(actions.CameraId() as child) | actions.Exited(actions.CameraId() as child):
            return child.pipeline_id
    return None


def _states(view: PipelineView) -> object:
    """What of a pipeline does not wait for the next second."""
    sources = () if view.report is None else view.report.sources
    return view.observed, tuple((source.state, source.cause) for source in sources)


def _name(child: ChildId) -> str:
    """As in logs and in `ps`."""
    match child:
        case actions.CameraId():
            return f"camera {child.pipeline_id}"
        case actions.EngineId():
            return f"engine {child.digest[:8]}"
        case PublisherId():
            return "publisher"
        case _:
            assert_never(child)


def _reached_by(address: str, host: str) -> str:
    """`*` in an address of the broker's means the host through which it was reached."""
    return address.replace("*", f"[{host}]" if ":" in host else host, 1)


def _publish_endpoint(config: WorkerConfig, broker: str) -> str:
    """The device's own PUB socket as others reach it, "" when there is none."""
    if config.publish_port is None:
        return ""
    host = config.publish_host if config.publish_host != "*" else _address_towards(broker)
    return f"tcp://{f'[{host}]' if ':' in host else host}:{config.publish_port}"


def _address_towards(endpoint: str) -> str:
    """The address of this host on the way to a broker; its name where there is no way at present."""
    parts = urlsplit(endpoint)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
