"""A device that publishes beyond its budget: it loses its own messages, and no other device loses any."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import zmq
import zmq.asyncio

from streamfleet_broker.fleet.device_plane import sessions
from streamfleet_broker.relay import device_budgets
from streamfleet_broker.server import Broker
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.protocol.requests import DeviceView, ListDevices
from tests.fakes.broker_clients import B, Curve, Device, Site, Sockets, message, serving, until
from tests.fakes.broker_process import running
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

RATE = 50  # messages a second; the burst is twice that
SPEED = 20  # messages a second of a device that keeps within it
EXCEEDS = "it publishes more than --device-messages and --device-bytes of the broker allow"


@asynccontextmanager
async def budgeted(messages: int, size: int = 2**30) -> AsyncIterator[Site[Broker]]:
    """A broker with this budget of each device, and peers of it."""
    sockets = Sockets()
    try:
        with short_folder() as folder:
            async with serving(folder, device_messages=messages, device_bytes=size) as broker:
                yield Site(broker, folder, sockets)
    finally:
        sockets.close()


class Flood:
    """Predictions of a device, ten thousand a second, from a thread of its own."""

    def __init__(self, endpoint: str, curve: Curve, pipeline_id: str, generation: int) -> None:
        self.sent = 0
        self._told_to_stop, self._stopped, self._told_to_close = (threading.Event() for _ in range(3))
        self._of = endpoint, curve, pipeline_id, generation
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._told_to_stop.set()
        self._told_to_close.set()
        self._thread.join()

    def stop(self) -> int:
        """Send no more, but let what was sent arrive. How many that were."""
        self._told_to_stop.set()
        assert self._stopped.wait(PATIENCE)
        return self.sent

    def _publish(self) -> None:
        endpoint, curve, pipeline_id, generation = self._of
        with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
            socket.linger = 0
            socket.setsockopt(zmq.XPUB_NODROP, 1)
            socket.curve_publickey = curve.own.public.encode()
            socket.curve_secretkey = curve.own.secret.encode()
            socket.curve_serverkey = curve.server.encode()
            socket.connect(endpoint)
            socket.poll(PATIENCE * 1000)  # until somebody listens
            while not self._told_to_stop.wait(0.01):
                with contextlib.suppress(zmq.Again):
                    for _ in range(100):
                        frames = message(Kind.PRED, pipeline_id, generation, seq=self.sent)
                        socket.send_multipart(frames, zmq.NOBLOCK)
                        self.sent += 1
            self._stopped.set()
            self._told_to_close.wait(PATIENCE)


async def publishing(site: Site[B], device: Device, endpoint: str = "relay_in") -> zmq.asyncio.Socket:
    """A socket of a device that knows that somebody listens."""
    publisher = site.sockets.make(zmq.XPUB, device.curve, sndhwm=0)
    publisher.connect(getattr(site.broker.endpoints, endpoint))
    await asyncio.wait_for(publisher.recv(), PATIENCE)
    return publisher


def listening(site: Site[B], endpoint: str = "predictions") -> zmq.asyncio.Socket:
    """A program that subscribes to everything."""
    listener = site.sockets.make(zmq.SUB, rcvhwm=0, subscribe=b"v1/")
    listener.connect(getattr(site.broker.endpoints, endpoint))
    return listener


async def heard(listener: zmq.asyncio.Socket, end: bytes) -> dict[bytes, list[int]]:
    """The sequence numbers that come, by topic, up to the body that ends it."""
    found: dict[bytes, list[int]] = {}
    while True:
        topic, header, body = await asyncio.wait_for(listener.recv_multipart(), PATIENCE)
        found.setdefault(topic, []).append(DataHeader.unpack(header).seq)
        if body == end:
            return found


async def known(site: Site[B]) -> dict[str, DeviceView]:
    """The devices as operators see them."""
    views = await site.operator().get(ListDevices(), tuple[DeviceView, ...])
    return {view.device: view for view in views}


async def dropped(site: Site[B], device: str) -> int:
    """The messages that the relays dropped of a device."""
    return (await known(site))[device].dropped.get("data", 0)


async def test_beside_a_flood_all_of_another_device_comes_and_the_flood_up_to_its_budget(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "FLOOD_LASTS", 10 * PATIENCE)
    async with budgeted(RATE) as site:
        good, generation = await site.holding("good", "door")
        bad, other = await site.holding("bad", "hall")
        listener = listening(site)
        publisher = await publishing(site, good)

        began = time.monotonic()
        numbers: dict[bytes, list[int]] = {}
        with Flood(site.broker.endpoints.relay_in, bad.curve, "hall", other) as flood:
            for number in range(3 * SPEED):
                await publisher.send_multipart(message(Kind.PRED, "door", generation, seq=number))
                await asyncio.sleep(1 / SPEED)
            await until(lambda: flood.sent > 10 * RATE, "a flood")
            total = await asyncio.to_thread(flood.stop)
            while sum(map(len, numbers.values())) + await dropped(site, "bad") < total + 3 * SPEED:
                assert time.monotonic() < began + 2 * PATIENCE, (numbers, await known(site))
                while await listener.poll(10):
                    topic, header, _ = await listener.recv_multipart()
                    numbers.setdefault(topic, []).append(DataHeader.unpack(header).seq)
        allowed = RATE * (2 + time.monotonic() - began)
        await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end", seq=3 * SPEED))

        assert await heard(listener, b"end") == {b"v1/pred/door/": [3 * SPEED]}
        assert numbers[b"v1/pred/door/"] == list(range(3 * SPEED))
        assert 2 * RATE <= len(numbers[b"v1/pred/hall/"]) <= allowed
        views = await known(site)
        assert views["good"].dropped == {}
        assert views["bad"].dropped == {"data": total - len(numbers[b"v1/pred/hall/"])}
        told = Counter(EXCEEDS in record.getMessage() for record in caplog.records)
        assert told[True] == 1


async def test_who_goes_on_beyond_its_budget_is_quarantined(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "FLOOD_LASTS", 1.0)
    caplog.set_level(logging.INFO)
    async with budgeted(RATE) as site:
        good, generation = await site.holding("good", "door")
        bad, other = await site.holding("bad", "hall")
        listener = listening(site)
        publisher = await publishing(site, good)
        watched = await publishing(site, bad)

        with Flood(site.broker.endpoints.relay_in, bad.curve, "hall", other):
            deadline = time.monotonic() + PATIENCE
            while (await known(site))["bad"].state != "quarantined":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert await asyncio.wait_for(watched.recv(), PATIENCE) == b"\x00v1/"
        # What was passed on before may still be on its way.
        await publisher.send_multipart(message(Kind.PRED, "door", generation, b"mark", seq=1))
        await heard(listener, b"mark")
        await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end", seq=2))

        assert await heard(listener, b"end") == {b"v1/pred/door/": [2]}
        assert (await known(site))["good"].state == "ready"
        assert f"bad: quarantined: {EXCEEDS}; enroll the device again" in caplog.messages


async def test_both_relays_share_the_budget_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(device_budgets, "time", SimpleNamespace(monotonic=lambda: now))
    async with budgeted(RATE) as site:
        device, generation = await site.holding("cam-7", "door")
        listener = listening(site)
        listening(site, "pictures")
        publishers = [await publishing(site, device, end) for end in ("relay_in", "pictures_in")]

        for kind, publisher in zip((Kind.PRED, Kind.IMG), publishers, strict=True):
            for number in range(80):
                await publisher.send_multipart(message(kind, "door", generation, seq=number))

        deadline = time.monotonic() + PATIENCE
        while await dropped(site, "cam-7") < 160 - 2 * RATE:
            assert time.monotonic() < deadline
        assert await dropped(site, "cam-7") == 160 - 2 * RATE
        assert await listener.poll(PATIENCE * 1000)


async def test_bytes_have_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(device_budgets, "time", SimpleNamespace(monotonic=lambda: now))
    async with budgeted(RATE, MAX_DATA_FRAME) as site:
        device, generation = await site.holding("cam-7", "door")
        listener = listening(site)
        publisher = await publishing(site, device)
        body = bytes(MAX_DATA_FRAME // 2)

        for number in range(5):
            await publisher.send_multipart(message(Kind.PRED, "door", generation, body, seq=number))
        await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end", seq=5))

        assert await heard(listener, b"end") == {b"v1/pred/door/": [0, 1, 2, 5]}
        deadline = time.monotonic() + PATIENCE
        while await dropped(site, "cam-7") < 2:
            assert time.monotonic() < deadline


async def test_a_device_within_its_budget_loses_nothing_after_the_relay_stood_still() -> None:
    rate, count = 100, 150
    with short_folder() as folder:
        async with running(folder, "--device-messages", str(rate)) as site:
            device, generation = await site.holding("cam-7", "door")
            listener = listening(site)
            publisher = await publishing(site, device)

            site.broker.process.send_signal(signal.SIGSTOP)
            for number in range(count):
                await publisher.send_multipart(message(Kind.PRED, "door", generation, seq=number))
                await asyncio.sleep(1 / rate)
            site.broker.process.send_signal(signal.SIGCONT)
            await publisher.send_multipart(message(Kind.PRED, "door", generation, b"end", seq=count))

            assert await heard(listener, b"end") == {b"v1/pred/door/": list(range(count + 1))}
            assert (await known(site))["cam-7"].dropped == {}
