"""What one device's key may do to a real broker, and what others notice of it: nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from streamfleet_broker import server
from streamfleet_broker.budget import LIMITS
from streamfleet_broker.relay import relay
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope, encode
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.limits import MAX_CONTROL_BODY, MAX_DATA_BODY, MAX_DATA_FRAME, MAX_OBSERVED
from streamfleet_core.protocol.messages import Bye, Desired, Heartbeat, HeartbeatAck, Hello, Refused, Welcome
from streamfleet_core.protocol.requests import (
    AddSubscriber,
    CreatePipeline,
    GetFleet,
    ListDevices,
    PipelineView,
    Subscription,
)
from streamfleet_core.protocol.values import (
    KeyPair,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
)
from tests.fakes.broker_clients import Curve, Site, Sockets, serving, until
from tests.fakes.patience import PATIENCE

SPEC = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://10.0.0.9/door"),))
COSTS = 0.5  # seconds of the processor for one answer, many times what it takes; three without a limit
ASKED = 20  # times, beside a flood


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def site(folder: Path) -> AsyncIterator[Site]:
    sockets = Sockets()
    try:
        async with serving(folder) as broker:
            yield Site(broker, folder, sockets)
    finally:
        sockets.close()


@contextmanager
def flooding(endpoint: str, curve: Curve, messages: list[list[bytes]]) -> Iterator[Callable[[], int]]:
    """Send these again and again, as fast as they are taken, from a thread of its own. How many went."""
    ended = threading.Event()
    sent = 0

    def flood() -> None:
        nonlocal sent
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.curve_publickey = curve.own.public.encode()
            socket.curve_secretkey = curve.own.secret.encode()
            socket.curve_serverkey = curve.server.encode()
            socket.connect(endpoint)
            for message in cycle(messages):
                if ended.is_set():
                    return
                if socket.poll(50, zmq.POLLOUT):
                    socket.send_multipart(message, zmq.NOBLOCK)
                    sent += 1
                while socket.poll(0, zmq.POLLIN):
                    socket.recv_multipart()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield lambda: sent
    finally:
        ended.set()
        thread.join()


def hello(name: str, number: int = 0, *, seen_epoch: int = 0) -> list[bytes]:
    return encode(
        Envelope(
            Hello(
                device=name, boot=number.to_bytes(16, "big"), agent="0.1.0", capacity=4, seen_epoch=seen_epoch
            )
        )
    )


def junk(size: int) -> list[bytes]:
    """A Heartbeat of so many bytes of small things that no Heartbeat has."""
    header, request_id, _ = encode(Envelope(Heartbeat(1, 0, 0, ()), epoch=1, session=NO_SESSION, seq=1))
    return [header, request_id, b"\x81\xa1x\xdd" + size.to_bytes(4, "big") + b"\x80" * size]


def big_heartbeat() -> list[bytes]:
    """The largest that is a Heartbeat."""
    observed = tuple(
        Observed(
            pipeline_id=f"p{number}",
            generation=1,
            incarnation=1,
            state=ObservedState.RUNNING,
            reason="x" * 155,
        )
        for number in range(MAX_OBSERVED)
    )
    return encode(Envelope(Heartbeat(1, 0, 0, observed), epoch=1, session=NO_SESSION, seq=1))


FLOODS = {
    "small heartbeats": lambda: [
        encode(Envelope(Heartbeat(1, 0, 0, None), epoch=1, session=NO_SESSION, seq=1))
    ],
    "large heartbeats": lambda: [big_heartbeat()],
    "large junk": lambda: [junk(MAX_CONTROL_BODY - 100)],
    "sessions that begin and end": lambda: [
        hello("bad", 1),
        encode(Envelope(Bye("stop"), epoch=1, session=NO_SESSION, seq=1)),
        hello("bad", 2),
    ],
    "epochs that rise": lambda: [hello("bad", seen_epoch=seen) for seen in range(1000, 100_000, 1000)],
    "names of others": lambda: [hello("good", number) for number in range(8)],
    "another number of frames": lambda: [[b"x"] * 64, [b""]],
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_with_an_enrolled_key_delays_neither_operators_nor_devices(
    site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = await site.ready("good"), await site.enrol("bad")
    await good.await_(HeartbeatAck)
    operator = site.operator()
    answers: list[float] = []  # what each cost the thread of the broker and of the one who asks
    acknowledgements: list[float] = []
    caplog.clear()

    def told() -> list[int]:
        about_bad = (each for each in caplog.records if "more than any device needs" in each.getMessage())
        return [record.levelno for record in about_bad]

    with flooding(site.broker.endpoints.devices, bad.curve, FLOODS[kind]()) as sent:
        await until(lambda: sent() >= 2000 and told(), "a flood of which the broker complains")
        for _ in range(ASKED):
            began = time.thread_time()
            await operator.ask(GetFleet())
            answers.append(time.thread_time() - began)
            await asyncio.sleep(0.01)
        if kind != "epochs that rise":  # two of them make every session begin anew, and then no more
            for _ in range(5):
                began = time.thread_time()
                await good.heartbeat()
                while (await good.await_(HeartbeatAck)).number != good.heartbeat_number:
                    pass
                acknowledgements.append(time.thread_time() - began)

    assert median(answers) < COSTS
    assert median(acknowledgements or [0.0]) < COSTS
    assert set(told()) == {logging.ERROR}
    assert len(caplog.records) < 100


@pytest.mark.parametrize("plane", ["devices", "relay_in"])
async def test_who_sends_a_message_of_very_many_frames_is_cut_off_and_kept_out(
    site: Site, plane: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs a look, however small it is: a thousand messages of these took all of a minute."""
    for module in (server, relay):
        monkeypatch.setattr(module, "PENALTY", 10 * PATIENCE)
    good, bad = await site.ready("good"), await site.enrol("bad")
    await good.await_(HeartbeatAck)
    hostile = site.sockets.make(zmq.DEALER if plane == "devices" else zmq.XPUB, bad.curve, reconnect_ivl=20)
    events = hostile.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    endpoint = getattr(site.broker.endpoints, plane)
    hostile.connect(endpoint)

    assert await events.poll(PATIENCE * 1000)
    assert (await recv_monitor_message(events))["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
    if plane == "relay_in":
        site.sockets.make(zmq.SUB, subscribe=b"").connect(site.broker.endpoints.predictions)
        await hostile.recv()
    for _ in range(20):
        await hostile.send_multipart([b"v1/pred/x/", *[b""] * 10_000])
    assert await events.poll(PATIENCE * 1000)
    assert (await recv_monitor_message(events))["event"] == zmq.EVENT_DISCONNECTED

    again = site.sockets.make(zmq.DEALER, bad.curve)
    assert await site.sockets.handshake(again, endpoint, 1) != "in"
    await good.heartbeat()
    assert await good.await_(HeartbeatAck)
    hostile.disable_monitor()
    events.close(linger=0)
    assert len(caplog.records) < 50


async def test_a_flood_of_a_key_that_has_nothing_to_say_is_cut_off(site: Site) -> None:
    """Of a quarantined device, which may still enrol anew, or of a token that is used for something else."""
    hostile = site.sockets.make(zmq.DEALER, site.curve(await site.token("bad")))
    events = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    hostile.connect(site.broker.endpoints.devices)

    for number in range(2000):
        await hostile.send_multipart(hello("bad", number))

    assert await events.poll(PATIENCE * 1000)
    hostile.disable_monitor()
    events.close(linger=0)


async def test_sessions_of_a_key_are_bounded_each_minute(site: Site) -> None:
    """Each costs two writes that wait for the disk."""
    began = time.monotonic()
    bad = await site.enrol("bad")
    begun = 0
    for number in range(200):
        await bad.hello(boot=number.to_bytes(16, "big"))
    assert await bad.socket.poll(PATIENCE * 1000)
    while await bad.socket.poll(500):
        await bad.next()
        begun += bad.session != NO_SESSION
        bad.session = NO_SESSION

    allowed = LIMITS.sessions.burst + LIMITS.sessions.each_second * (time.monotonic() - began)
    assert 0 < begun <= allowed < 200
    (view,) = (await site.operator().ask(ListDevices())).data  # type: ignore[union-attr]
    assert view["state"] == "syncing"


async def test_the_longest_message_comes_through(site: Site) -> None:
    """CURVE makes it longer, and the limit of libzmq is of what travels."""
    good = await site.ready("good")
    await good.await_(HeartbeatAck)
    header, request_id, body = encode(
        Envelope(Heartbeat(1, 0, 0, ()), epoch=good.epoch, session=good.session, seq=good.seq + 1)
    )

    await good.socket.send_multipart([header, request_id, body + bytes(MAX_CONTROL_BODY - len(body))])
    refused = await good.await_(Refused)
    await good.hello()

    assert "trailing" in refused.detail
    assert await good.await_(Welcome)


async def test_what_one_hop_of_the_relay_lets_through_no_other_cuts_off(site: Site) -> None:
    """Whoever is cut off by libzmq for a length does not connect again."""
    good, bad = await site.ready("good"), await site.enrol("bad")
    await site.operator().get(CreatePipeline(pipeline_id="door", spec=SPEC, device="good"), PipelineView)
    while not good.assignments:
        await good.await_(Desired)
    keys = await site.operator().get(AddSubscriber("wall"), Subscription)
    curve = Curve(KeyPair(keys.public_key, keys.secret_key), keys.server_key)
    here = site.sockets.make(zmq.SUB, maxmsgsize=MAX_DATA_FRAME)
    there = site.sockets.make(zmq.SUB, curve, maxmsgsize=MAX_DATA_FRAME)
    here.connect(site.broker.endpoints.predictions)
    there.connect(site.broker.endpoints.relay_out)
    publishers = [site.sockets.make(zmq.PUB, device.curve) for device in (good, bad)]
    for publisher in publishers:
        publisher.connect(site.broker.endpoints.relay_in)
    for subscriber in (here, there):
        subscriber.subscribe("v1/pred/door/")

    async def heard(body: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        waiting = [here, there]
        while waiting:
            assert time.monotonic() < deadline
            header = DataHeader(kind=Kind.PRED, gen=good.assignments[0].generation, inc=1, seq=next(numbers))
            await publishers[0].send_multipart([b"v1/pred/door/", header.pack(), body])
            for subscriber in list(waiting):
                while await subscriber.poll(50):
                    if (await subscriber.recv_multipart())[2] == body:
                        waiting.remove(subscriber)
                        break

    numbers = itertools.count()
    await heard(b"before")
    await heard(bytes(MAX_DATA_BODY))
    for size in (MAX_DATA_FRAME + 1, 2 * MAX_DATA_BODY, 4 * MAX_DATA_BODY):
        await publishers[1].send_multipart([b"v1/pred/door/", bytes(48), bytes(size)])
    await heard(b"after")
