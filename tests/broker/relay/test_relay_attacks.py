"""What one subscriber, or one program on the broker's host, may do to the broker: nothing others notice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket as tcp
import sys
from collections.abc import AsyncIterator

import pytest
import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from streamfleet_core.peers.connections import MAX_SILENT, SHARE
from streamfleet_core.protocol.data_plane import Kind
from tests.fakes.broker_clients import Site, message, until
from tests.fakes.broker_process import BrokerProcess, running
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

Target = Site[BrokerProcess]


@pytest.fixture
async def site() -> AsyncIterator[Target]:
    with short_folder() as folder:
        async with running(folder) as site:
            yield site


async def let_in(events: zmq.asyncio.Socket) -> None:
    """Until a handshake succeeds; the broker ends one for which the machine stood still too long."""
    event = 0
    while event != zmq.EVENT_HANDSHAKE_SUCCEEDED:
        event = (await asyncio.wait_for(recv_monitor_message(events), PATIENCE))["event"]


def log(site: Target) -> str:
    """What the broker wrote."""
    return (site.folder / "log").read_text()


class Neighbours:
    """A device that predicts without a pause, and a subscriber that did nothing wrong."""

    def __init__(self, site: Target, publisher: zmq.asyncio.Socket, listener: zmq.asyncio.Socket) -> None:
        self.site = site
        self.listener = listener
        self._publisher = publisher
        self.heard = 0
        self.seq = 0

    async def publish(self, generation: int) -> None:
        while True:
            self.seq += 1
            await self._publisher.send_multipart(message(Kind.PRED, "door", generation, seq=self.seq))
            await asyncio.sleep(0.005)

    async def listen(self) -> None:
        while True:
            await self.listener.recv_multipart()
            self.heard += 1

    async def still_hear(self) -> None:
        """Predictions come, and the broker lives."""
        before = self.heard
        try:
            await until(lambda: self.heard > before + 20, "predictions")
        except AssertionError as exc:
            heard = f"{self.heard - before} heard, {self.seq} sent"
            raise AssertionError(f"{heard}, {self.site.broker.process}\n{log(self.site)}") from exc
        assert self.site.broker.process.poll() is None


@contextlib.asynccontextmanager
async def neighbours(site: Target) -> AsyncIterator[Neighbours]:
    device, generation = await site.holding("cam-7", "door")
    publisher = site.sockets.make(zmq.PUB, device.curve)
    publisher.connect(site.broker.endpoints.relay_in)
    listener = site.sockets.make(zmq.SUB, await site.subscriber("neighbour"))
    listener.connect(site.broker.endpoints.relay_out)
    listener.subscribe("v1/pred/")
    made = Neighbours(site, publisher, listener)
    tasks = [asyncio.create_task(made.publish(generation)), asyncio.create_task(made.listen())]
    try:
        await made.still_hear()
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# A process of its own: what these do to the broker they do to their own libzmq too. It hangs up as it ends.
HOSTILE = """
import os, sys, time, zmq
endpoint, sockets, count, size, *keys = sys.argv[1:]
context, made = zmq.Context(), []
for _ in range(int(sockets)):
    socket = context.socket(zmq.XSUB)
    socket.sndhwm = 0
    if keys:
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = map(str.encode, keys)
    socket.connect(endpoint)
    made.append(socket)
for number in range(int(count)):
    for socket in made:
        socket.send(b"\\1" + os.urandom(8) + b"x" * (int(size) - 8))
