"""The publisher process, with real sockets: what comes in goes out, to whom it may, while it may."""

from __future__ import annotations

import contextlib
import itertools
import socket
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from streamfleet_core.protocol.data_plane import HEADER_SIZE, DataHeader, Kind, pipeline_topic
from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_core.runtime.boot_time import boot_time
from streamfleet_worker.ipc.child_messages import AllowSubscribers, PublisherConfig, PublisherReport, Relay
from streamfleet_worker.ipc.handover.packet import Message, pack, pack_without_body
from streamfleet_worker.ipc.handover.sender import Sender
from streamfleet_worker.publisher import process
from streamfleet_worker.publisher import publisher as module
from streamfleet_worker.publisher.direct_socket import MAX_SUBSCRIPTIONS
from streamfleet_worker.publisher.zap import ZapHandler
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import free_port
from tests.fakes.process_harness import Child, ProcessHarness, wait_for

TOPIC = pipeline_topic(Kind.PRED, "pipeline-1")


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    """Ends only when the test has closed every socket, which it does by `with`."""
    with zmq.Context() as context:
        yield context


class Camera:
    """Hands over one message after the other. It may wait, as no camera would."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sender = Sender(path, waiting=1000)

    def send(self, message: Message) -> None:
        _, topic, header, body = message
        assert self._sender.send(topic, DataHeader.unpack(header), body, fenced=message.fenced)

    def send_raw(self, pieces: Sequence[bytes], body: bytes | None = None) -> None:
        """By a connection of its own; a body in memory of its own."""
        with tempfile.TemporaryFile() as memory, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.connect(self._path)
            memory.write(body or b"")
            memory.flush()
            socket.send_fds(link, pieces, [] if body is None else [memory.fileno()])

    def close(self) -> None:
        self._sender.close()


@pytest.fixture
def camera(stand: ProcessHarness) -> Iterator[Camera]:
    with contextlib.closing(Camera(stand.intake_path)) as camera:
        yield camera


def message(seq: int, *, fenced: bool = False, body: bytes = b"\x80") -> Message:
    return Message(fenced, TOPIC, DataHeader(kind=Kind.PRED, gen=1, inc=1, seq=seq).pack(), body)


def subscriber(context: zmq.Context, endpoint: str, **options: bytes | int) -> zmq.Socket:
    sub = context.socket(zmq.SUB)
    sub.linger = 0
    for option, value in options.items():
        setattr(sub, option, value)
    sub.subscribe(b"v1/pred/")
    sub.connect(endpoint)
    return sub


def until_heard(camera: Camera, sub: zmq.Socket, what: str = "a message comes through") -> None:
    """Send until the subscriber hears, because a subscription needs its time, and until it has heard all."""
    numbers = itertools.count(1_000_000)
    last = -1  # none was sent yet

    def heard() -> bool:
        nonlocal last
        if not sub.poll(20):
            camera.send(message(last := next(numbers)))
            return False
        return DataHeader.unpack(sub.recv_multipart()[1]).seq == last

    wait_for(what, heard)


def counts(report: object) -> tuple[int, int, int]:
    assert isinstance(report, PublisherReport)
    return report.published, report.fenced, report.rejected


def test_what_is_handed_over_goes_out_unchanged_and_in_order(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    publisher = stand.publisher()

    with subscriber(context, stand.local_endpoint) as sub:
        until_heard(camera, sub)
        sent = [message(seq, body=bytes([seq])) for seq in range(1, 101)]
        for one in sent:
            camera.send(one)
        came = [sub.recv_multipart() for _ in sent if sub.poll(PATIENCE * 1000)]

    assert came == [list(one[1:]) for one in sent]
    assert publisher.stop() == 0


def test_a_closed_fence_stops_what_is_fenced_and_nothing_else(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    fence = stand.fence
    publisher = stand.publisher(fence_path=fence.path)

    with subscriber(context, stand.local_endpoint) as sub:
        until_heard(camera, sub)
        camera.send(message(1, fenced=True))
        camera.send(message(2))
        publisher.until("one message was fenced off", lambda report: report.fenced == 1)
        fence.extend(boot_time() + 60)
        camera.send(message(3, fenced=True))
        came = [DataHeader.unpack(sub.recv_multipart()[1]).seq for _ in range(2) if sub.poll(PATIENCE * 1000)]

    assert came == [2, 3]


def test_junk_is_counted_and_goes_nowhere(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    publisher = stand.publisher()
    good = message(1)
    junk = [
        [b"x"],
        [bytes(1000)],
        pack_without_body(good),
        pack(good._replace(topic=b"v2/pred/p/")),
        pack(good._replace(topic=b"v1/pred/" + b"p" * 200 + b"/")),
        pack(good._replace(header=bytes(HEADER_SIZE))),
    ]

    with subscriber(context, stand.local_endpoint) as sub:
        until_heard(camera, sub)
        for pieces in junk:
            camera.send_raw(pieces)
        camera.send_raw(pack_without_body(good), bytes(MAX_DATA_BODY + 1))
        camera.send(good)
        publisher.until("all junk was counted", lambda report: report.rejected == len(junk) + 1)

        assert sub.poll(PATIENCE * 1000)
        assert sub.recv_multipart() == list(good[1:])
        assert not sub.poll(0)


def test_it_publishes_to_the_relay_it_was_told_last(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    public, secret = zmq.curve_keypair()
    server_public, server_secret = zmq.curve_keypair()
    publisher = stand.publisher(public_key=public.decode(), secret_key=secret.decode())

    with contextlib.ExitStack() as stack:
        relays = []
        for _ in range(2):
            relay = stack.enter_context(context.socket(zmq.SUB))
            relay.linger = 0
            relay.curve_server, relay.curve_secretkey = True, server_secret
            relay.subscribe(b"")
            port = relay.bind_to_random_port("tcp://127.0.0.1")
            relays.append((relay, Relay((f"tcp://127.0.0.1:{port}",), server_public.decode())))
        (first, to_first), (second, to_second) = relays
        publisher.tell(to_first)
        until_heard(camera, first, "the first relay hears")
        publisher.tell(to_second)
        until_heard(camera, second, "the second relay hears")
        camera.send(message(9))

        assert second.poll(PATIENCE * 1000)
        while first.poll(0):  # what comes is from before it was told of the second
            assert DataHeader.unpack(first.recv_multipart()[1]).seq != 9


def patient_publisher(config: PublisherConfig, connection: Connection) -> None:
    """One that waits for its relay as long as tests do, and not only a second."""
    module._HOLD = PATIENCE
    process.main(config, connection)


def test_what_is_handed_over_before_the_relay_is_there_is_not_lost(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    public, secret = zmq.curve_keypair()
    server_public, server_secret = zmq.curve_keypair()
    sent = [message(seq) for seq in range(50)]

    with context.socket(zmq.SUB) as relay:
        relay.linger = 0
        relay.curve_server, relay.curve_secretkey = True, server_secret
        relay.subscribe(b"v1/pred/")
        port = relay.bind_to_random_port("tcp://127.0.0.1")
        publisher = stand.publisher(
            entry=patient_publisher, public_key=public.decode(), secret_key=secret.decode()
        )
        publisher.until("it listens", lambda report: True)
        for one in sent:
            camera.send(one)
        publisher.tell(Relay((f"tcp://127.0.0.1:{port}",), server_public.decode()))
        came: list[list[bytes]] = []
        while len(came) < len(sent) and relay.poll(PATIENCE * 1000):
            came.append(relay.recv_multipart())

    assert came == [list(one[1:]) for one in sent]


def test_a_relay_that_never_comes_holds_nobody_else_up(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    publisher = stand.publisher(public_key="k" * 40, secret_key="s" * 40)
    publisher.tell(Relay((f"tcp://127.0.0.1:{free_port()}",), "r" * 40))

    with subscriber(context, stand.local_endpoint) as sub:
        until_heard(camera, sub)


def test_a_relay_with_another_key_than_the_brokers_gets_nothing(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    public, secret = zmq.curve_keypair()
    brokers, _ = zmq.curve_keypair()
    _, impostor = zmq.curve_keypair()
    publisher = stand.publisher(public_key=public.decode(), secret_key=secret.decode())

    with context.socket(zmq.SUB) as relay:
        relay.linger = 0
        relay.curve_server, relay.curve_secretkey = True, impostor
        relay.subscribe(b"")
        port = relay.bind_to_random_port("tcp://127.0.0.1")
        publisher.tell(Relay((f"tcp://127.0.0.1:{port}",), brokers.decode()))
        with subscriber(context, stand.local_endpoint) as sub:
            until_heard(camera, sub)
        for seq in range(20):
            camera.send(message(seq))
            assert not relay.poll(20)


def test_only_keys_that_were_named_may_subscribe_from_the_lan(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    endpoint, server, publisher = _direct(stand)
    friend, stranger = zmq.curve_keypair(), zmq.curve_keypair()

    with (
        subscriber(context, endpoint, **_curve(friend, server)) as allowed,
        subscriber(context, endpoint, **_curve(stranger, server)) as refused,
        subscriber(context, endpoint) as plain,
        subscriber(context, stand.local_endpoint) as local,
    ):
        until_heard(camera, local)
        for seq in range(10):  # nobody is named yet, so nobody hears
            camera.send(message(seq))
            assert not allowed.poll(10)
        publisher.tell(AllowSubscribers((friend[0].decode(),)))
        # libzmq does not try again after a refusal, so the friend comes anew.
        with _admitted(context, camera, endpoint, **_curve(friend, server)):
            pass

        assert not refused.poll(0)
        assert not plain.poll(0)


@pytest.mark.parametrize("topics", [[b"x" * 2000], [b"x" * 200], [b"%d" % i for i in range(2000)]])
def test_a_key_that_asks_for_too_much_is_cut_off_and_the_others_stay(
    stand: ProcessHarness, context: zmq.Context, camera: Camera, topics: list[bytes]
) -> None:
    endpoint, server, publisher = _direct(stand)
    friend, hostile = zmq.curve_keypair(), zmq.curve_keypair()
    publisher.tell(AllowSubscribers((friend[0].decode(), hostile[0].decode())))

    with (
        _admitted(context, camera, endpoint, **_curve(friend, server)) as stays,
        _admitted(context, camera, endpoint, **_curve(hostile, server), sndhwm=0) as leaves,
        leaves.get_monitor_socket(zmq.EVENT_DISCONNECTED) as ends,
    ):
        for topic in topics:
            leaves.subscribe(topic)

        assert ends.poll(PATIENCE * 1000)
        until_heard(camera, stays, "who did nothing wrong hears")
        leaves.disable_monitor()


def test_a_key_that_is_removed_is_cut_off_and_the_others_stay(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    endpoint, server, publisher = _direct(stand)
    friend, former = zmq.curve_keypair(), zmq.curve_keypair()
    publisher.tell(AllowSubscribers((friend[0].decode(), former[0].decode())))

    with (
        _admitted(context, camera, endpoint, **_curve(friend, server)) as stays,
        _admitted(context, camera, endpoint, **_curve(former, server)) as leaves,
        leaves.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH) as refusals,
    ):
        publisher.tell(AllowSubscribers((friend[0].decode(),)))
        assert refusals.poll(PATIENCE * 1000)
        while leaves.poll(0):
            leaves.recv_multipart()
        until_heard(camera, stays, "who may stay hears again")

        assert not leaves.poll(0)
        leaves.disable_monitor()


def test_a_subscriber_that_asks_for_too_much_is_cut_off_and_does_not_come_back_at_once(
    context: zmq.Context, stand: ProcessHarness, camera: Camera
) -> None:
    endpoint, server, publisher = _direct(stand)
    friend, greedy = zmq.curve_keypair(), zmq.curve_keypair()
    publisher.tell(AllowSubscribers((friend[0].decode(), greedy[0].decode())))
    hostile = context.socket(zmq.XSUB)
    hostile.linger, hostile.sndhwm, hostile.reconnect_ivl = 0, 0, 20
    for name, value in _curve(greedy, server).items():
        setattr(hostile, name, value)

    with (
        _admitted(context, camera, endpoint, **_curve(friend, server)) as stays,
        hostile,
        hostile.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED) as events,
    ):
        hostile.connect(endpoint)
        for number in range(2 * MAX_SUBSCRIPTIONS):  # libzmq asks for all of them whenever it connects
            hostile.send(b"\x01v1/pred/%d/" % number)
        seen: list[int] = []
        while len(seen) < 8 and events.poll(PATIENCE * 1000 if len(seen) < 2 else 1000):
            seen.append(parse_monitor_message(events.recv_multipart())["event"])
        until_heard(camera, stays, "who did nothing wrong still hears")
        hostile.disable_monitor()

    # In, out, and not in again for ten seconds.
    assert seen[:2] == [zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED]
    assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen[2:]


def test_the_zap_handler_refuses_whatever_is_no_request_of_its_domain(context: zmq.Context) -> None:
    zap_handler = ZapHandler(context, "direct")
    public, _ = zmq.curve_keypair()
    zap_handler.allow(frozenset({public.decode()}))
    key = zmq.utils.z85.decode(public)
    good = [b"1.0", b"1", b"direct", b"127.0.0.1", b"", b"CURVE", key]

    answers = {
        name: zap_handler.allow_list.answer(request)[2]
        for name, request in {
            "good": good,
            "empty": [],
            "other domain": [*good[:2], b"relay-in", *good[3:]],
            "no domain": [*good[:2], b"", *good[3:]],
            "plain": [*good[:5], b"PLAIN", b"user", b"password"],
            "null": [*good[:5], b"NULL"],
            "short key": [*good[:6], key[:31]],
            "other key": [*good[:6], bytes(32)],
        }.items()
    }
    zap_handler.close()

    assert answers.pop("good") == b"200"
    assert set(answers.values()) == {b"400"}


def picture(pipeline_id: str = "door", *, body: bytes = b"\xff\xd8", fenced: bool = False) -> Message:
    topic = pipeline_topic(Kind.IMG, pipeline_id)
    return Message(fenced, topic, DataHeader(kind=Kind.IMG, gen=1, inc=1, seq=0).pack(), body)


def viewer(context: zmq.Context, endpoint: str, topic: bytes = b"v1/img/door/") -> zmq.Socket:
    sub = context.socket(zmq.SUB)
    sub.linger = 0
    sub.subscribe(topic)
    sub.connect(endpoint)
    return sub


def watched(report: object) -> tuple[str, ...]:
    assert isinstance(report, PublisherReport)
    return report.watched


@pytest.fixture
def show(stand: ProcessHarness) -> Iterator[Camera]:
    with contextlib.closing(Camera(stand.picture_intake_path)) as show:
        yield show


def test_who_looks_at_pictures_is_told_at_once_and_gets_them(
    stand: ProcessHarness, context: zmq.Context, show: Camera
) -> None:
    publisher = stand.publisher()
    publisher.until("nobody looks", lambda report: watched(report) == ())
    sent = picture(body=bytes(MAX_DATA_BODY))

    with viewer(context, stand.local_picture_endpoint) as door:
        publisher.until("one looks", lambda report: watched(report) == ("door/",))
        with viewer(context, stand.local_picture_endpoint, b"v1/img/"):
            publisher.until("another looks at all", lambda report: watched(report) == ("", "door/"))
        publisher.until("and has gone", lambda report: watched(report) == ("door/",))
        show.send(picture("gate"))
        show.send(sent)

        assert door.poll(PATIENCE * 1000)
        assert door.recv_multipart() == list(sent[1:])
    publisher.until("nobody looks any more", lambda report: watched(report) == ())


def test_a_closed_fence_stops_pictures_and_junk_goes_nowhere(
    stand: ProcessHarness, context: zmq.Context, show: Camera, camera: Camera
) -> None:
    fence = stand.fence
    publisher = stand.publisher(fence_path=fence.path)

    with viewer(context, stand.local_picture_endpoint, b"") as sub:
        publisher.until("somebody looks", lambda report: watched(report) == ("",))
        show.send(picture(fenced=True))
        show.send(message(1))  # no picture
        camera.send(picture())  # not the way of pictures
        publisher.until("all were counted", lambda report: counts(report) == (0, 1, 2))
        show.send(picture("gate"))

        assert sub.poll(PATIENCE * 1000)
        assert sub.recv_multipart()[0] == b"v1/img/gate/"
        assert not sub.poll(0)


def binds(socket: zmq.Socket, endpoint: str) -> bool:
    """Whether the socket could be bound. libzmq gives a port back some time after a socket is closed."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError:
        return False
    return True


