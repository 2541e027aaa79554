"""The api's way to the broker: typed errors, a deadline on each question, none lost in a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import zmq
import zmq.asyncio

from streamfleet_api.link import BadReply, BrokerUnreachable, CurveKeys, Link, Refused
from streamfleet_broker.protocol.control import Envelope, decode, encode
from streamfleet_broker.protocol.messages import Error, Reply
from streamfleet_broker.protocol.requests import FleetView, GetFleet, ListPipelines, PipelineView
from streamfleet_broker.protocol.values import to_plain
from tests.api.peer import Peer, pipeline

FLEET = FleetView(7, 1.5, 0, 0, 0)


@pytest.fixture
async def link(peer: Peer) -> AsyncIterator[Link]:
    """A link to the peer."""
    context = zmq.asyncio.Context()
    link = Link(context, peer.endpoint)
    await link.start()
    yield link
    await link.close()
    context.term()


async def until(condition: Callable[[], bool]) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_questions_under_way_at_once_get_their_own_answers(link: Link, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    fleets, pipelines = await asyncio.gather(
        link.ask(GetFleet(), FleetView), link.ask(ListPipelines(), tuple[PipelineView, ...])
    )

    assert (fleets.epoch, pipelines) == (7, (pipeline("door"),))


async def test_a_refusal_has_its_code_and_text(link: Link, peer: Peer) -> None:
    peer.answer = lambda _asked: Error("conflict", "it is taken")

    with pytest.raises(Refused, match="conflict: it is taken") as caught:
        await link.ask(GetFleet(), FleetView)

    assert (caught.value.code, caught.value.message) == ("conflict", "it is taken")


@pytest.mark.parametrize("answer", [Reply({"epoch": "seven"}), Reply(None), Reply([1])])
async def test_an_answer_of_another_version_is_told_apart(link: Link, peer: Peer, answer: Reply) -> None:
    peer.answer = lambda _asked: answer

    with pytest.raises(BadReply):
        await link.ask(GetFleet(), FleetView)


async def test_a_broker_that_keeps_silent_is_unreachable_at_the_deadline(link: Link, peer: Peer) -> None:
    peer.answer = lambda _asked: None

    started = time.monotonic()
    with pytest.raises(BrokerUnreachable, match=r"no answer within 0\.2 s"):
        await link.ask(GetFleet(), FleetView, timeout=0.2)

    assert time.monotonic() - started < 1


async def test_without_a_broker_a_question_fails_and_is_not_sent_later(link: Link, peer: Peer) -> None:
    await link.ask(GetFleet(), FleetView)
    peer.stop()
    try:
        with pytest.raises(BrokerUnreachable):
            await link.ask(ListPipelines(), tuple[PipelineView, ...], timeout=0.3)
    finally:
        peer.start()

    await link.ask(GetFleet(), FleetView)
    assert [type(asked) for asked in peer.asked] == [GetFleet, GetFleet]


async def test_a_question_that_a_dying_broker_took_is_asked_again_of_the_next(link: Link, peer: Peer) -> None:
    peer.answer = lambda _asked: None
    question = asyncio.create_task(link.ask(GetFleet(), FleetView, timeout=10))
    await until(lambda: len(peer.asked) == 1)

    await asyncio.to_thread(peer.stop)
    peer.answer = peer.honest
    peer.start()

    assert (await question).epoch == 7
    assert peer.asked == [GetFleet(), GetFleet()]


async def test_junk_from_the_broker_is_dropped(link: Link, peer: Peer) -> None:
    def junk_once(_asked: object) -> bytes:
        peer.answer = peer.honest
        return b"\x00junk"

    peer.answer = junk_once
    with pytest.raises(BrokerUnreachable):
        await link.ask(GetFleet(), FleetView, timeout=0.2)

    assert (await link.ask(GetFleet(), FleetView)).epoch == 7


async def test_a_broker_elsewhere_is_asked_through_curve() -> None:
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    keys = CurveKeys(server_public.decode(), public.decode(), secret.decode())
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = server_public, server_secret
        port = router.bind_to_random_port("tcp://127.0.0.1")
        link = Link(context, f"tcp://127.0.0.1:{port}", keys=keys)
        await link.start()

        question = asyncio.create_task(link.ask(GetFleet(), FleetView))
        identity, *frames = await asyncio.wait_for(router.recv_multipart(), 5)
        answer = Envelope(Reply(to_plain(FLEET)), request_id=decode(frames).request_id)
        await router.send_multipart([identity, *encode(answer)])

        assert await question == FLEET
        assert secret.decode() not in repr(keys)
        await link.close()