time.sleep(0.3)
os._exit(0)
"""


async def attack(site: Target, way: str, *, sockets: int, count: int, size: int) -> None:
    """Subscribe to so many topics of so many bytes, with so many sockets, and hang up."""
    keys: tuple[str, ...] = ()
    if way.endswith("_out"):
        curve = await site.subscriber("mallory")
        keys = (curve.server, curve.own.public, curve.own.secret)
    numbers = (str(sockets), str(count), str(size))
    command = [sys.executable, "-c", HOSTILE, getattr(site.broker.endpoints, way), *numbers, *keys]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_one_huge_subscription_and_hanging_up_kills_nobody(site: Target) -> None:
    async with neighbours(site) as others:
        for way in ("relay_out", "pictures_out", "predictions", "pictures"):
            await attack(site, way, sockets=1, count=1, size=300_000)
            await others.still_hear()


@pytest.mark.parametrize(("way", "growth"), [("relay_out", 150), ("predictions", 300)])
async def test_a_flood_of_subscriptions_costs_little_memory_and_no_prediction(
    site: Target, way: str, growth: int
) -> None:
    """libzmq keeps a node for each byte: 600 MB of these, if nobody counts. `growth`: in MB."""
    async with neighbours(site) as others:
        before = site.broker.memory
        flood = asyncio.create_task(attack(site, way, sockets=4, count=10_000, size=100))
        while not flood.done():
            await others.still_hear()
            assert site.broker.memory - before < growth
        await flood


@pytest.mark.parametrize("devices", [1, 6])
async def test_what_waits_for_slow_subscribers_is_bounded_in_bytes(site: Target, devices: int) -> None:
    """Each of them could hold 200 messages of a megabyte, and not the same ones."""
    async with neighbours(site) as others:
        evil = []
        for number in range(devices):
            device, generation = await site.holding(f"evil-{number}", f"hall-{number}")
            publisher = site.sockets.make(zmq.XPUB, device.curve, sndhwm=20)
            publisher.connect(site.broker.endpoints.relay_in)
            evil.append((publisher, message(Kind.PRED, f"hall-{number}", generation, bytes(1_000_000))))
        curve, before = await site.subscriber("mallory"), site.broker.memory
        end = others.listener.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for _ in range(6):
            slow = site.sockets.make(zmq.SUB, curve, rcvhwm=1, rcvbuf=4096, subscribe=b"v1/pred/hall")
            slow.connect(site.broker.endpoints.relay_out)
            for _ in range(250 // devices):
                for publisher, large in evil:
                    await publisher.send_multipart(large)
                await asyncio.sleep(0.001)
            await others.still_hear()
            assert site.broker.memory - before < 350
        was_cut = await end.poll(0)
        end.close(linger=0)

    # What one device sends too much of is lost, and disturbs nobody. A peer that does not read sees no end.
    if devices == 1:
        assert not was_cut
    else:
        log = (site.folder / "log").read_text()
        assert re.search(r"disconnected [1-9]\d* slow subscribers", log), log


ENDLESS = """
import sys, zmq
endpoint, kind, first, size, *keys = sys.argv[1:]
context = zmq.Context()
socket = context.socket(getattr(zmq, kind))
socket.sndhwm, socket.linger, socket.sndtimeo = 0, 0, 5000
socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = map(str.encode, keys)
socket.connect(endpoint)
if kind == "XPUB":
    socket.recv()
