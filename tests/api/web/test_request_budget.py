"""Requests without the token, of which each address has a budget."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import httpx
import pytest
import uvicorn
import zmq.asyncio
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from streamfleet_api.broker_client import BrokerClient
from streamfleet_api.web.access_policy import Policy
from streamfleet_api.web.auth import Authorise, Tickets
from streamfleet_api.web.connections import Connections, Limits
from streamfleet_api.web.failed_logins import FailedLogins
from streamfleet_api.web.handshakes import KnownNetworks
from streamfleet_api.web.network_budgets import MAX_NETWORKS
from streamfleet_api.web.problem_details import Problem
from streamfleet_api.web.request_budget import EACH, RequestBudget
from streamfleet_api.web.uvicorn_protocol import BoundedHttp
from streamfleet_core.protocol.rates import Rate
from tests.fakes.patience import PATIENCE

STRANGER, OTHER = ip_address("203.0.113.5"), ip_address("203.0.113.6")
TOKEN = {"authorization": "Bearer right-right-right"}


def test_each_address_has_a_budget_that_fills_again() -> None:
    budget = RequestBudget(KnownNetworks(), Rate(2, 3))

    assert [budget.take(STRANGER, 0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.take(OTHER, 0.0)
    assert [budget.take(STRANGER, 0.5) for _ in range(2)] == [True, False]


def test_the_addresses_of_one_ipv6_network_share_a_budget() -> None:
    budget = RequestBudget(KnownNetworks(), Rate(0, 1))

    assert budget.take(ip_address("2001:db8::1"), 0.0)
    assert not budget.take(ip_address("2001:db8::2"), 0.0)
    assert budget.take(ip_address("2001:db8:0:1::1"), 0.0)


def test_a_network_from_which_a_request_was_admitted_has_no_limit() -> None:
    known = KnownNetworks()
    budget = RequestBudget(known, Rate(0, 0))
    assert not budget.take(STRANGER, 0.0)

    known.admitted(STRANGER)

    assert budget.take(STRANGER, 0.0)


def test_many_addresses_take_a_bounded_memory() -> None:
    budget = RequestBudget(KnownNetworks(), Rate(0, 1))

    for number in range(MAX_NETWORKS + 1):
        assert budget.take(ip_address(number), 0.0)

    assert budget.take(ip_address(0), 0.0)  # it was forgotten
    assert not budget.take(ip_address(MAX_NETWORKS), 0.0)


# the requests themselves ----------------------------------------------------------------------------------


def answer(_request: HTTPConnection, error: Exception) -> Response:
    """The answer of `/v2`."""
    assert isinstance(error, Problem)
    return error.response()


@contextmanager
def authorising() -> Iterator[Authorise]:
    """An api that trusts a network."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    with zmq.asyncio.Context() as context:
        yield Authorise(
            app,
            policy=Policy(token="right-right-right", trust=(ip_network("10.0.0.0/24"),)),
            broker=BrokerClient(context, "inproc://none"),
            tickets=Tickets(),
            failed_logins=FailedLogins(),
            known=KnownNetworks(),
            answer=answer,
        )


@contextmanager
def asked_from(*addresses: str) -> Iterator[list[httpx.AsyncClient]]:
    """A client at each address, of one api."""
    with authorising() as api:
        yield [
            httpx.AsyncClient(
                transport=httpx.ASGITransport(api, client=(address, 1)), base_url="https://203.0.113.1"
            )
            for address in addresses
        ]


@pytest.mark.parametrize(("path", "usual"), [("/healthz", 200), ("/", 200), ("/v2/devices", 401)])
async def test_a_stranger_that_asks_without_end_is_told_to_wait_and_left(path: str, usual: int) -> None:
    with asked_from("203.0.113.5", "203.0.113.6") as (stranger, other):
        for _ in range(20 * round(EACH.burst)):
            answer = await stranger.get(path)
            if answer.status_code == 429:
                break
            assert answer.status_code == usual

        assert answer.status_code == 429
        assert answer.headers["connection"] == "close"
        assert (
            answer.json()["detail"]
            == "expected at most 50 requests a second without the token from one address"
        )
        assert (await other.get(path)).status_code == usual
        assert (await stranger.get("/v2/devices", headers=TOKEN)).status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.9"])
async def test_this_host_and_trusted_networks_have_no_limit(address: str) -> None:
    with asked_from(address) as (near,):
        statuses = {(await near.get("/healthz")).status_code for _ in range(2 * round(EACH.burst))}

    assert statuses == {200}


async def test_the_requests_behind_the_one_that_is_too_many_are_not_answered() -> None:
    with authorising() as api, socket.create_server(("127.0.0.1", 0)) as listener:

        async def from_afar(scope: Scope, receive: Receive, send: Send) -> None:
            await api({**scope, "client": ("203.0.113.5", 1)}, receive, send)

        http = functools.partial(BoundedHttp, Connections(Limits()))
        # uvicorn's own types say a class, where it calls whatever it is given.
        config = uvicorn.Config(from_afar, http=http, lifespan="off", log_config=None)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        request = b"GET /healthz HTTP/1.1\r\nhost: 203.0.113.1\r\n\r\n"
        answers = b""
        while b"HTTP/1.1 429 " not in answers:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(20 * request)
            writer.write_eof()
            answers = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
        server.should_exit = True
        await asyncio.wait_for(serving, PATIENCE)

    assert answers.count(b"HTTP/1.1 429 ") == 1
    assert answers.endswith(b'from one address"}')
