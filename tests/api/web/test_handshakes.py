"""TLS handshakes have a budget: those of strangers wait, and keep nobody else waiting."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, cast

import httpx
import pytest
import uvloop
import zmq.asyncio
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.web.access_policy import Policy, address_of, is_trusted
from streamfleet_api.web.auth import Authorise, Tickets
from streamfleet_api.web.connections import Connections, Limits, Slot
from streamfleet_api.web.failed_logins import FailedLogins
from streamfleet_api.web.handshakes import Handshakes, KnownNetworks
from streamfleet_api.web.http_listener import HttpListener
from streamfleet_api.web.network_budgets import MAX_NETWORKS
from streamfleet_api.web.tls import CertificateFiles
from streamfleet_core.protocol.rates import Rate
from tests.fakes.patience import PATIENCE
from tests.fakes.web import make_certificate


def handshakes(*, each: Rate, strangers: Rate, queue: int = 10) -> tuple[Handshakes[str], KnownNetworks]:
    known = KnownNetworks()
    return Handshakes(known, each=each, strangers=strangers, queue=queue), known


# whose turn it is -----------------------------------------------------------------------------------------


def test_an_address_beyond_its_budget_waits_and_the_next_one_does_not() -> None:
    turns, _ = handshakes(each=Rate(1, 2), strangers=Rate(100, 100))
    for name in ("a1", "a2", "a3", "b1"):
        assert turns.ask(name[0], name)

    at_once, later = turns.begin(0), turns.begin(1)

    assert at_once == ["a1", "b1", "a2"]
    assert later == ["a3"]
    assert not turns.are_waiting


def test_strangers_share_what_there_is_in_turns() -> None:
    turns, _ = handshakes(each=Rate(10, 10), strangers=Rate(1, 2))
    for name in ("a1", "a2", "a3", "b1", "c1"):
        turns.ask(name[0], name)

    assert [turns.begin(now) for now in range(4)] == [["a1", "b1"], ["c1"], ["a2"], ["a3"]]


def test_whose_requests_were_admitted_waits_for_no_stranger() -> None:
    turns, known = handshakes(each=Rate(1, 1), strangers=Rate(0, 0))
    known.admitted(address_of("10.0.0.9"))
    for network, name in (("10.0.0.1", "stranger"), ("10.0.0.9", "first"), ("10.0.0.9", "second")):
        turns.ask(network, name)

    assert [turns.begin(0), turns.begin(1), turns.begin(2)] == [["first"], ["second"], []]


def test_strangers_push_out_no_known_network_and_known_ones_are_bounded() -> None:
    known = KnownNetworks()
    for number in range(MAX_NETWORKS + 1):
        known.admitted(address_of(f"10.0.{number // 256}.{number % 256}"))

    assert "10.0.0.0" not in known
    assert "10.0.0.1" in known


def test_more_than_a_queue_of_one_address_are_refused() -> None:
    turns, _ = handshakes(each=Rate(0, 0), strangers=Rate(9, 9), queue=2)

    assert [turns.ask("a", name) for name in ("a1", "a2", "a3")] == [True, True, False]
    turns.leave("a", "a1")
    turns.leave("a", "a1")
    assert turns.ask("a", "a4")
    assert turns.ask("b", "b1")
    turns.check()


@pytest.mark.parametrize("seed", range(20))
def test_no_address_has_more_than_its_budget_whatever_happens(seed: int) -> None:
    rng, now = random.Random(seed), 0.0
    turns, _ = handshakes(each=Rate(5, 3), strangers=Rate(7, 4), queue=6)
    waiting: dict[str, set[str]] = {name: set() for name in "abcd"}
    begun: dict[str, list[float]] = {name: [] for name in "abcd"}
    strangers = 0
    for number in range(400):
        network = rng.choice("abcd")
        if rng.random() < 0.1 and waiting[network]:
            gone = rng.choice(sorted(waiting[network]))
            turns.leave(network, gone)
            waiting[network].remove(gone)
        elif turns.ask(network, f"{network}{number}"):
            waiting[network].add(f"{network}{number}")
        now += rng.choice([0.0, 0.01, 0.3])
        for name in turns.begin(now):
            waiting[name[0]].remove(name)
            begun[name[0]].append(now)
            strangers += 1
        turns.check()
        assert strangers <= 4 + 7 * now + 1e-6
        assert all(len(times) <= 3 + 5 * now + 1e-6 for times in begun.values())
        assert turns.are_waiting == any(waiting.values())


# on a socket ----------------------------------------------------------------------------------------------

P = ParamSpec("P")


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on the loop of the api: that of Python 3.10 has no time limit for the end of TLS."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


class Greeter(asyncio.Protocol):
    """Says hello, over whatever it is."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"hello")  # uvloop's is of no class of asyncio's

    def connection_lost(self, exc: Exception | None) -> None:
        self._slot.close()


