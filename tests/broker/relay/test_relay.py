"""What the relay passes on, whom it lets hear what, and whom it cuts off."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator

import pytest
import zmq
import zmq.asyncio

from streamfleet_broker.budget import data_limits
from streamfleet_broker.relay import relay as module
from streamfleet_broker.relay.relay import PREDICTIONS, SPARSE, Relay, Rules
from streamfleet_broker.server import Broker
from streamfleet_core.peers.replay import Holder, ReplayHolders, ReplayRequest
from streamfleet_core.peers.selection import Selection, SelectionRequest
from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, device_topic
from streamfleet_core.protocol.messages import Refused
from streamfleet_core.protocol.requests import (
    AddSubscriber,
    Changed,
    ChangePipeline,
    CreatePipeline,
    PipelineView,
    PutPipeline,
    RemoveDevice,
    RemoveSubscriber,
)
from streamfleet_core.runtime.curve import new_key_pair
from tests.fakes.broker_clients import SPEC, Curve, Device, Site, Sockets, message, serving
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

Here = Site[Broker]


@pytest.fixture
async def site() -> AsyncIterator[Here]:
    sockets = Sockets()
    try:
        with short_folder() as folder:
            async with serving(folder) as broker:
                yield Site(broker, folder, sockets)
    finally:
        sockets.close()


def listening(site: Here, endpoint: str, *topics: str, curve: Curve | None = None) -> zmq.asyncio.Socket:
    listener = site.sockets.make(zmq.SUB, curve)
    listener.connect(getattr(site.broker.endpoints, endpoint))
    for topic in topics:
        listener.subscribe(topic)
    return listener


async def publishing(site: Here, device: Device, endpoint: str = "relay_in") -> zmq.asyncio.Socket:
    """A socket that knows who listens to the device's own state."""
    publisher = site.sockets.make(zmq.XPUB, device.curve, sndhwm=0)
    publisher.connect(getattr(site.broker.endpoints, endpoint))
    await asyncio.wait_for(publisher.recv(), PATIENCE)
    return publisher


async def subjects(listener: zmq.asyncio.Socket, until_: bytes) -> list[bytes]:
    """The topics that come, up to the body that ends it."""
    found: list[bytes] = []
    while True:
        frames = await asyncio.wait_for(listener.recv_multipart(), PATIENCE)
        if frames[-1] == until_:
            return found
        found.append(frames[0])


def state(device: str) -> list[bytes]:
    return [device_topic(device), DataHeader(kind=Kind.STAT, gen=0, inc=0, seq=0).pack(), b"\x80"]


# publishing -----------------------------------------------------------------------------------------------


async def test_a_device_publishes_for_what_it_holds_and_for_nothing_else(site: Here) -> None:
    evil, generation = await site.holding("evil", "hall")
    _, other = await site.holding("cam-7", "door")
    listener = listening(site, "predictions", "v1/")
    publisher = await publishing(site, evil)

    for forged in (
        message(Kind.PRED, "door", other),
        message(Kind.STAT, "door", other),
        message(Kind.LAST, "door", other + 1),
        message(Kind.PRED, "hall", generation + 1),
        message(Kind.STAT, "hall", 2**64 - 1),
        message(Kind.PRED, "nowhere", 1),
        message(Kind.IMG, "hall", generation),
        state("cam-7"),
        state("nobody"),
        [b"v1/pred/hall", DataHeader(kind=Kind.PRED, gen=generation, inc=1, seq=1).pack(), b"\x80"],
        [b"v1/pred/hall/", b"short", b"\x80"],
        [b"v1/pred/hall/", DataHeader(kind=Kind.PRED, gen=generation, inc=1, seq=1).pack()],
        [*message(Kind.PRED, "hall", generation), b"more"],
        [b"v1/"],
        [b"v1/"] * 50,
    ):
        await publisher.send_multipart(forged)
    for honest in (
        message(Kind.PRED, "hall", generation),
        message(Kind.PRED, "hall", generation - 1),
        state("evil"),
    ):
        await publisher.send_multipart(honest)
    await publisher.send_multipart(message(Kind.STAT, "hall", generation, b"end"))

    assert await subjects(listener, b"end") == [b"v1/pred/hall/", b"v1/pred/hall/", b"v1/stat/@evil/"]