def test_who_looked_through_a_relay_that_is_gone_looks_no_more(
    stand: ProcessHarness, context: zmq.Context, show: Camera
) -> None:
    public, secret = zmq.curve_keypair()
    server_public, server_secret = zmq.curve_keypair()
    publisher = stand.publisher(public_key=public.decode(), secret_key=secret.decode())
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    publisher.tell(Relay((), server_public.decode(), (endpoint,)))
    publisher.until("nobody looks", lambda report: watched(report) == ())

    @contextlib.contextmanager
    def relay() -> Iterator[zmq.Socket]:
        """One that is there, and through which somebody looks at a pipeline."""
        with context.socket(zmq.SUB) as relay:
            relay.linger = 0
            relay.subscribe(b"v1/img/door/")
            relay.curve_server, relay.curve_secretkey = True, server_secret
            wait_for("the relay before has given its port back", lambda: binds(relay, endpoint))

            def looks() -> bool:
                relay.poll(0)  # its subscriptions go out in its own turns
                return watched(publisher.reports[-1]) == ("door/",)

            wait_for("somebody looks", looks)
            yield relay

    for _ in range(2):  # it comes back
        with relay() as one:
            show.send(picture())
            assert one.poll(PATIENCE * 1000)
            assert one.recv_multipart() == list(picture()[1:])
        publisher.until("nobody looks", lambda report: watched(report) == ())
    with relay():
        publisher.tell(Relay((), server_public.decode()))
        publisher.until("it has another relay", lambda report: watched(report) == ())


