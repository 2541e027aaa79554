"""The api's way to the broker: typed errors, a deadline on each question, none lost in a restart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import zmq
import zmq.asyncio

from streamfleet_api.broker_client import PAGE, BadReply, BrokerClient, BrokerUnreachable, Refused
from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.messages import Error, Reply
from streamfleet_core.protocol.requests import (
    DeviceView,
    FleetView,
    GetFleet,
    ListDevices,
    ListPipelines,
    PipelineView,
)
from streamfleet_core.protocol.values import KeyPair, to_plain
from streamfleet_core.runtime.curve import CurveKeys
from tests.fakes.broker import Peer, pipeline
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import short_folder

FLEET = FleetView(epoch=7, uptime=1.5, devices_ready=0, devices=0, pipelines=0)


@pytest.fixture
async def broker(peer: Peer) -> AsyncIterator[BrokerClient]:
    """A client that is connected to the peer."""
    context = zmq.asyncio.Context()
    broker = BrokerClient(context, peer.endpoint)
    await broker.start()
    await answered(broker)
    peer.asked.clear()
    yield broker
    await broker.close()
    context.term()


async def answered(broker: BrokerClient) -> None:
    """Ask until there is an answer: a connection may take longer than a question has for it."""
    for _ in range(10):
        with contextlib.suppress(BrokerUnreachable):
            await broker.ask(GetFleet(), FleetView)
            return
    raise AssertionError("no answer")


async def until(condition: Callable[[], bool]) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_questions_under_way_at_once_get_their_own_answers(broker: BrokerClient, peer: Peer) -> None:
    peer.pipelines["door"] = pipeline("door")

    fleets, pipelines = await asyncio.gather(
        broker.ask(GetFleet(), FleetView), broker.ask(ListPipelines(), tuple[PipelineView, ...])
    )

    assert (fleets.epoch, pipelines) == (7, (pipeline("door"),))


async def test_an_older_broker_that_knows_no_pages_is_listed_in_pages_too(
    broker: BrokerClient, peer: Peer
) -> None:
    peer.pipelines = {name: pipeline(name) for name in ("a", "b", "c", "d", "e")}

    pages = [await broker.page_of_pipelines(after, 2) for after in (0, 2, 4)]

    assert [[view.pipeline_id for view in page] for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert [view.order for view in pages[1]] == [3, 4]


async def test_a_list_that_is_longer_than_a_page_is_whole(broker: BrokerClient, peer: Peer) -> None:
    peer.pipelines = {f"door-{number}": pipeline(f"door-{number}") for number in range(2 * PAGE)}

    found = await broker.pipelines()

    assert [view.pipeline_id for view in found] == list(peer.pipelines)


async def test_a_refusal_has_its_code_and_text(broker: BrokerClient, peer: Peer) -> None:
    peer.answer = lambda _asked: Error("conflict", "it is taken")

    with pytest.raises(Refused, match="conflict: it is taken") as caught:
        await broker.ask(GetFleet(), FleetView)

    assert (caught.value.code, caught.value.message) == ("conflict", "it is taken")


@pytest.mark.parametrize("answer", [Reply({"epoch": "seven"}), Reply(None), Reply([1])])
async def test_an_answer_of_another_version_is_told_apart(
    broker: BrokerClient, peer: Peer, answer: Reply
) -> None:
    peer.answer = lambda _asked: answer

    with pytest.raises(BadReply):
        await broker.ask(GetFleet(), FleetView)


async def test_a_broker_that_keeps_silent_is_unreachable_at_the_deadline(
    broker: BrokerClient, peer: Peer
) -> None:
    peer.answer = lambda _asked: None

    patient = asyncio.create_task(broker.ask(GetFleet(), FleetView))
    with pytest.raises(BrokerUnreachable, match=r"no answer within 0\.2 s"):
        await broker.ask(GetFleet(), FleetView, timeout=0.2)

    assert not patient.done()
    patient.cancel()


async def test_without_a_broker_a_question_fails_and_is_not_sent_later(
    broker: BrokerClient, peer: Peer
) -> None:
    peer.stop()
    try:
        with pytest.raises(BrokerUnreachable):
            await broker.ask(ListDevices(), tuple[DeviceView, ...], timeout=0.3)
    finally:
        peer.start()

    await answered(broker)
    assert {type(asked) for asked in peer.asked} == {GetFleet}


async def test_a_question_that_a_dying_broker_took_is_asked_again_of_the_next(
    broker: BrokerClient, peer: Peer
) -> None:
    peer.answer = lambda _asked: None
    question = asyncio.create_task(broker.ask(GetFleet(), FleetView, timeout=PATIENCE))
    await until(lambda: len(peer.asked) == 1)

    await asyncio.to_thread(peer.stop)
    peer.answer = peer.honest
    peer.start()

    assert (await question).epoch == 7
    assert peer.asked == [GetFleet(), GetFleet()]


async def test_junk_from_the_broker_is_dropped(broker: BrokerClient, peer: Peer) -> None:
    def junk_once(_asked: object) -> bytes:
        peer.answer = peer.honest
        return b"\x00junk"

    peer.answer = junk_once
    with pytest.raises(BrokerUnreachable):
        await broker.ask(GetFleet(), FleetView, timeout=0.2)

    assert (await broker.ask(GetFleet(), FleetView)).epoch == 7


async def test_a_broker_elsewhere_is_asked_through_curve() -> None:
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    keys = CurveKeys(server_public.decode(), KeyPair(public.decode(), secret.decode()))
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = server_public, server_secret
        port = router.bind_to_random_port("tcp://127.0.0.1")
        broker = BrokerClient(context, f"tcp://127.0.0.1:{port}", keys=keys)
        await broker.start()

        question = asyncio.create_task(broker.ask(GetFleet(), FleetView))
        identity, *frames = await asyncio.wait_for(router.recv_multipart(), PATIENCE)
        answer = Envelope(Reply(to_plain(FLEET)), request_id=decode(frames).request_id)
        await router.send_multipart([identity, *encode(answer)])

        assert await question == FLEET
        assert secret.decode() not in repr(keys)
        await broker.close()


# several brokers ------------------------------------------------------------------------------------------


NOT_LEADER = Error("not_leader", "this broker stands by")


@pytest.fixture
def second_peer() -> Iterator[Peer]:
    """Another broker."""
    with short_folder() as folder:
        found = Peer(folder)
        yield found
        found.close()


@contextlib.asynccontextmanager
async def of_both(first: Peer, second: Peer) -> AsyncIterator[BrokerClient]:
    """A client of two brokers."""
    context = zmq.asyncio.Context()
    broker = BrokerClient(context, first.endpoint, second.endpoint)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.close()
        context.term()


async def test_of_two_brokers_the_one_that_leads_answers_and_is_asked_from_then_on(
    peer: Peer, second_peer: Peer
) -> None:
    peer.answer = lambda _asked: NOT_LEADER
    async with of_both(peer, second_peer) as broker:
        await answered(broker)
        await answered(broker)

    assert len(second_peer.asked) == 2
    assert len(peer.asked) <= 1


async def test_a_question_waits_until_one_of_two_brokers_leads(peer: Peer, second_peer: Peer) -> None:
    peer.answer = lambda _asked: NOT_LEADER
    refusals = iter([NOT_LEADER] * 3)
    second_peer.answer = lambda asked: next(refusals, None) or second_peer.honest(asked)
    async with of_both(peer, second_peer) as broker:
        fleet = await broker.ask(GetFleet(), FleetView, timeout=PATIENCE)

    assert fleet.epoch == 7


async def test_a_question_to_a_leader_that_falls_silent_goes_to_the_other(
    peer: Peer, second_peer: Peer
) -> None:
    async with of_both(peer, second_peer) as broker:
        await answered(broker)
        leader, other = (peer, second_peer) if peer.asked else (second_peer, peer)
        leader.answer = lambda _asked: None
        fleet = await broker.ask(GetFleet(), FleetView, timeout=PATIENCE)

    assert fleet.epoch == 7
    assert other.asked


async def test_without_a_leader_a_question_ends_in_time(peer: Peer, second_peer: Peer) -> None:
    for each in (peer, second_peer):
        each.answer = lambda _asked: NOT_LEADER
    async with of_both(peer, second_peer) as broker:
        with pytest.raises(BrokerUnreachable):
            await broker.ask(GetFleet(), FleetView, timeout=0.5)


async def test_one_broker_alone_that_does_not_lead_refuses(broker: BrokerClient, peer: Peer) -> None:
    peer.answer = lambda _asked: NOT_LEADER

    with pytest.raises(Refused, match="stands by"):
        await broker.ask(GetFleet(), FleetView)
