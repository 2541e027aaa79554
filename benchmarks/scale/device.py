"""A simulated device: the session, the reconciler and the sockets of a worker, without its processes.

What the agent does with a process happens at once: models are there, engines are ready, cameras run and
report. Statuses and predictions have the size and the rate of real ones.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zmq
import zmq.asyncio

from benchmarks.scale.site import CAPACITY
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.data_plane import DataHeader, Kind, device_topic, pipeline_topic
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.protocol.messages import Hello, Welcome
from streamfleet_core.protocol.status import DeviceStat, SourceStat, empty_report
from streamfleet_core.protocol.values import Assignment, Observed, ObservedState
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys
from streamfleet_worker.agent.addresses import reached_by
from streamfleet_worker.agent.broker_link import BrokerLink
from streamfleet_worker.agent.identity import Identity
from streamfleet_worker.decisions import reconcile_actions as actions
from streamfleet_worker.decisions import reconcile_events as events
from streamfleet_worker.decisions import session_effects as effects
from streamfleet_worker.decisions.broker_session import Session
from streamfleet_worker.decisions.pipeline_stat import encoded, pipeline_stat
from streamfleet_worker.decisions.pipeline_table import PipelineView
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport
from streamfleet_worker.publisher.publisher import PREVIEWS_RECONNECT, RECONNECT
from tests.fakes.peers import MANIFEST

_PREDICTION = bytes(400)  # the body of one, as one with four objects; the API keeps it undecoded
_REPORTING = 4  # ticks in which each camera reports once; a real one reports twice a second
_FPS = 10
_NOBLOCK = int(zmq.NOBLOCK)  # plain integers, as enum members are looked up at each use
_MORE = _NOBLOCK | int(zmq.SNDMORE)

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(slots=True)
class _Document:
    """An encoded status, for as long as nothing but its time changes."""

    of: tuple[Assignment, Observed]
    topic: bytes
    body: bytes
    sequence: int = 0
    last_topic: bytes = field(init=False)
    stream_topic: bytes = field(init=False)

    def __post_init__(self) -> None:
        pipeline_id = self.of[0].pipeline_id
        self.last_topic = pipeline_topic(Kind.LAST, pipeline_id)
        self.stream_topic = pipeline_topic(Kind.PRED, pipeline_id)


class Device:
    """One device. Its owner calls `tick` several times a second, and `work` once a second."""

    def __init__(self, identity: Identity, control: zmq.asyncio.Context, data: Context) -> None:
        self._identity = identity
        self._data = data
        self._random = random.Random(identity.device)
        self._link = BrokerLink(control, identity.keys, self._receive)
        self._reconcile = Reconcile((), self._random.random)
        self._session = self._new_session(0)
        self._observed: tuple[Observed, ...] = ()
        self._emitted = 0
        self._turn = 0
        self._documents: dict[str, _Document] = {}
        self._publisher: zmq.Socket[bytes] | None = None
        self._pictures: zmq.Socket[bytes] | None = None
        self._published_at = float("-inf")  # boot time; the last time that every status was published
        self._short_id = 0
        self._seq = time.time_ns() // 1_000_000 << 16
        self._seen_epoch = 0
        self._away_until = 0.0  # boot time; without power until then

    @property
    def is_ready(self) -> bool:
        """Whether it is in contact with the broker."""
        return self._session.state(boot_time()).value == "ready"

    def tick(self) -> None:
        """Let the session's time pass."""
        now = boot_time()
        if now >= self._away_until:
            self._perform_all(self._session.tick(now))

    def work(self) -> None:
        """Let one second pass for the cameras, and publish their statuses."""
        now = boot_time()
        if now < self._away_until:
            return
        self._turn += 1
        self._emitted += _FPS
        self._act(self._reconcile.tick(now))
        for child in self._reconcile.children():
            self._report(child)
        self._tell()
        self._publish(now)

    def lose_power(self, seconds: float) -> None:
        """Disappear without a word, and return as after a restart."""
        self._link.close()
        for socket in (self._publisher, self._pictures):
            if socket is not None:
                socket.close(linger=0)
        self._publisher = self._pictures = None
        self._away_until = boot_time() + seconds
        self._session = self._new_session(self._seen_epoch)
        self._reconcile = Reconcile((), self._random.random)
        self._observed = ()

    def close(self) -> None:
        """Close the sockets."""
        self.lose_power(0.0)

    # the session

    def _new_session(self, seen_epoch: int) -> Session:
        hello = Hello(
            device=self._identity.device,
            boot=secrets.token_bytes(16),
            agent="simulated",
            capacity=CAPACITY,
            seen_epoch=seen_epoch,
        )
        return Session(hello, self._random.random)

    def _receive(self, envelope: Envelope) -> None:
        self._perform_all(self._session.receive(envelope, boot_time()))
        self._tell()

    def _tell(self) -> None:
        observed = self._reconcile.observed()
        if observed != self._observed:
            self._observed = observed
            self._perform_all(self._session.observe(observed, boot_time()))

    def _perform_all(self, batch: list[effects.Effect]) -> None:
        for effect in batch:
            self._perform(effect)

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Open():
                self._link.open(self._identity.endpoints[0])
            case effects.Close():
                self._link.close()
            case effects.Send():
                if not self._link.send(effect.envelope):
                    self._session.unsent(effect.envelope)
            case effects.RememberEpoch():
                self._seen_epoch = effect.epoch
            case effects.Welcomed():
                self._connect(effect.welcome)
            case effects.Adopt():
                self._feed(events.Adopted(effect.assignments))
            case effects.LeaseEnded():
                self._feed(events.Fenced())
            case effects.LeaseRenewed():
                self._feed(events.Unfenced())

    def _connect(self, welcome: Welcome) -> None:
        """Connect to the relays, which outlives sessions."""
        self._short_id = welcome.short_id
        if self._publisher is not None:
            return
        host = urlsplit(self._identity.endpoints[0]).hostname or ""
        keys, relay, pictures = self._identity.keys, welcome.relay[0], welcome.pictures[0]
        self._publisher = _publisher(self._data, keys, reached_by(relay, host), RECONNECT)
        self._pictures = _publisher(self._data, keys, reached_by(pictures, host), PREVIEWS_RECONNECT)

    # the reconciler

    def _feed(self, event: events.Event) -> None:
        self._act(self._reconcile.receive(event, boot_time()))

    def _act(self, batch: list[actions.Action]) -> None:
        rows = tuple(action.row for action in batch if isinstance(action, actions.Persist))
        if rows:
            self._feed(events.Stored(rows))
        for action in batch:
            match action:
                case actions.FetchModel():
                    self._feed(events.ModelFetched(action.digest, MANIFEST))
                case actions.StartPublisher() | actions.StartEngine() | actions.StartCamera():
                    self._say(action.child)
                case actions.ChangeCamera():
                    self._say(action.child)
                case actions.StopChild() | actions.KillChild():
                    self._feed(events.Exited(action.child, 0))

    def _report(self, child: events.ChildId) -> None:
        """Let a child report in its turn."""
        if isinstance(child, events.CameraId):
            if (self._turn + hash(child.pipeline_id)) % _REPORTING == 0:
                self._say(child)
        elif self._turn % _REPORTING == 0:
            self._say(child)

    def _say(self, child: events.ChildId) -> None:
        match child:
            case events.PublisherId():
                self._feed(events.Reported(child, PublisherReport(0, 0, 0)))
            case events.EngineId():
                report = EngineReport("ready", "", self._emitted, 0.0, "CPUExecutionProvider")
                self._feed(events.Reported(child, report))
            case events.CameraId():
                (view,) = self._reconcile.pipelines(boot_time(), child.pipeline_id)
                self._feed(events.Reported(child, _camera_report(view.assignment, self._emitted)))

    # the data plane

    def _publish(self, now: float) -> None:
        """Publish the last predictions, and each status that is due or whose state has changed."""
        if self._publisher is None:
            return
        # Half a second early, as a second of the simulation may end a little early.
        due = now - self._published_at >= self._session.status_interval - 0.5
        at = time.time()
        send = super(zmq.Socket, self._publisher).send  # bypasses the slower wrapper
        for view in self._reconcile.pipelines(now):
            observed, pipeline_id = view.observed, view.assignment.pipeline_id
            self._seq += 1
            header = DataHeader(
                kind=Kind.STAT,
                gen=observed.generation,
                inc=observed.incarnation,
                seq=self._seq,
                device=self._short_id,
                captured_wall_ns=int(at * 1e9),
                captured_boot_ns=int(now * 1e9),
            )
            packed, document = header.pack(), self._documents.get(pipeline_id)
            messages = []
            if due or document is None or document.of != (view.assignment, observed):
                document = self._document(view, at)
                document.sequence += 1
                messages.append((document.topic, packed, document.body))
            if observed.state is ObservedState.RUNNING:
                messages.append((document.last_topic, _of_kind(packed, Kind.LAST), _PREDICTION))
                messages.append((document.stream_topic, _of_kind(packed, Kind.PRED), _PREDICTION))
            for topic, head, body in messages:
                send(topic, _MORE)
                send(head, _MORE)
                send(body, _NOBLOCK)
        if not due:
            return
        self._published_at = now
        self._seq += 1
        header = DataHeader(kind=Kind.STAT, gen=0, inc=0, seq=self._seq, device=self._short_id)
        send(device_topic(self._identity.device), _MORE)
        send(header.pack(), _MORE)
        send(self._device_stat(at), _NOBLOCK)

    def _document(self, view: PipelineView, at: float) -> _Document:
        pipeline_id, of = view.assignment.pipeline_id, (view.assignment, view.observed)
        known = self._documents.get(pipeline_id)
        if known is None or known.of != of or known.sequence % _REPORTING == 0:
            stat = pipeline_stat(
                view.assignment,
                view.observed,
                view.report,
                device=self._identity.device,
                alive=view.alive,
                report_age=view.report_age,
                at=at,
                last_crash=view.last_crash,
            )
            known = _Document(of, pipeline_topic(Kind.STAT, pipeline_id), encoded(stat))
            self._documents[pipeline_id] = known
        return known

    def _device_stat(self, at: float) -> bytes:
        stat = DeviceStat(
            device=self._identity.device,
            session="ready",
            capacity=CAPACITY,
            pipelines=len(self._documents),
            engines=self._reconcile.engines(),
            at=at,
            cores=4,
            load=1.5,
            memory=8 * 1024**3,
            memory_available=4 * 1024**3,
            temperature=51.5,
            disk=64 * 1024**3,
            disk_available=32 * 1024**3,
            board="simulated",
        )
        return msgspec.msgpack.encode(stat)