async def test_a_request_for_a_replay_reaches_the_devices_and_the_answer_its_subscriber(site: Here) -> None:
    cam, generation = await site.holding("cam-7", "door")
    evil = await site.ready("evil")
    request = ReplayRequest("door", (generation, 0, 17), "0123abcd")
    listener = listening(site, "predictions", "v1/stat/@cam-7/", request.topic.decode())
    publishers = [site.sockets.make(zmq.XPUB, each.curve, sndhwm=0) for each in (cam, evil)]
    for publisher in publishers:
        publisher.connect(site.broker.endpoints.relay_in)
        while await asyncio.wait_for(publisher.recv(), PATIENCE) != b"\1" + request.topic:
            pass
    honest, forger = publishers

    def again(of: int, body: bytes) -> list[bytes]:
        return [request.topic, DataHeader(kind=Kind.REPLAY, gen=of, inc=0, seq=17).pack(), body]

    for _ in range(3):
        await forger.send_multipart(again(generation, b"forged"))
    await honest.send_multipart(again(generation + 1, b"of the future"))
    await honest.send_multipart(again(generation, b"true"))
    await honest.send_multipart([*state("cam-7")[:2], b"end"])

    holders = await asyncio.wait_for(listener.recv_multipart(), PATIENCE)
    assert (holders[0], DataHeader.unpack(holders[1]).flags) == (request.topic, Flag.HOLDERS)
    assert ReplayHolders.decode(holders[2]).holders == (Holder("cam-7", 0, generation),)
    assert await subjects(listener, b"end") == [request.topic]


async def test_a_flood_of_a_devices_own_statuses_is_cut_off_before_the_api_has_to_read_it(site: Here) -> None:
    evil = await site.ready("evil")
    listener = site.sockets.make(zmq.SUB, rcvhwm=0, subscribe=b"v1/")
    listener.connect(site.broker.endpoints.predictions)
    publisher = await publishing(site, evil)
    end = publisher.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    began = time.monotonic()
    for _ in range(10_000):
        await publisher.send_multipart(state("evil"))
    cut = await end.poll(PATIENCE * 1000)
    publisher.disable_monitor()
    end.close(linger=0)
    assert await listener.poll(PATIENCE * 1000)
    heard = 0
    while await listener.poll(200):
        await listener.recv_multipart()
        heard += 1

    allowed = SPARSE.burst + SPARSE.each_second * (time.monotonic() - began)
    assert cut
    assert 0 < heard <= allowed < 10_000


async def test_pictures_are_their_holders_too(site: Here) -> None:
    evil, generation = await site.holding("evil", "hall")
    _, other = await site.holding("cam-7", "door")
    listener = listening(site, "pictures", "v1/")
    publisher = await publishing(site, evil, "pictures_in")

    for frames in (
        message(Kind.IMG, "door", other),
        message(Kind.PRED, "hall", generation),
        message(Kind.IMG, "hall", generation + 1),
        message(Kind.IMG, "hall", generation, b"end"),
    ):
        await publisher.send_multipart(frames)

    assert await subjects(listener, b"end") == []


async def test_a_change_of_a_pipeline_interrupts_its_predictions_at_no_gen(site: Here) -> None:
    device, generation = await site.holding("cam-7", "door")
    listener = listening(site, "predictions", "v1/")
    publisher = await publishing(site, device)

    changed = await site.operator().get(ChangePipeline("door", "pause"), Changed)
    assert changed.pipeline.generation == generation + 1
    await publisher.send_multipart(message(Kind.PRED, "door", generation))
    await publisher.send_multipart(message(Kind.PRED, "door", generation + 1))
    await publisher.send_multipart(message(Kind.STAT, "door", generation, b"end"))

    assert len(await subjects(listener, b"end")) == 2


