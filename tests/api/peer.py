"""A small broker for the api's tests: a real ROUTER and a real PUB that speak the protocol."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import zmq
from typing_extensions import assert_never

from streamfleet_broker.protocol.control import Envelope, decode, encode
from streamfleet_broker.protocol.data import DataHeader, Kind, device_topic, pipeline_topic
from streamfleet_broker.protocol.messages import Error, Message, Reply, Request
from streamfleet_broker.protocol.requests import (
    AddDevice,
    AddSubscriber,
    Changed,
    ChangePipeline,
    CheckTicket,
    CreatePipeline,
    DeviceView,
    FleetView,
    GetFleet,
    GetPipeline,
    ListDevices,
    ListModels,
    ListPipelines,
    OperatorRequest,
    PipelineView,
    PutModel,
    Subscription,
    Token,
    unpack_request,
)
from streamfleet_broker.protocol.status import DeviceStat, PipelineStat
from streamfleet_broker.protocol.values import ModelRef, ObservedState, PipelineSpec, SourceSpec, to_plain

KEY = "k" * 40
UNKNOWN = Error("not_found", "no such pipeline")


def spec(reference: str | int = "rtsp://user:hunter2@10.0.0.9/door?token=hunter2") -> PipelineSpec:
    """A pipeline on one source."""
    return PipelineSpec(ModelRef("parts/1", "ab" * 32), (SourceSpec(reference),))


def pipeline(pipeline_id: str, **changes: Any) -> PipelineView:
    """A pipeline that runs on edge-1, with changes."""
    running = PipelineView(pipeline_id, 3, "run", "running", "edge-1", False, spec(), ObservedState.RUNNING)
    return replace(running, **changes)


def device(name: str, **changes: Any) -> DeviceView:
    """A device that is ready, with changes."""
    return replace(DeviceView(name, "ready", 8, 1, "0.1.0", 0.2), **changes)


class Peer:
    """The broker's two ends that the api knows. Its tables are the test's to change between requests."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/operators.ipc"
        self.predictions = f"ipc://{folder}/predictions.ipc"
        self.asked: list[OperatorRequest] = []
        self.pipelines: dict[str, PipelineView] = {}
        self.devices: dict[str, DeviceView] = {}
        self.models: dict[str, ModelRef] = {}
        self.tickets: dict[str, str] = {}
        self.confirms = True
        self.answer: Callable[[OperatorRequest], Message | bytes | None] = self.honest
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.XPUB)
        self._publisher.linger = 0
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._publisher.bind(self.predictions)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.start()

    def reset(self) -> None:
        """Forget everything."""
        for table in (self.asked, self.pipelines, self.devices, self.models, self.tickets):
            table.clear()
        self.confirms = True
        self.answer = self.honest

    # the control plane ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bind and answer, until `stop`."""
        ready = threading.Event()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="peer")
        self._thread.start()
        assert ready.wait(5)

    def stop(self) -> None:
        """Close the ROUTER as a broker that ends."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join(5)

    def close(self) -> None:
        """End all."""
        self.stop()
        self._publisher.close(linger=0)
        self._context.term()

    def _run(self, ready: threading.Event) -> None:
        with self._context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(self.endpoint)
            ready.set()
            while not self._stop.is_set():
                if not router.poll(20):
                    continue
                identity, *frames = router.recv_multipart()
                envelope = decode(frames)
                assert isinstance(envelope.message, Request)
                asked = unpack_request(envelope.message)
                self.asked.append(asked)
                answer = self.answer(asked)
                if isinstance(answer, bytes):
                    router.send_multipart([identity, answer])
                elif answer is not None:
                    reply = Envelope(answer, request_id=envelope.request_id)
                    router.send_multipart([identity, *encode(reply)])

    def honest(self, asked: OperatorRequest) -> Message:
        """What a broker with these tables would say."""
        answer = self._honest(asked)
        return answer if isinstance(answer, Error) else Reply(to_plain(answer))

    def _honest(self, asked: OperatorRequest) -> object:  # noqa: C901 - one case an operation
        match asked:
            case CreatePipeline():
                view = pipeline(
                    asked.pipeline_id, spec=asked.spec, device=asked.device or "edge-1", status="starting"
                )
                return self.pipelines.setdefault(asked.pipeline_id, view)
            case ChangePipeline():
                return self._change(asked)
            case ListPipelines():
                return tuple(self.pipelines.values())
            case GetPipeline():
                return self.pipelines.get(asked.pipeline_id, UNKNOWN)
            case ListDevices():
                return tuple(self.devices.values())
            case AddDevice():
                return Token(asked.device, f"sf1.{asked.device}.{asked.ttl:g}")
            case AddSubscriber():
                return Subscription(asked.name, "tcp://*:7774", KEY, KEY, KEY)
            case PutModel():
                self.models[asked.model.id] = asked.model
                return asked.model
            case ListModels():
                return tuple(self.models.values())
            case CheckTicket():
                return self.tickets.get(asked.ticket)
            case GetFleet():
                ready = sum(view.state == "ready" for view in self.devices.values())
                return FleetView(7, 1.5, ready, len(self.devices), len(self.pipelines))
        assert_never(asked)

    def _change(self, asked: ChangePipeline) -> object:
        view = self.pipelines.get(asked.pipeline_id)
        if view is None:
            return UNKNOWN
        changed = replace(view, want=asked.want, gen=view.gen + 1)
        if asked.want == "stop":
            del self.pipelines[asked.pipeline_id]
            return Changed(changed, self.confirms)
        if self.confirms:
            done = ObservedState.RUNNING if asked.want == "run" else ObservedState.PAUSED
            changed = replace(changed, observed=done, status=done.value)
        self.pipelines[asked.pipeline_id] = changed
        return Changed(changed, self.confirms)

    # the data plane ---------------------------------------------------------------------------------------

    def wait_for_subscriber(self, topic: bytes) -> None:
        """Until somebody subscribed to exactly this."""
        while True:
            assert self._publisher.poll(5000), f"nobody subscribes to {topic!r}"
            if self._publisher.recv() == b"\x01" + topic:
                return

    def publish(self, topic: bytes, header: DataHeader, body: object) -> None:
        """Send one message."""
        self._publisher.send_multipart([topic, header.pack(), msgpack.packb(body)])

    def predict(self, pipeline_id: str, seq: int, *, gen: int = 3, text: str = "") -> None:
        """Send one prediction."""
        body = {
            "image": {"width": 640, "height": 480},
            "predictions": [
                {"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0, "confidence": 0.9, "class": f"car{text}"}
            ],
            "inference_metadata": {"pipeline_id": pipeline_id, "device": "edge-1", "frame_id": seq + 1},
        }
        self.publish(pipeline_topic(Kind.PRED, pipeline_id), DataHeader(Kind.PRED, gen, 0, seq), body)

    def tell(self, stat: PipelineStat | DeviceStat, seq: int = 0) -> None:
        """Send one status."""
        if isinstance(stat, PipelineStat):
            topic, gen = pipeline_topic(Kind.STAT, stat.pipeline_id), stat.gen
        else:
            topic, gen = device_topic(stat.device), 0
        self.publish(topic, DataHeader(Kind.STAT, gen, 0, seq), to_plain(stat))


def sha256(content: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(content).hexdigest()