@asynccontextmanager
async def listening(
    certificate: Path, turns: Handshakes[asyncio.Future[None]], head: float, *, trusted: bool = False
) -> AsyncIterator[tuple[int, Connections]]:
    """A listener of HTTP and HTTPS to which this host is a stranger, unless it is trusted."""
    connections = Connections(Limits(head=head))
    context, _ = CertificateFiles(certificate, certificate).read()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        listener = HttpListener(
            bound,
            Greeter,
            connections,
            lambda: context,
            handshakes=turns,
            is_trusted=lambda address: trusted and is_trusted(address, ()),
        )
        listener.start()
        yield bound.getsockname()[1], connections
        listener.close()
        await listener.wait_closed()


async def greeting(port: int, *, tls: bool) -> bytes:
    """What a new connection is told; empty: it was closed before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context if tls else None)
    if not tls:
        writer.write(b"GET")
    try:
        return await asyncio.wait_for(reader.readexactly(5), PATIENCE)
    finally:
        writer.transport.abort()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@on_uvloop
async def test_a_handshake_waits_for_its_turn_and_plain_text_does_not(certificate: Path) -> None:
    turns: Handshakes[asyncio.Future[None]] = Handshakes(KnownNetworks(), each=Rate(1, 1))
    async with listening(certificate, turns, PATIENCE) as (port, _):
        first, *others = (asyncio.create_task(greeting(port, tls=True)) for _ in range(3))
        await asyncio.wait([first, *others], return_when=asyncio.FIRST_COMPLETED)

        assert await greeting(port, tls=False) == b"hello"
        assert await asyncio.gather(first, *others) == [b"hello"] * 3


@on_uvloop
async def test_a_handshake_whose_turn_does_not_come_ends_in_time(certificate: Path) -> None:
    turns: Handshakes[asyncio.Future[None]] = Handshakes(KnownNetworks(), each=Rate(0, 0))
    async with listening(certificate, turns, 0.3) as (port, connections):
        with pytest.raises(OSError):
            await greeting(port, tls=True)

        turns.check()
        assert not turns.are_waiting
        while connections.count:
            await asyncio.sleep(0.01)


@on_uvloop
async def test_beyond_the_queue_a_connection_is_closed_at_once(certificate: Path) -> None:
    turns: Handshakes[asyncio.Future[None]] = Handshakes(KnownNetworks(), each=Rate(0, 0), queue=1)
    async with listening(certificate, turns, PATIENCE) as (port, _):
        waiting = asyncio.create_task(greeting(port, tls=True))
        while not turns.are_waiting:
            await asyncio.sleep(0.01)

        with pytest.raises(OSError):
            await greeting(port, tls=True)

        assert not waiting.done()
        waiting.cancel()


@on_uvloop
async def test_this_host_waits_for_no_turn(certificate: Path) -> None:
    turns: Handshakes[asyncio.Future[None]] = Handshakes(KnownNetworks(), each=Rate(0, 0))
    async with listening(certificate, turns, PATIENCE, trusted=True) as (port, _):
        assert await greeting(port, tls=True) == b"hello"


# who is known ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "token", "is_known"),
    [
        ("/v2/devices", "Bearer right-right-right", True),
        ("/v2/devices", "Bearer wrong", False),
        ("/", "", False),
    ],
)
async def test_an_address_is_known_by_a_request_with_the_token(path: str, token: str, is_known: bool) -> None:
    known = KnownNetworks()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    with zmq.asyncio.Context() as context:
        transport = httpx.ASGITransport(
            Authorise(
                app,
                policy=Policy(token="right-right-right"),
                broker=BrokerClient(context, "inproc://none"),
                tickets=Tickets(),
                failed_logins=FailedLogins(),
                known=known,
                answer=lambda _, problem: PlainTextResponse(str(problem), 401),
            ),
            client=("10.0.0.9", 1),
        )
        async with httpx.AsyncClient(transport=transport, base_url="https://10.0.0.1") as client:
            await client.get(path, headers={"authorization": token})

    assert ("10.0.0.9" in known) == is_known