frame = bytes(int(size))
socket.send(first.encode(), zmq.SNDMORE)
for _ in range(400_000_000 // len(frame) if frame else 3_000_000):
    socket.send(frame, zmq.SNDMORE)
ends = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
socket.send(b"")  # libzmq begins to send when it has the whole of it
ends.poll(20_000)
"""


@pytest.mark.parametrize(
    ("plane", "kind", "size"), [("devices", "DEALER", 60_000), ("relay_in", "XPUB", 1_000_000)]
)
async def test_a_huge_message_of_small_frames_is_cut_before_it_is_whole(
    site: Target, plane: str, kind: str, size: int
) -> None:
    """libzmq bounds a frame, and not a message: this one has 400 MB."""
    async with neighbours(site) as others:
        curve = (await site.ready("evil")).curve
        before = site.broker.memory
        keys = (curve.server, curve.own.public, curve.own.secret)
        command = [sys.executable, "-c", ENDLESS, getattr(site.broker.endpoints, plane)]
        process = await asyncio.create_subprocess_exec(*command, kind, "v1/pred/x/", str(size), *keys)
        try:
            ends = asyncio.create_task(process.wait())
            while not ends.done():
                await others.still_hear()
                assert site.broker.memory - before < 250
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_message_of_millions_of_empty_frames_is_cut_before_it_is_whole(site: Target) -> None:
    """Once it was whole, the relay had to take frame after frame of it, and passed on nothing for seconds."""
    async with neighbours(site) as others:
        curve = (await site.ready("evil")).curve
        keys = (curve.server, curve.own.public, curve.own.secret)
        command = [sys.executable, "-c", ENDLESS, site.broker.endpoints.relay_in, "XPUB", "v1/pred/x/", "0"]
        for _ in range(3):  # an attacker who does not get through tries again
            process = await asyncio.create_subprocess_exec(*command, *keys)
            try:
                await asyncio.wait_for(process.wait(), PATIENCE)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            await others.still_hear()
            if "message" in log(site):
                break

    assert "message without an end" in log(site), log(site)
    assert "frames" not in log(site), "the message never was whole"


async def test_subscribing_without_a_pause_is_cut_and_delays_nobody(site: Target) -> None:
    async with neighbours(site) as others:
        hostile = site.sockets.make(zmq.XSUB, await site.subscriber("mallory"), sndhwm=0)
        hostile.connect(site.broker.endpoints.relay_out)
        ends = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for _ in range(6000):
            await hostile.send(b"\1v1/pred/")
            await hostile.send(b"\0v1/pred/")
        assert await ends.poll(PATIENCE * 1000)
        await others.still_hear()


@pytest.mark.parametrize("plane", ["pictures_in", "relay_in", "relay_out"])
async def test_strangers_cut_no_connection_that_was_let_in_and_says_nothing(site: Target, plane: str) -> None:
    """A device sends no picture before somebody looks: nobody knows yet whose its connection is."""
    silent = min(MAX_SILENT, resource.prlimit(site.broker.process.pid, resource.RLIMIT_NOFILE)[0] // SHARE)
    endpoint = getattr(site.broker.endpoints, plane)
    curve = await site.subscriber("wall") if plane == "relay_out" else (await site.ready("cam-7")).curve
    peer = site.sockets.make(zmq.SUB if plane == "relay_out" else zmq.PUB, curve)
    end = peer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    peer.connect(endpoint)
    await let_in(end)

    with contextlib.ExitStack() as made:
        port = int(endpoint.rpartition(":")[2])
        strangers = [
            made.enter_context(tcp.create_connection(("127.0.0.1", port), PATIENCE))
            for _ in range(silent + 100)
        ]
        # The oldest is cut, after a greeting of libzmq, and whoever came before was looked at.
        while await asyncio.to_thread(strangers[0].recv, 1024):
            pass

    assert not await end.poll(300)
    peer.disable_monitor()
    end.close(linger=0)


async def test_neither_one_key_nor_strangers_can_use_up_the_descriptors(site: Target) -> None:
    limit, _ = resource.prlimit(site.broker.process.pid, resource.RLIMIT_NOFILE)
    silent = min(MAX_SILENT, limit // SHARE)
    port = int(site.broker.endpoints.relay_out.rpartition(":")[2])
    async with neighbours(site) as others:
        curve = await site.subscriber("mallory")
        before = site.broker.descriptors
        with contextlib.ExitStack() as strangers:
            for _ in range(silent + 500):  # that never begin a handshake
                strangers.enter_context(tcp.create_connection(("127.0.0.1", port), PATIENCE))
            for number in range(100):
                hostile = site.sockets.make(zmq.SUB, curve)
                hostile.connect(site.broker.endpoints.relay_out)
                hostile.subscribe(f"v1/pred/{number}/")
            for _ in range(3):
                await others.still_hear()
                await until(lambda: site.broker.descriptors - before < silent + 200, "few descriptors")
            late = site.sockets.make(zmq.SUB, await site.subscriber("late"))
            late.connect(site.broker.endpoints.relay_out)
            late.subscribe("v1/pred/")
            assert await late.poll(PATIENCE * 1000)


@pytest.mark.parametrize("content", [b"\2v1/pred/", b"v1/pred/", b""])
async def test_a_message_that_is_no_subscription_takes_nothing_from_whoever_subscribed_last(
    site: Target, content: bytes
) -> None:
    """libzmq carried out on the neighbour what it had asked for."""
    hostile = site.sockets.make(zmq.XSUB, await site.subscriber("mallory"))
    events = hostile.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    hostile.connect(site.broker.endpoints.relay_out)
    await let_in(events)
    await hostile.send(b"\1v1/pred/")
    async with neighbours(site) as others:
        await hostile.send(content)

        assert await events.poll(PATIENCE * 1000)
        assert (await recv_monitor_message(events))["event"] == zmq.EVENT_DISCONNECTED
        await others.still_hear()
    hostile.disable_monitor()
    events.close(linger=0)
    await until(lambda: "sends an invalid subscription" in log(site), "what was wrong")