async def test_who_floods_with_what_is_not_its_own_is_cut_off_and_others_are_heard(site: Here) -> None:
    evil = await site.ready("evil")
    device, generation = await site.holding("cam-7", "door")
    listener = listening(site, "predictions", "v1/")
    hostile, publisher = await publishing(site, evil), await publishing(site, device)
    ends = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    for _ in range(8000):
        await hostile.send_multipart(message(Kind.PRED, "door", generation, b"forged"))
    await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end"))

    assert await subjects(listener, b"end") == []
    assert await ends.poll(PATIENCE * 1000)


# removing -------------------------------------------------------------------------------------------------


async def test_a_device_that_is_removed_while_it_is_here_has_no_connection_soon(site: Here) -> None:
    device, generation = await site.holding("cam-7", "door")
    await site.ready("cam-8")
    listener = listening(site, "predictions", "v1/")
    listening(site, "pictures", "v1/")
    publisher, silent = await publishing(site, device), await publishing(site, device, "pictures_in")
    await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end"))
    assert await subjects(listener, b"end") == []
    control = device.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    await site.operator().get(ChangePipeline("door", "stop"), Changed)
    await site.operator().get(RemoveDevice("cam-7"), object)
    await publisher.send_multipart(message(Kind.PRED, "door", generation))

    assert (await device.await_(Refused)).code == "revoked"
    assert await asyncio.wait_for(publisher.recv(), PATIENCE) == b"\x00v1/"
    assert await asyncio.wait_for(silent.recv(), PATIENCE) == b"\x00v1/"
    assert await control.poll(PATIENCE * 1000)
    assert not await listener.poll(0)
    assert not await publisher.poll(300), "it does not come back"


async def test_a_key_that_two_machines_have_is_heard_of_neither(site: Here) -> None:
    device, generation = await site.holding("cam-7", "door")
    listener = listening(site, "predictions", "v1/")
    publishers = [await publishing(site, device) for _ in range(2)]
    for publisher in publishers:
        await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end"))
        assert await subjects(listener, b"end") == []

    twins = [device, site.device("cam-7", device.curve.own)]
    for number in range(8):
        await twins[number % 2].hello(boot=bytes([number % 2]) * 16)
        await twins[number % 2].next()
    for publisher in publishers:
        assert await asyncio.wait_for(publisher.recv(), PATIENCE) == b"\x00v1/"
    for twin in twins:
        await twin.hello()
        assert (await twin.await_(Refused)).code == "quarantined"

    assert not await listener.poll(0)


async def test_a_subscriber_that_is_removed_hears_nothing_soon(site: Here) -> None:
    device, generation = await site.holding("cam-7", "door")
    gone, stays = await site.subscriber("gone"), await site.subscriber("stays")
    removed = [
        listening(site, "relay_out", "v1/", curve=gone),
        listening(site, "pictures_out", "v1/", curve=gone),
    ]
    monitors = [each.get_monitor_socket(zmq.EVENT_DISCONNECTED) for each in removed]
    other = listening(site, "relay_out", "v1/", curve=stays)
    publisher = await publishing(site, device)

    async def hears(listener: zmq.asyncio.Socket, timeout: float = 0.05) -> bool:
        await publisher.send_multipart(message(Kind.PRED, "door", generation))
        return bool(await listener.poll(round(timeout * 1000)))

    while not (await hears(removed[0]) and await hears(other)):
        pass
    await site.operator().get(RemoveSubscriber("gone"), object)
    for monitor in monitors:
        assert await monitor.poll(PATIENCE * 1000)
    while await removed[0].poll(0):
        await removed[0].recv_multipart()

    for _ in range(5):
        assert await hears(other, PATIENCE)
    assert not await removed[0].poll(300)


async def test_a_subscriber_that_is_removed_before_it_subscribes_is_cut_when_it_does(site: Here) -> None:
    """Its key is not known before, so that it could not be cut when it was removed."""
    curve = await site.subscriber("gone")
    listener = site.sockets.make(zmq.SUB, curve)
    assert await site.sockets.handshake(listener, site.broker.endpoints.relay_out) == "in"
    end = listener.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    await site.operator().get(RemoveSubscriber("gone"), object)
    listener.subscribe("v1/")

    assert await end.poll(PATIENCE * 1000)
    listener.disable_monitor()
    end.close(linger=0)


