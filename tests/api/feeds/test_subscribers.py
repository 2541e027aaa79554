"""Subscribers as tasks: how many, who is left, who is woken, and work that a bug has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message as AsgiMessage

from streamfleet_api.feeds import subscribers as module
from streamfleet_api.feeds.background_task import Background
from streamfleet_api.feeds.send_queue import Message, SendQueue
from streamfleet_api.feeds.subscribers import Hub, Stopping, SubscriberRegistry, TooManySubscribers
from streamfleet_api.feeds.transports import Sse, WebSocket, stream
from tests.fakes.patience import PATIENCE

ONE = Message(kind="prediction", data=b"{}", id="3-0-1")


class Client:
    """The other side of an ASGI connection."""

    def __init__(self) -> None:
        self.got: list[AsgiMessage] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.left = asyncio.Event()

    async def send(self, message: AsgiMessage) -> None:
        """Take a message, as soon as it takes any."""
        await self.takes.wait()
        self.got.append(message)

    async def receive(self) -> AsgiMessage:
        """Say that it goes, when it does."""
        await self.left.wait()
        return {"type": "http.disconnect"}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    await with_deadline(_poll(condition))


async def with_deadline(work: Awaitable[Any]) -> None:
    """Await something that must come."""
    await asyncio.wait_for(work, PATIENCE)


async def _poll(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def test_the_number_of_followers_is_bounded_and_a_place_is_free_again() -> None:
    hub: Hub[str] = Hub(SubscriberRegistry(limit=2, stuck=30))
    with hub.subscribe("a", SendQueue()):
        with hub.subscribe("b", SendQueue()), pytest.raises(TooManySubscribers, match="2 streams"):
            hub.subscribe("b", SendQueue()).__enter__()
        assert hub.groups.keys() == {"a"}
        with hub.subscribe("a", SendQueue()):
            assert len(hub.groups["a"]) == 2
    assert not hub.groups


async def test_a_client_that_goes_is_followed_no_more() -> None:
    hub: Hub[str] = Hub(SubscriberRegistry(stuck=30))
    client = Client()
    with hub.subscribe("a", SendQueue()) as subscriber:
        streaming = asyncio.create_task(stream(subscriber, Sse(), client.receive, client.send))
        subscriber.push(ONE)
        await until(lambda: len(client.got) == 3)
        client.left.set()
        await with_deadline(streaming)

    assert client.got[0]["status"] == 200
    assert client.got[2]["body"] == ONE.sse


async def test_a_client_that_takes_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    subscribers = SubscriberRegistry(stuck=0.1)
    hub: Hub[str] = Hub(subscribers)
    client = Client()
    await subscribers.start()
    with hub.subscribe("a", SendQueue()) as subscriber:
        client.takes.clear()

        await with_deadline(stream(subscriber, WebSocket(), client.receive, client.send))

    await subscribers.close()
    assert client.got == []
    assert "read nothing" in caplog.text


async def test_a_client_to_whom_nothing_is_said_is_not_stuck_and_gets_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PING", 0.1)
    subscribers = SubscriberRegistry(stuck=0.1)
    hub: Hub[str] = Hub(subscribers)
    client = Client()
    await subscribers.start()
    with hub.subscribe("a", SendQueue()) as subscriber:
        streaming = asyncio.create_task(stream(subscriber, Sse(), client.receive, client.send))
        await until(lambda: len(client.got) >= 5)
        client.left.set()
        await with_deadline(streaming)

    await subscribers.close()
    assert [each["body"] for each in client.got[2:5]] == [b":\n\n"] * 3


async def test_whoever_follows_when_the_api_stops_gets_what_waits_and_then_the_end() -> None:
    subscribers = SubscriberRegistry(stuck=30)
    hub: Hub[str] = Hub(subscribers)
    client = Client()
    with hub.subscribe("a", SendQueue()) as subscriber:
        subscriber.push(ONE)
        subscribers.end()
        await with_deadline(stream(subscriber, Sse(), client.receive, client.send))

    assert [each.get("body") for each in client.got[2:]] == [ONE.sse, b""]
    assert client.got[-1]["more_body"] is False


async def test_a_client_that_comes_when_the_api_stops_is_not_let_in_to_be_sent_away_at_once() -> None:
    subscribers = SubscriberRegistry(stuck=30)
    hub: Hub[str] = Hub(subscribers)
    subscribers.end()

    with pytest.raises(Stopping):
        hub.subscribe("a", SendQueue()).__enter__()

    assert not hub.groups


async def test_work_that_a_bug_has_ended_begins_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamfleet_api.feeds.background_task._PAUSE", 0.0)
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise RuntimeError("a bug")
        await asyncio.Event().wait()

    background = Background("listening", work)
    background.start()
    await until(lambda: times == 2)
    await background.close()

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "listening: crashed, restarting")
    ]


async def test_work_that_swallows_a_cancellation_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `asyncio.wait_for` does before Python 3.12, when what it waits for comes just then."""
    monkeypatch.setattr("streamfleet_api.feeds.background_task._PAUSE", 0.01)
    waiting, swallowed = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    background = Background("deaf", work)
    background.start()
    await with_deadline(waiting.wait())
    closing = asyncio.create_task(background.close())
    await asyncio.wait({closing}, timeout=PATIENCE)

    assert swallowed.is_set()
    assert closing.done()
