"""A small broker for the api's tests: a real ROUTER and a real PUB that speak the protocol."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import zmq
from typing_extensions import assert_never

from streamfleet_core.peers.replay import Holder, ReplayAnswer, ReplayHolders, ReplayRequest, Span
from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.costs import BoardCost
from streamfleet_core.protocol.data_plane import (
    DataHeader,
    Flag,
    Kind,
    device_topic,
    pipeline_topic,
    replay_note,
)
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY
from streamfleet_core.protocol.messages import Error, Message, Reply, Request
from streamfleet_core.protocol.requests import (
    AddDevice,
    AddSubscriber,
    Applied,
    ApplyPipelines,
    Changed,
    ChangePipeline,
    ChangePipelines,
    CheckHolder,
    CheckTicket,
    CordonDevice,
    CreatePipeline,
    DesiredPipeline,
    DeviceFigures,
    DeviceView,
    DrainDevice,
    DrillDevice,
    EndOptimisation,
    Events,
    FindOptimisation,
    FleetEvent,
    FleetFigures,
    FleetView,
    GetDevice,
    GetEvents,
    GetFigures,
    GetFleet,
    GetPipeline,
    LabelDevice,
    ListCosts,
    ListDevices,
    ListModels,
    ListPipelines,
    ListSubscribers,
    OperatorRequest,
    Outcome,
    PipelineFigures,
    PipelineView,
    Plan,
    PlanPipelines,
    Put,
    PutModel,
    PutPipeline,
    Rebalance,
    RebalanceDevices,
    Remaining,
    RemoveDevice,
    RemoveModel,
    RemoveSubscriber,
    ReportProcess,
    RestartPipeline,
    StartOptimisation,
    SubscriberView,
    Subscription,
    Token,
    unpack_request,
)
from streamfleet_core.protocol.status import DeviceStat, PipelineStat
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from streamfleet_core.protocol.tasks.rollouts import (
    CancelRollout,
    GetRollout,
    ListRollouts,
    Phase,
    RolloutEntry,
    RolloutRequest,
    RolloutView,
    StartRollout,
)
from streamfleet_core.protocol.values import ModelRef, ObservedState, PipelineSpec, SourceSpec, to_plain
from tests.fakes.patience import PATIENCE

KEY = "k" * 40
UNKNOWN = Error("not_found", "no such pipeline")


def spec(reference: str | int = "rtsp://user:hunter2@10.0.0.9/door?token=hunter2") -> PipelineSpec:
    """A pipeline on one source."""
    return PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec(reference),))


def pipeline(pipeline_id: str, **changes: Any) -> PipelineView:
    """A pipeline that runs on edge-1, with changes."""
    running = PipelineView(
        pipeline_id=pipeline_id,
        generation=3,
        desired_status="run",
        status="running",
        device="edge-1",
        pinned=False,
        spec=spec(),
        observed=ObservedState.RUNNING,
    )
    return replace(running, **changes)


def device(name: str, **changes: Any) -> DeviceView:
    """A device that is ready, with changes."""
    return replace(
        DeviceView(device=name, state="ready", capacity=8, pipelines=1, agent="0.1.0", silent=0.2), **changes
    )


def _view_of(asked: CreatePipeline | PutPipeline | DesiredPipeline, version: int) -> PipelineView:
    return pipeline(
        asked.pipeline_id,
        spec=asked.spec,
        device=asked.device or "edge-1",
        requested=asked.device,
        selector=asked.selector,
        on_disconnect=asked.on_disconnect,
        labels=asked.labels,
        desired_status=asked.desired_status,
        status="starting",
        version=version,
    )


class Peer:
    """The broker's two ends that the api knows. Its tables are the test's to change between requests."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/operators.ipc"
        self.predictions = f"ipc://{folder}/predictions.ipc"
        self.pictures = f"ipc://{folder}/pictures.ipc"
        self.asked: list[OperatorRequest] = []  # but for what the api asks of its own accord
        self.generation = (
            3  # of predictions and pictures; rises with each test, as an api takes no earlier one
        )
        self.epoch = 7
        self.events: list[FleetEvent] = []
        self.pipelines: dict[str, PipelineView] = {}
        self.devices: dict[str, DeviceView] = {}
        self.subscribers: dict[str, SubscriberView] = {}
        self.models: dict[str, ModelRef] = {}
        self.costs: list[BoardCost] = []
        self.plan = Plan((), {})  # the answer to any question for a plan
        self.rebalance = Rebalance((), {})  # the same about moves
        self.tickets: dict[str, str] = {}
        self.optimisations: dict[str, tuple[str, Optimisation]] = {}  # by id, with the device
        self.rollouts: dict[str, RolloutView] = {}
        self.foreign: set[tuple[str, str]] = set()  # devices, and pipelines that they never had
        self.keys: dict[str, tuple[str, str]] = {}  # digest and pipeline, by Idempotency-Key
        self.endpoints: tuple[str, ...] = ("tcp://*:7774",)  # of the relay, for subscribers
        self.confirms = True
        self.starts = 0
        self.answer: Callable[[OperatorRequest], Message | bytes | None] = self.honest
        self._context = zmq.Context()
        self._publisher = self._relay(self.predictions)
        self._subscribed: set[bytes] = set()  # topics of predictions and statuses
        self._picture_publisher = self._relay(self.pictures)
        self._looked_at: set[bytes] = set()  # topics of pictures; the api keeps on for a while after a test
        self._polls: list[tuple[bytes, bytes, GetEvents, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.start()

    def reset(self) -> None:
        """Forget everything."""
        self.answer = self.honest
        self.foreign.clear()
        for table in (
            self.asked,
            self.pipelines,
            self.devices,
            self.subscribers,
            self.models,
            self.tickets,
            self.optimisations,
            self.rollouts,
            self.keys,
        ):
            table.clear()
        self._end_followers()
        if self.events:  # the next test's begin a new epoch, in which nobody is told of these
            self.events = []
            self.epoch += 1
        self.generation += 10
        self.endpoints = ("tcp://*:7774",)
        self.confirms = True

    # the control plane ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bind and answer, until `stop`."""
        ready = threading.Event()
        self.starts += 1
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="peer")
        self._thread.start()
        assert ready.wait(PATIENCE)

    def stop(self) -> None:
        """Close the ROUTER as a broker that ends."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join(PATIENCE)

    def close(self) -> None:
        """End all."""
        self.stop()
        self._publisher.close(linger=0)
        self._picture_publisher.close(linger=0)
        self._context.term()

    def _run(self, ready: threading.Event) -> None:
        with self._context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(self.endpoint)
            ready.set()
            self._polls.clear()
            while not self._stop.is_set():
                self._answer_polls(router)
                if not router.poll(20):
                    continue
                identity, *frames = router.recv_multipart()
                envelope = decode(frames)
                assert isinstance(envelope.message, Request)
                try:
                    asked = unpack_request(envelope.message)
                except msgspec.ValidationError as exc:
                    invalid = Envelope(Error("invalid", str(exc)), request_id=envelope.request_id)
                    router.send_multipart([identity, *encode(invalid)])
                    continue
                if isinstance(asked, GetEvents):
                    until = time.monotonic() + asked.wait_ms / 1000
                    self._polls.append((identity, envelope.request_id, asked, until))
                    continue
                if not isinstance(asked, ListPipelines):
                    self.asked.append(asked)
                answer = self.answer(asked)
                if isinstance(answer, bytes):
                    router.send_multipart([identity, answer])
                elif answer is not None:
                    reply = Envelope(answer, request_id=envelope.request_id)
                    router.send_multipart([identity, *encode(reply)])

    def _answer_polls(self, router: zmq.Socket[bytes]) -> None:
        for poll in list(self._polls):
            identity, request_id, asked, until = poll
            epoch, known = self.epoch, tuple(self.events)
            first = known[0].n if known else 1
            here = asked.epoch == epoch and asked.after >= first - 1
            events = tuple(event for event in known if not here or event.n > asked.after)
            if events or time.monotonic() > until or asked.epoch < epoch:
                self._polls.remove(poll)
                reply = Envelope(Reply(to_plain(Events(epoch, events, not here))), request_id=request_id)
                router.send_multipart([identity, *encode(reply)])

    def happen(self, n: int, subject_id: str = "door", state: str = "running") -> None:
        """Let something happen to a pipeline."""
        self.events.append(
            FleetEvent(
                n=n,
                at=1.5,
                subject="pipeline",
                id=subject_id,
                state=state,
                previous="starting",
                device="edge-1",
            )
        )

    def honest(self, asked: OperatorRequest) -> Message:
        """What a broker with these tables would say."""
        answer = self._honest(asked)
        return answer if isinstance(answer, Error) else Reply(to_plain(answer))

    def _honest(self, asked: OperatorRequest) -> object:  # noqa: C901 - one case an operation
        match asked:
            case CreatePipeline() | PutPipeline() if len(msgspec.msgpack.encode(asked)) > MAX_CONTROL_BODY:
                return Error(
                    "invalid", f"pipeline {asked.pipeline_id} is larger than {MAX_CONTROL_BODY} bytes"
                )
            case CreatePipeline():
                return self._create(asked)
            case PutPipeline():
                return self._put(asked)
            case ChangePipeline():
                return self._change(asked)
            case ChangePipelines():
                return tuple(self._outcome(asked, pipeline_id) for pipeline_id in asked.pipeline_ids)
            case ApplyPipelines():
                return self._apply(asked)
            case RestartPipeline():
                view = self.pipelines.get(asked.pipeline_id)
                if view is None:
                    return UNKNOWN
                self.pipelines[asked.pipeline_id] = replace(view, desired_status="run", status="starting")
                return self.pipelines[asked.pipeline_id]
            case ListPipelines():
                return tuple(self.pipelines.values())
            case GetPipeline():
                return self.pipelines.get(asked.pipeline_id, UNKNOWN)
            case ListDevices():
                return tuple(self.devices.values())
            case GetDevice():
                return self.devices.get(asked.device, UNKNOWN)
            case LabelDevice():
                if asked.device not in self.devices or self.devices[asked.device].state == "new":
                    return UNKNOWN
                labelled = replace(self.devices[asked.device], labels=asked.labels)
                self.devices[asked.device] = labelled
                return labelled
            case CordonDevice() | DrainDevice():
                return self._cordon(asked)
            case RemoveDevice():
                if asked.device not in self.devices:
                    return UNKNOWN
                if self.devices[asked.device].state == "ready":
                    return Error("conflict", "it is here")
                del self.devices[asked.device]
                return None
            case DrillDevice():
                return None if self.devices[asked.device].drills else Error("conflict", "no drills")
            case AddDevice():
                return Token(asked.device, f"sf1.{asked.device}.{asked.ttl:g}")
            case AddSubscriber():
                subscriber = SubscriberView(asked.name, asked.pipelines, asked.selector)
                self.subscribers[asked.name] = subscriber
                return Subscription(
                    name=asked.name,
                    endpoint=self.endpoints[0],
                    server_key=KEY,
                    public_key=KEY,
                    secret_key=KEY,
                    endpoints=self.endpoints,
                )
            case ListSubscribers():
                return tuple(self.subscribers[name] for name in sorted(self.subscribers))
            case RemoveSubscriber():
                if self.subscribers.pop(asked.name, None) is None:
                    return UNKNOWN
                return None
            case PutModel():
                self.models[asked.model.id] = asked.model
                return asked.model
            case ListModels():
                return tuple(self.models.values())
            case RemoveModel():
                return self.models.pop(asked.model_id, UNKNOWN)
            case ListCosts():
                return tuple(each for each in self.costs if each.cost.digest == asked.digest)
            case PlanPipelines():
                return self.plan
            case RebalanceDevices():
                return self.rebalance
            case CheckHolder():
                return (asked.device, asked.pipeline_id) not in self.foreign
            case CheckTicket():
                return self.tickets.get(asked.ticket)
            case StartOptimisation():
                self.optimisations[asked.optimisation.id] = (asked.device, asked.optimisation)
                return None
            case FindOptimisation():
                device, found = self.optimisations.get(asked.id, (None, None))
                return found if asked.device in (None, device) else None
            case EndOptimisation():
                return self.optimisations.pop(asked.id, None) is not None
            case StartRollout() | ListRollouts() | GetRollout() | CancelRollout():
                return self._rollout(asked)
            case ReportProcess():
                return None
            case GetEvents():
                raise AssertionError("`_answer_polls` answers these")
            case GetFigures():
                fleet = self._honest(GetFleet())
                assert isinstance(fleet, FleetView)
                pipelines, devices = list(self.pipelines.values()), list(self.devices.values())
                return FleetFigures(
                    fleet, tuple(map(PipelineFigures.of, pipelines)), tuple(map(DeviceFigures.of, devices))
                )
            case GetFleet():
                # A list: the test may add a device meanwhile.
                ready = sum(view.state == "ready" for view in list(self.devices.values()))
                return FleetView(
                    epoch=7,
                    uptime=1.5,
                    devices_ready=ready,
                    devices=len(self.devices),
                    pipelines=len(self.pipelines),
                )
        assert_never(asked)

    def _rollout(self, asked: RolloutRequest) -> object:
        """A roll-out of one pipeline, which is over when it is cancelled."""
        match asked:
            case StartRollout():
                entry = RolloutEntry("door", "switched", "", "as a shadow: 9 frames")
                self.rollouts[asked.id] = RolloutView(
                    id=asked.id,
                    plan=asked.plan,
                    phase="canary",
                    canaries=1,
                    stages={"switched": 1},
                    entries=(entry,),
                )
            case ListRollouts():
                return tuple(replace(view, entries=()) for view in self.rollouts.values())
            case CancelRollout() if asked.id in self.rollouts:
                phase: Phase = "stopped" if asked.keep else "returned"
                view = replace(self.rollouts[asked.id], phase=phase, reason="it was cancelled", ended_at=2.0)
                self.rollouts[asked.id] = view
        return self.rollouts.get(asked.id, Error("not_found", f"no roll-out {asked.id}"))

    def _cordon(self, asked: CordonDevice | DrainDevice) -> object:
        """A drain is done at once, apart from one pipeline, which stays or never arrives."""
        if asked.device not in self.devices:
            return UNKNOWN
        left = (
            Remaining("usb", "staying" if self.confirms else "moving", "a local camera waits for its device"),
        )
        draining = isinstance(asked, DrainDevice)
        self.devices[asked.device] = replace(
            self.devices[asked.device],
            cordoned=isinstance(asked, DrainDevice) or asked.cordoned,
            draining=draining,
            remaining=left if draining else (),
        )
        return self.devices[asked.device]

    def _create(self, asked: CreatePipeline) -> object:
        if asked.key in self.keys:
            digest, pipeline_id = self.keys[asked.key]
            return self.pipelines[pipeline_id] if digest == asked.digest else Error("mismatch", "another one")
        if asked.key:
            self.keys[asked.key] = (asked.digest, asked.pipeline_id)
        before = self.pipelines.get(asked.pipeline_id)
        if before is not None and before.spec != asked.spec:
            return Error("conflict", "it is there with another spec")
        return self.pipelines.setdefault(asked.pipeline_id, _view_of(asked, 1))

    def _put(self, asked: PutPipeline) -> object:
        before = self.pipelines.get(asked.pipeline_id)
        version = before.version if before else 0
        if asked.expected is not None and (before is None or asked.expected != version):
            return Error("conflict", f"expected version {asked.expected}, it is at {version}")
        view = _view_of(asked, version)
        changed = view != before
        if changed:
            view = _view_of(asked, version + 1)
        self.pipelines[asked.pipeline_id] = view
        return Put(view, before is None, changed, self.confirms)

    def _apply(self, asked: ApplyPipelines) -> object:
        versions = {name: view.version for name, view in self.pipelines.items()}
        if any(versions.get(name, 0) != version for name, version in asked.seen.items()):
            return Error("conflict", "it is not as it was seen")
        if not asked.dry_run:
            for put in asked.puts:
                before = self.pipelines.get(put.pipeline_id)
                view = _view_of(put, versions.get(put.pipeline_id, 0) + 1)
                self.pipelines[put.pipeline_id] = replace(view, version=1 + (before.version if before else 0))
            for name in asked.stops:
                self.pipelines.pop(name, None)
        puts = [Applied(pipeline_id=put.pipeline_id, device=put.device or "edge-1") for put in asked.puts]
        return (*puts, *(Applied(pipeline_id=name) for name in asked.stops))

    def _change(self, asked: ChangePipeline) -> object:
        view = self.pipelines.get(asked.pipeline_id)
        if view is None:
            return UNKNOWN
        changed = replace(view, desired_status=asked.desired_status, generation=view.generation + 1)
        if asked.desired_status == "stop":
            del self.pipelines[asked.pipeline_id]
            return Changed(changed, self.confirms)
        if self.confirms:
            if asked.desired_status == "run":
                changed = replace(changed, observed=ObservedState.RUNNING, status="running")
            else:
                changed = replace(changed, observed=ObservedState.PAUSED, status="paused")
        self.pipelines[asked.pipeline_id] = changed
        return Changed(changed, self.confirms)

    def _outcome(self, asked: ChangePipelines, pipeline_id: str) -> Outcome:
        view = self.pipelines.get(pipeline_id)
        is_word = asked.change in ("run", "pause")
        if (
            is_word
            and view is not None
            and (view.desired_status == asked.change or view.status in ("ended", "failed"))
        ):
            return Outcome(pipeline_id, refusal="conflict", message=f"it is {view.status}")
        if asked.change == "restart":
            done = self._honest(RestartPipeline(pipeline_id))
        else:
            done = self._change(ChangePipeline(pipeline_id, asked.change))
        if isinstance(done, Error):
            return Outcome(pipeline_id, refusal=done.code, message=done.message)
        return Outcome(pipeline_id, confirmed=self.confirms or view is None or view.device is None)

    # the data plane ---------------------------------------------------------------------------------------

    def _relay(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        socket.linger = 0
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        socket.bind(endpoint)
        return socket

    def restart_relay(self) -> None:
        """Close the relay of predictions and statuses, and open it again, as a broker that was restarted."""
        self._publisher.unbind(self.predictions)
        self._publisher.close(linger=0)
        self._subscribed.clear()
        self._publisher = self._relay(self.predictions)

    def wait_for_subscribers(self, *topics: bytes) -> None:
        """Until somebody is subscribed to exactly these."""
        self._hear_until(lambda: self._subscribed.issuperset(topics))

    def wait_for_looker(self, pipeline_id: str) -> None:
        """Until somebody wants pictures."""
        topic = pipeline_topic(Kind.IMG, pipeline_id)
        _hear_until(self._picture_publisher, self._looked_at, lambda: topic in self._looked_at)

    def wait_for_no_looker(self, pipeline_id: str) -> None:
        """Until nobody wants pictures any more."""
        topic = pipeline_topic(Kind.IMG, pipeline_id)
        _hear_until(self._picture_publisher, self._looked_at, lambda: topic not in self._looked_at)

    def wait_for_followers(self, *pipeline_ids: str) -> None:
        """Until the api has subscribed to the predictions of these; of none: of all."""
        self.wait_for_subscribers(
            *[pipeline_topic(Kind.PRED, each) for each in pipeline_ids] or [b"v1/pred/"]
        )

    def wait_for_replay(self, *, after: ReplayRequest | None = None) -> ReplayRequest:
        """The request for a replay that somebody makes, another one than `after`."""

        def asked() -> list[ReplayRequest]:
            parsed = (ReplayRequest.parse(topic) for topic in self._subscribed)
            return [each for each in parsed if each is not None and each != after]

        self._hear_until(lambda: bool(asked()))
        return asked()[0]

    def replay(self, request: ReplayRequest, *seqs: int) -> None:
        """Answer a request as the relay and a device that has these."""
        holders = ReplayHolders((Holder("edge-1", 0, 2**32),))
        note = DataHeader.unpack(replay_note(request.start, Flag.HOLDERS))
        self.send(request.topic, note, holders.encode())
        run = (self.generation, 0)
        for seq in seqs:
            self.predict(request.pipeline_id, seq, kind=Kind.REPLAY, topic=request.topic)
        said = ReplayAnswer(
            device="edge-1",
            known_from=(*run, 0),
            until=(*run, seqs[-1]),
            done=True,
            sent=(Span(*run, seqs[0], seqs[-1]),),
        )
        note = DataHeader.unpack(replay_note(said.until, Flag.ANSWER))
        self.send(request.topic, note, said.encode())

    def wait_for_no_followers(self) -> None:
        """Until the api has no subscription to predictions."""
        self._hear_until(lambda: not self._has_followers())

    def _end_followers(self) -> None:
        """Wait for the last test's clients to leave, and have the api end the rings of its pipelines."""
        _hear(self._publisher, self._subscribed)
        while self._has_followers():
            if not self._publisher.poll(1000):
                self.happen(self.events[-1].n + 1 if self.events else 1, state="gone")
                self.wait_for_no_followers()
            _hear(self._publisher, self._subscribed)

    def _has_followers(self) -> bool:
        return any(topic.startswith(b"v1/pred/") for topic in self._subscribed)

    def _hear_until(self, holds: Callable[[], bool]) -> None:
        _hear_until(self._publisher, self._subscribed, holds)

    def picture(self, pipeline_id: str, seq: int, jpeg: bytes, *, source: int = 0) -> None:
        """Send one picture."""
        header = DataHeader(kind=Kind.IMG, gen=self.generation, inc=0, seq=seq, source=source)
        self._picture_publisher.send_multipart([pipeline_topic(Kind.IMG, pipeline_id), header.pack(), jpeg])

    def publish(self, topic: bytes, header: DataHeader, body: object) -> None:
        """Send one message."""
        self.send(topic, header, msgpack.packb(body))

    def send(self, topic: bytes, header: DataHeader, body: bytes) -> None:
        """Send one message whose body is bytes already."""
        self._publisher.send_multipart([topic, header.pack(), body])

    def predict(
        self,
        pipeline_id: str,
        seq: int,
        *,
        generation: int = 0,
        text: str = "",
        source: int = 0,
        kind: Kind = Kind.PRED,
        topic: bytes = b"",
        **first: Any,
    ) -> None:
        """Send one prediction, of one object with these changes."""
        body = {
            "image": {"width": 640, "height": 480},
            "predictions": [
                {
                    "x": 1.0,
                    "y": 2.0,
                    "width": 3.0,
                    "height": 4.0,
                    "confidence": 0.9,
                    "class": f"car{text}",
                    **first,
                }
            ],
            "inference_metadata": {
                "source_id": source,
                "pipeline_id": pipeline_id,
                "device": "edge-1",
                "frame_id": seq + 1,
            },
        }
        header = DataHeader(kind=kind, gen=generation or self.generation, inc=0, seq=seq, source=source)
        self.publish(topic or pipeline_topic(kind, pipeline_id), header, body)

    def tell(self, stat: PipelineStat | DeviceStat, seq: int = 0) -> None:
        """Send one status."""
        if isinstance(stat, PipelineStat):
            topic, generation = pipeline_topic(Kind.STAT, stat.pipeline_id), stat.generation
        else:
            topic, generation = device_topic(stat.device), 0
        self.publish(topic, DataHeader(kind=Kind.STAT, gen=generation, inc=0, seq=seq), to_plain(stat))


def _hear_until(publisher: zmq.Socket[bytes], subscribed: set[bytes], holds: Callable[[], bool]) -> None:
    _hear(publisher, subscribed)  # what an earlier test has left unread says nothing of now
    while not holds():
        assert publisher.poll(PATIENCE * 1000), f"subscriptions are {subscribed}"
        _hear(publisher, subscribed)


def _hear(publisher: zmq.Socket[bytes], subscribed: set[bytes]) -> None:
    """Take note of all that has come."""
    while publisher.poll(0):
        message = publisher.recv()
        (subscribed.add if message[0] else subscribed.discard)(message[1:])


def sha256(content: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(content).hexdigest()