# limits ---------------------------------------------------------------------------------------------------


async def test_a_limited_key_hears_its_pipelines_and_no_others_whatever_it_asks_for(site: Here) -> None:
    device, generation = await site.holding("cam-7", "door")
    view = await site.operator().get(
        CreatePipeline(pipeline_id="doors", spec=SPEC, device="cam-7"), PipelineView
    )
    curve = await site.subscriber("wall", pipelines=("door",))
    askings = ["", "v1/", "v1/pred/", "v1/pred/door/", "v1/pred/doors/", "v1/stat/@cam-7/", "v1/pred/d"]
    listeners = [listening(site, "relay_out", each, curve=curve) for each in askings]
    whole = listening(site, "predictions", "v1/")
    publisher = await publishing(site, device)

    async def publish() -> None:
        await publisher.send_multipart(message(Kind.PRED, "door", generation))
        await publisher.send_multipart(message(Kind.PRED, "doors", view.generation))
        await publisher.send_multipart(state("cam-7"))

    mine = {b"v1/pred/door/"}
    expected: dict[str, set[bytes]] = {
        "": mine,
        "v1/": mine,
        "v1/pred/": mine,
        "v1/pred/door/": mine,
        "v1/pred/doors/": set(),
        "v1/stat/@cam-7/": set(),
        "v1/pred/d": mine,
    }
    heard: dict[str, set[bytes]] = {asked: set() for asked in askings}
    now = asyncio.get_running_loop().time
    ends = now() + PATIENCE
    while heard != expected and now() < ends:
        await publish()
        for asked, listener in zip(askings, listeners, strict=True):
            while await listener.poll(5):
                heard[asked].add((await listener.recv_multipart())[0])

    assert heard == expected
    for _ in range(10):
        await publish()
    for asked, listener in zip(askings, listeners, strict=True):
        while await listener.poll(50):
            assert (await listener.recv_multipart())[0] in expected[asked]
    assert {(await whole.recv_multipart())[0] for _ in range(9)} == {
        b"v1/pred/door/",
        b"v1/pred/doors/",
        b"v1/stat/@cam-7/",
    }