def test_a_flood_of_pictures_costs_no_prediction(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    publisher = stand.publisher()
    flood = Sender(stand.picture_intake_path, waiting=4, room=2048)
    header = DataHeader(kind=Kind.IMG, gen=1, inc=1, seq=0)

    with (
        viewer(context, stand.local_picture_endpoint),  # and never reads
        subscriber(context, stand.local_endpoint) as sub,
    ):
        publisher.until("somebody looks", lambda report: watched(report) == ("door/",))
        until_heard(camera, sub)
        for seq in range(1, 101):
            flood.send(b"v1/img/door/", header, bytes(MAX_DATA_BODY), fenced=False)
            camera.send(message(seq))
            assert sub.poll(PATIENCE * 1000), f"message {seq}"
            assert DataHeader.unpack(sub.recv_multipart()[1]).seq == seq
    flood.close()


def test_it_reports_even_when_nothing_comes(stand: ProcessHarness) -> None:
    publisher = stand.publisher()

    wait_for("three reports", lambda: len(publisher.reports) >= 3)

    assert {counts(report) for report in publisher.reports} == {(0, 0, 0)}


def test_it_ends_when_the_agent_is_gone(stand: ProcessHarness) -> None:
    publisher = stand.publisher()
    wait_for("a report", lambda: publisher.reports)

    assert publisher.hang_up() == 0


def test_a_port_that_another_holds_is_bound_when_it_is_free(
    stand: ProcessHarness, context: zmq.Context, camera: Camera
) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:  # nobody else takes it in between
        endpoint, server, publisher = _direct(stand, port=other.getsockname()[1])
        friend = zmq.curve_keypair()
        publisher.tell(AllowSubscribers((friend[0].decode(),)))
        wait_for("it lives on without its port", lambda: len(publisher.reports) >= 2)

    with _admitted(context, camera, endpoint, **_curve(friend, server)):
        pass


def _direct(stand: ProcessHarness, port: int | None = None) -> tuple[str, bytes, Child]:
    public, secret = zmq.curve_keypair()
    endpoint = f"tcp://127.0.0.1:{port or free_port()}"
    publisher = stand.publisher(
        direct_endpoint=endpoint, public_key=public.decode(), secret_key=secret.decode()
    )
    wait_for("the publisher runs", lambda: publisher.reports)
    return endpoint, public, publisher


def _admitted(context: zmq.Context, camera: Camera, endpoint: str, **options: bytes | int) -> zmq.Socket:
    """A subscriber that hears. Who came before its key was named is refused for good, and comes anew."""

    def admitted() -> zmq.Socket | None:
        sub = subscriber(context, endpoint, **options)
        for _ in range(50):
            camera.send(message(0))
            if sub.poll(20):
                return sub
        sub.close()
        return None

    return wait_for("a subscriber is let in", admitted)


def _curve(keys: tuple[bytes, bytes], server: bytes) -> dict[str, bytes]:
    return {"curve_publickey": keys[0], "curve_secretkey": keys[1], "curve_serverkey": server}