def _of_kind(header: bytes, kind: Kind) -> bytes:
    """The same header for a message of another kind."""
    return header[:3] + bytes((kind,)) + header[4:]


def _camera_report(assignment: Assignment, emitted: int) -> CameraReport:
    """The report of a camera that runs."""
    source = SourceStat(
        source_id=0,
        reference=assignment.spec.sources[0].reference,
        state="RUNNING",
        received=emitted,
        decoded=emitted,
        inferred=emitted,
        emitted=emitted,
        dropped={"stale": emitted // 10, "rate": emitted // 3},
        last_frame_age=0.05,
        fps=float(_FPS),
        width=1920,
        height=1080,
        latency=0.08,
        decoder="software",
    )
    paused = assignment.desired_status == "pause"
    report: dict[str, Any] = {**empty_report(assignment.spec, "RUNNING")}
    report["inference_throughput"] = float(_FPS)
    report["latency_reports"] = [
        {"source_id": 0, "frame_decoding_latency": 0.01, "inference_latency": 0.04, "e2e_latency": 0.08}
    ]
    return CameraReport(
        generation=assignment.generation,
        state=ObservedState.PAUSED if paused else ObservedState.RUNNING,
        reason="",
        waiting_for_engine=False,
        emitted=emitted,
        sources=(source,),
        dropped={},
        fps=float(_FPS),
        report=report,
    )


def _publisher(
    context: Context, keys: CurveKeys, endpoint: str, reconnect: tuple[int, int]
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.PUB)
    configure(socket, largest=MAX_DATA_FRAME, reconnect=reconnect)
    socket.sndhwm = 200
    socket.handshake_ivl = 5000
    keys.apply(socket)
    socket.connect(endpoint)
    return socket