@pytest.mark.parametrize("limits", [{"MAX_REPLAYS": 3}, {"MANY_REPLAYS": 2, "FEW_REPLAYS": 3}])
async def test_a_key_is_granted_a_limited_number_of_replays_and_its_other_subscriptions(
    site: Here, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(module, name, value)
    await site.holding("cam-7", "door")
    curve = await site.subscriber("wall", pipelines=("door",))
    requests = [ReplayRequest("door", (1, 0, seq), "0123abcd").topic for seq in range(5)]
    last = ReplayRequest("door", (1, 0, 5), "0123abcd").topic
    listener = listening(site, "relay_out", *(each.decode() for each in requests), curve=curve)

    async def next_topic() -> bytes:
        return (await asyncio.wait_for(listener.recv_multipart(), PATIENCE))[0]

    granted: set[bytes] = set()
    while len(granted) < 3:
        granted.add(await next_topic())
    for each in requests:
        listener.unsubscribe(each)
    listener.subscribe(last)
    while (topic := await next_topic()) != last:  # none of those that were refused is granted later
        granted.add(topic)

    assert granted == {*requests[:3]}


async def test_a_selector_hears_what_has_its_labels_as_they_change(site: Here) -> None:
    device = await site.ready("cam-7")
    operator = site.operator()
    put = PutPipeline(pipeline_id="door", spec=SPEC, device="cam-7")
    await operator.ask(put)
    listener = listening(
        site, "relay_out", "v1/pred/", curve=await site.subscriber("wall", selector={"site": "hall"})
    )
    local = listening(site, "predictions", "v1/pred/")
    publisher = await publishing(site, device)

    async def hears() -> bool:
        await publisher.send_multipart(message(Kind.PRED, "door", 1))
        await local.recv_multipart()
        came = bool(await listener.poll(50))
        while await listener.poll(0):
            await listener.recv_multipart()
        return came

    for _ in range(5):
        assert not await hears()
    await operator.ask(PutPipeline(pipeline_id="door", spec=SPEC, device="cam-7", labels={"site": "hall"}))
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await hears():
        assert asyncio.get_running_loop().time() < deadline
    await operator.ask(put)
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while await hears():
        assert asyncio.get_running_loop().time() < deadline


async def test_the_pipelines_with_labels_are_told_to_who_may_receive_them_and_each_change(site: Here) -> None:
    await site.ready("cam-7")
    operator = site.operator()

    async def label(pipeline_id: str, **labels: str) -> None:
        await operator.ask(PutPipeline(pipeline_id=pipeline_id, spec=SPEC, device="cam-7", labels=labels))

    await label("door", site="hall", line="3")
    await label("gate", site="yard")
    topics = [SelectionRequest("site=hall", f"0000000{number}").topic.decode() for number in range(3)]
    whole = listening(site, "relay_out", topics[0], curve=await site.subscriber("whole"))
    one = listening(site, "relay_out", topics[1], curve=await site.subscriber("one", pipelines=("door",)))
    local = listening(site, "predictions", topics[2])
    everyone = (whole, one, local)

    async def told(listener: zmq.asyncio.Socket) -> tuple[str, ...]:
        frames = await asyncio.wait_for(listener.recv_multipart(), PATIENCE)
        assert DataHeader.unpack(frames[1]).kind is Kind.SELECT
        return Selection.decode(frames[2]).pipelines

    assert [await told(each) for each in everyone] == [("door",)] * 3
    await label("gate", site="hall")
    assert [await told(each) for each in (whole, local)] == [("door", "gate")] * 2
    await label("door", line="3")
    assert [await told(each) for each in everyone] == [("gate",), (), ("gate",)]
    await operator.ask(
        PutPipeline(pipeline_id="gate", spec=SPEC, device="cam-7", labels={"site": "hall", "x": "y"})
    )
    await label("gate")
    assert [await told(each) for each in (whole, local)] == [(), ()]


async def test_the_number_of_selections_of_a_key_is_limited(
    site: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SELECTIONS", 2)
    await site.ready("cam-7")
    topics = [SelectionRequest("site=hall", f"0000000{number}").topic for number in range(4)]
    curve = await site.subscriber("wall")
    listener = listening(site, "relay_out", *(each.decode() for each in topics[:3]), curve=curve)

    granted = {(await asyncio.wait_for(listener.recv_multipart(), PATIENCE))[0] for _ in range(2)}
    listener.unsubscribe(topics[0])
    listener.subscribe(topics[3])
    last = (await asyncio.wait_for(listener.recv_multipart(), PATIENCE))[0]

    assert (granted, last) == ({*topics[:2]}, topics[3])


async def test_the_keys_of_limited_subscribers_open_no_device_itself(site: Here) -> None:
    device = await site.ready("cam-7")

    await site.subscriber("some", pipelines=("door",))
    all_ = await site.subscriber("all")
    while all_.own.public not in device.subscribers:
        await device.next()

    assert device.subscribers == (all_.own.public,)
    refused = await site.operator().ask(AddSubscriber("one", "cam-7", pipelines=("door",)))
    assert "a device cannot enforce limits" in str(refused)


# starting -------------------------------------------------------------------------------------------------


def test_a_relay_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_descriptors(*_: object) -> object:
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(module, "Forwarder", without_descriptors)
    relay = Relay(new_key_pair(), Rules.of(()), data_limits(1, 1), lambda _key, _seconds: None)

    with pytest.raises(zmq.ZMQError, match="Too many open files"):
        relay.start(PREDICTIONS, "tcp://127.0.0.1:*", "inproc://here", "tcp://127.0.0.1:*")

    relay.stop()
