"""The broker on real sockets: who gets in, what gets through, and what nothing comes of."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import socket as tcp_sockets
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
import zmq
import zmq.asyncio

from streamfleet_broker import server
from streamfleet_broker.config import BrokerConfig
from streamfleet_broker.errors import BadConfig, CannotBind, StoreUnusable
from streamfleet_broker.sockets import HANDSHAKE
from streamfleet_broker.zap import RESTART_DELAY
from streamfleet_core.peers.allow_list import AllowList
from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.data_plane import Kind
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY, MAX_DATA_BODY
from streamfleet_core.protocol.messages import (
    Bye,
    Desired,
    Enrol,
    Error,
    HeartbeatAck,
    Hello,
    Refused,
    Reply,
    Subscribers,
)
from streamfleet_core.protocol.requests import (
    AddSubscriber,
    CreatePipeline,
    DeviceView,
    Events,
    FleetView,
    GetEvents,
    GetFleet,
    ListDevices,
    ListPipelines,
    OperatorRequest,
    PipelineView,
    RemoveDevice,
    Subscription,
)
from streamfleet_core.protocol.values import KeyPair, PipelineSpec, SourceSpec
from streamfleet_core.runtime.curve import new_key_pair
from tests.fakes.broker_clients import SPEC, Curve, Device, Site, Sockets, message, serving
from tests.fakes.patience import PATIENCE

PLANES = ("devices", "operators", "relay_in", "relay_out", "pictures_in", "pictures_out")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def site(folder: Path) -> AsyncIterator[Site]:
    """A broker with the operators on a unix socket."""
    sockets = Sockets()
    try:
        async with serving(folder) as broker:
            yield Site(broker, folder, sockets)
    finally:
        sockets.close()


@pytest.fixture
async def open_site(folder: Path) -> AsyncIterator[Site]:
    """A broker with the operators on a port, as all other planes."""
    sockets = Sockets()
    try:
        async with serving(folder, operators_port=0) as broker:
            yield Site(broker, folder, sockets)
    finally:
        sockets.close()


def endpoint(site: Site, plane: str) -> str:
    return str(getattr(site.broker.endpoints, plane))


def kind_of(plane: str) -> int:
    """The socket that belongs on a port."""
    publish, subscribe = ("relay_in", "pictures_in"), ("relay_out", "pictures_out")
    return zmq.PUB if plane in publish else zmq.SUB if plane in subscribe else zmq.DEALER


async def views(site: Site) -> dict[str, DeviceView]:
    found = await site.operator().get(ListDevices(), tuple[DeviceView, ...])
    return {view.device: view for view in found}


async def still_works(site: Site, device: Device) -> None:
    """A device that did nothing wrong is acknowledged as ever."""
    await device.heartbeat()
    while (await device.await_(HeartbeatAck)).number != device.heartbeat_number:
        pass


# a session ------------------------------------------------------------------------------------------------


async def test_a_device_enrols_gets_a_session_and_is_told_its_desired_state(site: Site) -> None:
    device = await site.ready("cam-7")
    await device.await_(HeartbeatAck)
    await site.operator().get(CreatePipeline(pipeline_id="door", spec=SPEC), PipelineView)

    desired = await device.await_(Desired)

    assert [each.pipeline_id for each in desired.assignments] == ["door"]
    await still_works(site, device)
    await until_state(site, "cam-7", "ready")
    await device.send(Bye("stop"))
    await until_state(site, "cam-7", "left")


async def test_changes_that_come_together_are_told_in_few_sets_each_later_than_the_last(site: Site) -> None:
    device = await site.ready("cam-7")
    await device.await_(HeartbeatAck)
    operators = [site.operator() for _ in range(60)]

    asking = [
        operator.get(CreatePipeline(pipeline_id=f"p{i}", spec=SPEC, device="cam-7"), PipelineView)
        for i, operator in enumerate(operators)
    ]
    created = asyncio.gather(*asking)
    told: list[Desired] = []
    while not told or len(told[-1].assignments) < len(operators):
        told.append(await device.await_(Desired))
    await created

    assert len(told) < len(operators)
    assert [desired.revision for desired in told] == sorted({desired.revision for desired in told})
    await still_works(site, device)


async def until_state(site: Site, name: str, state: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (now := (await views(site))[name].state) != state:
        assert time.monotonic() < deadline, f"{name} is {now}, not {state}"
        await asyncio.sleep(0.02)


async def test_a_device_whose_connection_is_gone_is_suspect_soon(folder: Path) -> None:
    """The kernel ends the connections of whoever is killed."""
    sockets = Sockets()
    async with serving(folder, probe=0.5) as broker:
        site = Site(broker, folder, sockets)
        device = await site.ready("cam-7")
        await until_state(site, "cam-7", "ready")
        operator = site.operator()
        known = await operator.get(GetEvents(), Events)

        device.socket.close(linger=0)
        told = await operator.get(GetEvents(known.epoch, known.events[-1].n, 30_000), Events)
    sockets.close()

    assert [(event.id, event.state) for event in told.events] == [("cam-7", "suspect")]


async def test_a_hundred_pipelines_are_listed_in_one_reply(site: Site) -> None:
    """A list may be larger than a control message."""
    operator = site.operator()
    long = PipelineSpec(model=SPEC.model, sources=(SourceSpec("rtsp://10.0.0.9/" + "x" * 1000),))
    for i in range(100):
        await operator.get(CreatePipeline(pipeline_id=f"p{i}", spec=long), PipelineView)

    found = await operator.get(ListPipelines(), tuple[PipelineView, ...])

    assert [view.pipeline_id for view in found] == [f"p{i}" for i in range(100)]


async def test_a_broker_that_starts_anew_knows_its_fleet_under_a_higher_epoch(
    folder: Path,
) -> None:
    sockets = Sockets()
    async with serving(folder) as broker:
        site = Site(broker, folder, sockets)
        device = await site.ready("cam-7")
        await site.operator().get(CreatePipeline(pipeline_id="door", spec=SPEC), PipelineView)
        first = await site.operator().get(GetFleet(), FleetView)
    async with serving(folder) as broker:
        site = Site(broker, folder, sockets)
        again = site.device("cam-7", device.curve.own)
        await again.hello()
        desired = await again.await_(Desired)
        second = await site.operator().get(GetFleet(), FleetView)
        stale = Device(
            "cam-7", again.curve, site.dealer(again.curve), device.session, first.epoch, device.seq
        )
        await stale.heartbeat()
        refused = await stale.await_(Refused)
    sockets.close()

    assert [each.pipeline_id for each in desired.assignments] == ["door"]
    assert (first.epoch, second.epoch) == (1, 2)
    assert refused.code == "stale_session"


async def test_a_restored_broker_goes_beyond_the_epoch_that_a_device_has_seen(folder: Path) -> None:
    sockets = Sockets()
    async with serving(folder) as broker:
        device = await Site(broker, folder, sockets).ready("cam-7")
    async with serving(folder) as broker:
        again = Site(broker, folder, sockets).device("cam-7", device.curve.own)
        await again.hello(seen_epoch=41)
        refused = await again.next()
        await again.hello(seen_epoch=refused.epoch)
        await again.await_(Subscribers)
        await again.heartbeat()
        await again.await_(HeartbeatAck)
    async with serving(folder) as broker:
        fleet = await Site(broker, folder, sockets).operator().get(GetFleet(), FleetView)
    sockets.close()

    assert isinstance(refused.message, Refused)
    assert (refused.epoch, again.epoch, fleet.epoch) == (42, 42, 43)


async def test_an_impostor_is_refused_and_disturbs_nobody(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    victim, thief = await site.ready("victim"), await site.enrol("thief")
    await victim.await_(HeartbeatAck)

    await thief.hello("victim")
    refused = await thief.await_(Refused)

    assert refused.code == "key_device_mismatch"
    assert "thief: its key was used in the name of victim" in caplog.text
    await site.operator().get(CreatePipeline(pipeline_id="door", spec=SPEC, device="victim"), PipelineView)
    assert [each.pipeline_id for each in (await victim.await_(Desired)).assignments] == ["door"]
    await still_works(site, victim)


async def test_bytes_of_a_former_session_have_no_effect(site: Site) -> None:
    device = await site.ready("cam-7")
    await device.send(Bye("stop"))
    old = list(device.sent)
    await device.hello()
    await device.await_(Desired)
    await still_works(site, device)

    replaying = site.dealer(device.curve)
    for frames in old[1:]:
        await replaying.send_multipart(frames)
        envelope = decode(await asyncio.wait_for(replaying.recv_multipart(), PATIENCE))
        assert isinstance(envelope.message, Refused)
        assert envelope.message.code == "stale_session"

    await still_works(site, device)


# who gets in ----------------------------------------------------------------------------------------------


async def test_each_key_opens_its_own_doors_and_no_other(open_site: Site) -> None:
    site = open_site
    device, _ = await site.holding("cam-7", "door")
    subscription = await site.operator().get(AddSubscriber("wall"), Subscription)
    keys = {
        "device": device.curve.own,
        "one-time": await site.token("cam-8"),
        "subscriber": KeyPair(subscription.public_key, subscription.secret_key),
        "operator": site.key("operator"),
        "broker": site.key("broker"),
        "stranger": new_key_pair(),
    }

    async def knock(name: str, plane: str) -> tuple[str, str, str]:
        peer = site.sockets.make(kind_of(plane), site.curve(keys[name]))
        return name, plane, await site.sockets.handshake(peer, endpoint(site, plane))

    found = await asyncio.gather(*(knock(name, plane) for name in keys for plane in PLANES))

    assert {(name, plane) for name, plane, outcome in found if outcome == "in"} == {
        ("device", "devices"),
        ("device", "relay_in"),
        ("one-time", "devices"),
        ("device", "pictures_in"),
        ("subscriber", "relay_out"),
        ("subscriber", "pictures_out"),
        ("operator", "operators"),
        ("operator", "relay_out"),
        ("operator", "pictures_out"),
    }
    assert {outcome for _, _, outcome in found} == {"in", "refused"}


@pytest.mark.parametrize("plane", PLANES)
async def test_a_peer_without_curve_does_not_get_in(open_site: Site, plane: str) -> None:
    site = open_site
    naked = site.sockets.make(kind_of(plane))

    outcome = await site.sockets.handshake(naked, endpoint(site, plane))

    assert outcome in ("protocol", "cut")
    await site.ready("cam-7")


async def test_what_a_peer_without_curve_publishes_reaches_nobody(site: Site) -> None:
    device, generation = await site.holding("cam-7", "door")
    naked, known = site.sockets.make(zmq.PUB), site.sockets.make(zmq.PUB, device.curve)
    listener = site.sockets.make(zmq.SUB)
    listener.connect(site.broker.endpoints.predictions)
    listener.subscribe("")
    for publisher in (naked, known):
        publisher.connect(site.broker.endpoints.relay_in)

    async def publish() -> None:
        while True:
            await naked.send_multipart(message(Kind.PRED, "door", generation, b"naked"))
            await known.send_multipart(message(Kind.PRED, "door", generation, b"known"))
            await asyncio.sleep(0.01)

    publishing = asyncio.create_task(publish())
    received = {(await asyncio.wait_for(listener.recv_multipart(), PATIENCE))[2] for _ in range(10)}
    publishing.cancel()

    assert received == {b"known"}


async def test_a_wrong_server_key_is_no_broker_of_ours(site: Site) -> None:
    """The device authenticates the broker, too."""
    curve = Curve(await site.token("cam-7"), new_key_pair().public)
    peer = site.sockets.make(zmq.DEALER, curve)

    assert await site.sockets.handshake(peer, site.broker.endpoints.devices, 0.5) in (
        "cut",
        "protocol",
        "waiting",
    )
    assert not await peer.poll(0)


def zap_tasks(name: str) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() in (name, f"{name} supervisor")]


async def test_zap_is_back_when_its_task_is_killed(site: Site) -> None:
    """Before libzmq ends the handshakes that wait for it."""
    assert RESTART_DELAY * 1000 < HANDSHAKE
    keys = (await site.enrol("cam-7")).curve
    for name, port in (("zap control", "devices"), ("zap relay", "relay_in")):
        next(task for task in zap_tasks(name) if task.get_name() == name).cancel()
        await asyncio.sleep(0)

        stranger, friend = (site.sockets.make(kind_of(port), curve) for curve in (site.curve(), keys))
        outcomes = await asyncio.gather(
            site.sockets.handshake(stranger, endpoint(site, port)),
            site.sockets.handshake(friend, endpoint(site, port)),
        )

        assert list(outcomes) == ["refused", "in"]


async def test_while_nobody_answers_for_zap_nobody_gets_in(site: Site) -> None:
    keys = (await site.enrol("cam-7")).curve
    for task in zap_tasks("zap control"):
        task.cancel()

    peer = site.sockets.make(zmq.DEALER, keys)

    assert await site.sockets.handshake(peer, site.broker.endpoints.devices, 0.5) == "waiting"


@pytest.mark.parametrize(
    "request_",
    [
        [],
        [b"1.0"],
        [b"1.0", b"7", b"devices", b"", b"", b"CURVE"],
        [b"1.0", b"7", b"devices", b"", b"", b"CURVE", b"short"],
        [b"1.0", b"7", b"\xff\xfe", b"", b"", b"CURVE", b"k" * 32],
        [b"1.0", b"7", b"nowhere", b"", b"", b"CURVE", b"k" * 32],
        [b"1.0", b"7", b"devices", b"", b"", b"NULL"],
        [b"1.0", b"7", b"devices", b"", b"", b"PLAIN", b"user", b"password"],
        [b"2.0", b"7", b"devices", b"", b"", b"CURVE", b"k" * 32],
    ],
)
def test_whatever_is_asked_zap_has_an_answer(request_: list[bytes]) -> None:
    allow_list = AllowList()
    allow_list.set("devices", frozenset({zmq.utils.z85.encode(b"k" * 32).decode()}))

    answer = allow_list.answer(request_)

    assert answer[:3] == [b"1.0", request_[1] if len(request_) > 1 else b"", b"400"]
    good = [b"1.0", b"7", b"devices", b"", b"", b"CURVE", b"k" * 32]
    assert allow_list.answer(good)[2:5] == [b"200", b"OK", zmq.utils.z85.encode(b"k" * 32)]


def test_a_key_that_comes_too_often_or_broke_a_rule_is_told_to_come_later() -> None:
    allow_list = AllowList()
    key, other = b"k" * 32, b"o" * 32
    names = {each: zmq.utils.z85.encode(each).decode() for each in (key, other)}
    allow_list.set("relay-out", frozenset(names.values()))

    def status(who: bytes) -> bytes:
        return allow_list.answer([b"1.0", b"7", b"relay-out", b"", b"", b"CURVE", who])[2]

    answers = [status(key) for _ in range(1000)]
    allow_list.keep_out(names[other], 60)

    assert answers[0] == b"200"
    assert answers[-1] == b"300"
    assert answers.count(b"200") < 600
    assert status(other) == b"300"


async def test_a_slow_store_keeps_nobody_out(site: Site) -> None:
    keys = (await site.enrol("cam-7")).curve
    blocker = sqlite3.connect(site.folder / "store.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    async def gets_in_meanwhile() -> bool:
        asking = asyncio.create_task(site.operator().ask(CreatePipeline(pipeline_id="door", spec=SPEC)))
        await asyncio.sleep(0.05)
        peer = site.sockets.make(zmq.DEALER, keys)
        assert await site.sockets.handshake(peer, site.broker.endpoints.devices) == "in"
        store_waits = not asking.done()
        answer = await asking
        assert isinstance(answer, Error)
        assert answer.code == "store_down"
        return store_waits

    # The store waits for a second only: on a machine that stalls not each attempt is within it.
    deadline = time.monotonic() + PATIENCE
    while not await gets_in_meanwhile():
        assert time.monotonic() < deadline
    blocker.execute("ROLLBACK")
    blocker.close()
    await site.operator().get(CreatePipeline(pipeline_id="door", spec=SPEC), PipelineView)


async def test_a_broker_that_waits_for_its_store_does_not_spin(site: Site) -> None:
    """The requests that come meanwhile keep its sockets readable."""
    await site.operator().get(ListPipelines(), tuple[PipelineView, ...])
    blocker = sqlite3.connect(site.folder / "store.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    async def computed_while_it_waits() -> float | None:
        """Seconds of processor time in half a second of waiting; None if the store did not wait so long."""
        creating = asyncio.create_task(site.operator().ask(CreatePipeline(pipeline_id="door", spec=SPEC)))
        await asyncio.sleep(0.1)
        listing = asyncio.create_task(site.operator().get(ListPipelines(), tuple[PipelineView, ...]))
        await asyncio.sleep(0.1)
        began = time.thread_time()
        await asyncio.sleep(0.5)
        computed = time.thread_time() - began
        waited = not creating.done() and not listing.done()
        await asyncio.gather(creating, listing)
        return computed if waited else None

    deadline = time.monotonic() + PATIENCE
    while (computed := await computed_while_it_waits()) is None:
        assert time.monotonic() < deadline
    blocker.execute("ROLLBACK")
    blocker.close()

    assert computed < 0.25


# enrolment ------------------------------------------------------------------------------------------------


async def test_a_used_token_opens_nothing(site: Site) -> None:
    one_time = await site.token("cam-7")
    first = Device("cam-7", site.curve(one_time), site.dealer(site.curve(one_time)))
    own = new_key_pair()
    await first.send(Enrol(own.public))
    await first.next()

    await first.send(Enrol(new_key_pair().public))
    again = site.sockets.make(zmq.DEALER, site.curve(one_time))

    assert (await first.await_(Refused)).code == "token_used"
    assert await site.sockets.handshake(again, site.broker.endpoints.devices) == "refused"
    device = site.device("cam-7", own)
    await device.hello()
    await device.await_(Desired)


async def test_an_expired_token_opens_nothing(site: Site) -> None:
    one_time = await site.token("cam-7", ttl=0.1)

    async def refused() -> bool:
        peer = site.sockets.make(zmq.DEALER, site.curve(one_time))
        return await site.sockets.handshake(peer, site.broker.endpoints.devices) == "refused"

    deadline = time.monotonic() + PATIENCE
    while not await refused():
        assert time.monotonic() < deadline
    assert await views(site) == {}


async def test_a_replaced_key_is_cut_in_mid_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAST_WORD", PATIENCE)  # so that its connection is still there when it speaks
    old = await site.ready("cam-7")
    await old.await_(HeartbeatAck)

    new = await site.ready("cam-7")
    await new.await_(HeartbeatAck)

    await old.heartbeat()
    assert (await old.await_(Refused)).code == "revoked"
    knocking = site.sockets.make(zmq.DEALER, old.curve)
    assert await site.sockets.handshake(knocking, site.broker.endpoints.devices) == "refused"
    await still_works(site, new)


# junk -----------------------------------------------------------------------------------------------------


async def test_random_bytes_on_every_port_reach_nobody(
    open_site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_site
    device = await site.ready("cam-7")
    rng = random.Random(7)
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1CURVE" + bytes(48)

    for plane in PLANES:
        port = int(endpoint(site, plane).rpartition(":")[2])
        for prefix in (b"", b"\xff", b"\1\0", greeting):
            with tcp_sockets.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(prefix + rng.randbytes(rng.randrange(1, 5000)))

    await still_works(site, device)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert set(await views(site)) == {"cam-7"}


async def test_frames_that_are_no_message_are_refused_and_disturb_nobody(site: Site) -> None:
    good, bad = await site.ready("good"), await site.ready("bad")
    await bad.await_(HeartbeatAck)
    rng = random.Random(7)
    real = encode(Envelope(Hello(device="bad", boot=b"b" * 16, agent="0.1.0", capacity=4)))

    for _ in range(300):
        frames = [bytearray(frame) for frame in real][: rng.randrange(1, 5)]
        for _ in range(rng.randrange(1, 8)):
            frame = rng.choice(frames)
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        frames += [bytearray(rng.randbytes(rng.randrange(100)))] * rng.randrange(3)
        await bad.socket.send_multipart([bytes(frame) for frame in frames])

    await still_works(site, good)
    await bad.hello()
    await bad.await_(Desired)


async def test_an_oversize_frame_cuts_its_sender_only(site: Site) -> None:
    good, bad = await site.ready("good"), await site.ready("bad")

    await bad.socket.send_multipart([b"x" * (MAX_CONTROL_BODY + 1)])
    await bad.hello()

    await still_works(site, good)
    fresh = site.device("bad", bad.curve.own)
    await fresh.hello()
    await fresh.await_(Desired)


async def test_an_operator_that_sends_junk_is_told_so(site: Site) -> None:
    junk = site.sockets.make(zmq.DEALER)
    junk.connect(site.broker.endpoints.operators)

    await junk.send_multipart([b"x" * 36, b"r" * 16, b"\x80"])
    envelope = decode(await asyncio.wait_for(junk.recv_multipart(), PATIENCE))

    assert envelope.request_id == b"r" * 16
    assert isinstance(envelope.message, Error)
    assert envelope.message.code == "bad_message"
    assert "version" in envelope.message.message


# the relay ------------------------------------------------------------------------------------------------


async def test_predictions_go_from_a_device_to_this_host_and_to_subscribers_elsewhere(site: Site) -> None:
    device, generation = await site.holding("cam-7", "door")
    subscription = await site.operator().get(AddSubscriber("wall"), Subscription)
    publisher = site.sockets.make(zmq.PUB, device.curve)
    publisher.connect(site.broker.endpoints.relay_in)
    here = site.sockets.make(zmq.SUB)
    here.connect(site.broker.endpoints.predictions)
    there = site.sockets.make(
        zmq.SUB,
        Curve(KeyPair(subscription.public_key, subscription.secret_key), subscription.server_key),
    )
    there.connect(subscription.endpoint)
    twin = site.sockets.make(zmq.SUB)
    twin.connect(site.broker.endpoints.predictions)
    for subscriber in (here, there, twin):
        subscriber.subscribe("v1/pred/door/")

    async def publish() -> None:
        await publisher.send_multipart(message(Kind.PRED, "gate", generation))
        await publisher.send_multipart(message(Kind.PRED, "door", generation))

    for subscriber in (here, there, twin):
        assert await heard(subscriber, publish) == message(Kind.PRED, "door", generation)


async def test_pictures_go_their_own_way_to_this_host_and_to_subscribers_elsewhere(site: Site) -> None:
    device, generation = await site.holding("cam-7", "door")
    subscription = await site.operator().get(AddSubscriber("wall"), Subscription)
    keys = KeyPair(subscription.public_key, subscription.secret_key)
    endpoints = site.broker.endpoints
    publisher = site.sockets.make(zmq.PUB, device.curve)
    publisher.connect(endpoints.pictures_in)
    here = site.sockets.make(zmq.SUB)
    here.connect(endpoints.pictures)
    there = site.sockets.make(zmq.SUB, Curve(keys, subscription.server_key))
    there.connect(endpoints.pictures_out)
    with_predictions = site.sockets.make(zmq.SUB)
    with_predictions.connect(endpoints.predictions)
    for subscriber in (here, there, with_predictions):
        subscriber.subscribe("v1/img/door/")

    picture = message(Kind.IMG, "door", generation, bytes(MAX_DATA_BODY))

    async def publish() -> None:
        await publisher.send_multipart(picture)

    for subscriber in (here, there):
        assert await heard(subscriber, publish) == picture
    assert not await with_predictions.poll(0)


async def heard(subscriber: zmq.asyncio.Socket, publish: Callable[[], Awaitable[object]]) -> list[bytes]:
    """What it hears first of what is published until then."""
    deadline = time.monotonic() + PATIENCE
    while not await subscriber.poll(20):
        assert time.monotonic() < deadline
        await publish()
    return await subscriber.recv_multipart()


@pytest.mark.parametrize("traffic", ["predictions", "pictures"])
async def test_a_device_learns_of_the_first_who_listens_and_of_the_last_who_goes(
    site: Site, traffic: str
) -> None:
    device = await site.enrol("cam-7")
    publisher = site.sockets.make(zmq.XPUB, device.curve)
    publisher.connect(endpoint(site, "relay_in" if traffic == "predictions" else "pictures_in"))
    listeners = [site.sockets.make(zmq.SUB) for _ in range(2)]
    for listener in listeners:
        listener.connect(endpoint(site, traffic))
        listener.subscribe("v1/img/door/")
    listeners[1].subscribe("v1/img/gate/")  # which says that its first one is known, too

    first = {await asyncio.wait_for(publisher.recv(), PATIENCE) for _ in range(2)}
    listeners[0].close()
    still_watched = not await publisher.poll(200)
    listeners[1].close()
    last = {await asyncio.wait_for(publisher.recv(), PATIENCE) for _ in range(2)}

    assert first == {b"\x01v1/img/door/", b"\x01v1/img/gate/"}
    assert still_watched
    assert last == {b"\x00v1/img/door/", b"\x00v1/img/gate/"}


async def test_a_flood_of_pictures_delays_no_prediction(site: Site) -> None:
    device, generation = await site.holding("cam-7", "door")
    pictures = site.sockets.make(zmq.PUB, device.curve, sndhwm=4)
    predictions = site.sockets.make(zmq.PUB, device.curve)
    pictures.connect(site.broker.endpoints.pictures_in)
    predictions.connect(site.broker.endpoints.relay_in)
    watching, listening = site.sockets.make(zmq.SUB, rcvhwm=4), site.sockets.make(zmq.SUB)
    watching.connect(site.broker.endpoints.pictures)  # and never reads
    listening.connect(site.broker.endpoints.predictions)
    for subscriber in (watching, listening):
        subscriber.subscribe("v1/")

    flooded = 0

    async def flood() -> None:
        nonlocal flooded
        while True:
            flooded += 1
            await pictures.send_multipart(message(Kind.IMG, "door", generation, bytes(MAX_DATA_BODY)))
            await asyncio.sleep(0.02)

    flooding = asyncio.create_task(flood())
    assert await watching.poll(PATIENCE * 1000)
    await heard(listening, lambda: predictions.send_multipart(message(Kind.PRED, "door", generation)))
    overtaking = []  # pictures that were sent while a prediction was on its way
    for number in range(1, 51):
        sent, before = message(Kind.PRED, "door", generation, seq=number), flooded
        await predictions.send_multipart(sent)
        while await asyncio.wait_for(listening.recv_multipart(), PATIENCE) != sent:
            pass  # one of those before, of which several may have been under way
        overtaking.append(flooded - before)
    flooding.cancel()

    assert median(overtaking) < 10


async def test_subscribers_are_told_to_devices(site: Site) -> None:
    device = await site.ready("cam-7")

    subscription = await site.operator().get(AddSubscriber("wall"), Subscription)
    await still_works(site, device)

    assert device.subscribers == (subscription.public_key,)


# starting -------------------------------------------------------------------------------------------------


async def test_a_data_directory_belongs_to_one_broker(site: Site) -> None:
    with pytest.raises(StoreUnusable, match=r"--data-dir: .*another broker"):
        async with serving(site.folder):
            pass

    await site.ready("cam-7")


async def test_a_store_in_use_is_waited_for_however_often_the_broker_is_told_to_stop() -> None:
    """Ctrl-C in a terminal goes to all of a fleet, and whoever started the broker ends it, too."""
    begun, may_end = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        may_end.wait(PATIENCE)

    writing = asyncio.create_task(server.in_thread(write))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    was_waited_for = not writing.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert was_waited_for


@pytest.mark.parametrize("plane", PLANES)
async def test_a_taken_port_is_an_error_that_names_the_option(folder: Path, plane: str) -> None:
    option = f"{plane}_port"
    with tcp_sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(CannotBind, match=rf"--{option.replace('_', '-')}: .*{port}: the port is taken"):
            async with serving(folder, **{option: port}):
                pass

    async with serving(folder):
        pass


def test_a_path_that_is_too_long_for_a_socket_is_an_error(folder: Path) -> None:
    with pytest.raises(BadConfig, match=r"--data-dir: .* too long for the sockets in it, \d+ are possible"):
        BrokerConfig(data_dir=folder / ("x" * 100))


async def test_what_it_writes_is_for_its_owner_only(site: Site) -> None:
    await site.ready("cam-7")

    rights = {path.name: path.stat().st_mode & 0o077 for path in site.folder.rglob("*")}

    assert {"store.db", "store.db-wal", "broker.key", "operator.key", "keys"} <= rights.keys()
    files = {name: mode for name, mode in rights.items() if not name.endswith(".ipc")}
    assert set(files.values()) == {0}
    assert site.folder.stat().st_mode & 0o077 == 0


async def test_a_device_is_removed_while_what_it_is_to_run_is_held_back(site: Site) -> None:
    """For a moment, so that changes that come together are sent as one: the session had ended by then."""
    device, operator = await site.ready("door"), site.operator()
    requests: list[OperatorRequest] = [CreatePipeline(pipeline_id="hall", spec=SPEC), RemoveDevice("door")]

    answers = await operator.ask_all(requests)

    assert all(isinstance(answer, Reply) for answer in answers), answers
    assert isinstance((await device.await_(Refused)), Refused)
    (view,) = (await operator.ask(ListPipelines())).data  # type: ignore[union-attr]
    assert view["pipeline_id"] == "hall"
