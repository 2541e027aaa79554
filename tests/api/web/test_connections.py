"""Connections that are slow or many: each has its time and its place, and none keeps an honest client out."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamfleet_api.web.access_policy import address_of
from streamfleet_api.web.connections import MOST, Connections, Limits, Slot
from streamfleet_api.web.uvicorn_protocol import MAX_UNANSWERED
from streamfleet_core.runtime.file_descriptors import Alarm, Descriptors
from tests.api.conftest import Api, until
from tests.fakes.broker import Peer
from tests.fakes.cramped_api import DESCRIPTORS, SLOW
from tests.fakes.patience import PATIENCE
from tests.fakes.stream_client import websocket
from tests.fakes.web import make_certificate

HEAD = b"POST /initialise HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
ASK = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


# who makes room ------------------------------------------------------------------------------------------


class Peers:
    """Connections that remember who was dropped."""

    def __init__(self, total: int, each: int) -> None:
        self.all = Connections(Limits(total=total, each=each))
        self.dropped: list[str] = []

    def open(self, name: str, address: str = "10.0.0.1") -> Slot:
        """A new one."""
        return self.all.open(address_of(address), lambda: self.dropped.append(name))


def test_the_longest_idle_connection_of_an_address_makes_room_for_its_next() -> None:
    peers = Peers(total=10, each=3)
    first, _, third = (peers.open(name) for name in ("first", "second", "third"))
    peers.open("other", "10.0.0.2")
    first.busy()

    assert peers.open("fourth").is_open
    assert peers.dropped == ["second"]
    third.busy()
    first.idle()
    assert peers.open("fifth").is_open
    assert peers.dropped == ["second", "fourth"]
    assert (peers.all.count, peers.all.without_room) == (4, 2)


def test_an_address_whose_connections_are_all_busy_gets_no_more_and_others_do() -> None:
    peers = Peers(total=10, each=2)
    for name in ("first", "second"):
        slot = peers.open(name)
        slot.busy()

    assert not peers.open("third").is_open
    assert peers.open("other", "10.0.0.2").is_open
    assert peers.dropped == []


def test_when_all_places_are_taken_the_longest_idle_of_all_goes() -> None:
    peers = Peers(total=3, each=2)
    peers.open("old", "10.0.0.2")
    peers.open("first")
    peers.open("second")

    assert peers.open("new", "10.0.0.3").is_open
    assert peers.dropped == ["old"]


def test_a_place_is_free_once_however_often_it_is_given_back() -> None:
    peers = Peers(total=2, each=2)
    slot = peers.open("first")
    slot.close()
    slot.close()
    slot.busy()
    slot.idle()

    assert peers.all.count == 0
    assert [peers.open(name).is_open for name in "ab"] == [True, True]
    assert peers.dropped == []


def test_the_addresses_of_one_ipv6_network_share_its_places() -> None:
    peers = Peers(total=10, each=2)
    for number in range(3):
        peers.open(str(number), f"2001:db8::{number}")
    peers.open("other", "2001:db8:0:1::1")

    assert peers.dropped == ["0"]


@pytest.mark.parametrize(("descriptors", "total"), [(1024, 716), (256, 179), (20_000, MOST), (1, 2)])
def test_all_places_are_fewer_than_the_descriptors(descriptors: int, total: int) -> None:
    assert Limits.of(descriptors).total == total
    assert Limits.of(descriptors).each == total // 2
    assert Limits.of(descriptors).is_tight is (descriptors < 2048)


def test_the_alarm_begins_at_four_fifths_and_ends_well_below() -> None:
    alarm = Alarm()

    changes = [alarm.update(Descriptors(count, 100)) for count in (79, 80, 99, 75, 69, 75, 80)]

    assert changes == [False, True, False, False, True, False, True]
    assert str(Descriptors(80, 100)) == "80 of 100 file descriptors are open"


# in a process --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cramped(short_dir: Path, one_peer: Peer) -> Iterator[Api]:
    """An api that may open few files and waits for nobody."""
    folder = short_dir / "cramped"
    folder.mkdir()
    api = Api(folder, one_peer, "--tls-cert", str(make_certificate(folder)), module="tests.fakes.cramped_api")
    yield api
    assert api.stop() == 0
    assert "Traceback" not in api.log.read_text()


def connect(api: Api, said: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this host, on which this was said."""
    client = socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE, source_address=(source, 0))
    with contextlib.suppress(
        ConnectionError
    ):  # it may have refused the first bytes: what it says is read next
        client.sendall(said)
    return client


def rest(client: socket.socket) -> bytes:
    """All that comes until the end. Raises: TimeoutError."""
    pieces = []
    try:
        while piece := client.recv(65_536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def test_more_slow_heads_than_descriptors_keep_nobody_out(cramped: Api) -> None:
    figures: dict[str, float] = {}
    deadline = time.monotonic() + PATIENCE
    while not figures.get(
        "http_connections_without_room_total"
    ):  # a busy machine may be too slow for a crowd
        assert time.monotonic() < deadline, figures
        with ExitStack() as stack:
            for number in range(2 * DESCRIPTORS):
                source = f"127.0.0.{1 + number % 4}"
                stack.enter_context(connect(cramped, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ", source))
            with connect(
                cramped, b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
            ) as honest:
                text = rest(honest).decode()
        found = re.findall(r"^streamfleet_(\w+) (\S+)$", text, re.M)
        figures = {name: float(value) for name, value in found}

    assert figures["http_connections"] <= Limits.of(DESCRIPTORS).total
    assert figures["open_descriptors"] < figures["max_descriptors"] == DESCRIPTORS


def test_answers_that_nobody_reads_keep_nobody_out(cramped: Api) -> None:
    """Each is larger than what the kernel takes, so its request goes on."""
    ask = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * MAX_UNANSWERED
    with ExitStack() as stack:
        for number in range(2 * DESCRIPTORS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.settimeout(PATIENCE)
            client.bind((f"127.0.0.{1 + number % 4}", 0))
            client.connect(("127.0.0.1", cramped.port))
            with contextlib.suppress(ConnectionError):
                client.sendall(ask)
                client.recv(1)
        with connect(cramped, ASK) as honest:
            assert b" 200 OK" in rest(honest)


def test_a_client_that_does_not_read_its_answer_is_left(cramped: Api) -> None:
    ask = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * MAX_UNANSWERED

    def count() -> float:
        found = re.search(r"^streamfleet_http_connections (\S+)$", cramped.http.get("/metrics").text, re.M)
        assert found
        return float(found[1])

    until(lambda: count() < 10)
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.connect(("127.0.0.1", cramped.port))
            client.sendall(ask)
        until(lambda: count() > 20)
        until(lambda: count() < 10)


GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
ELSEWHERE = HEAD.replace(b"127.0.0.1", b"evil.example")
LONG = b"content-length: 100000\r\n\r\n"
SLOW_CLIENTS = {  # what each says at once, and then again and again
    "silent": (b"", b""),
    "empty lines": (b"", b"\r\n"),
    "first byte of TLS": (b"\x16", b""),
    "handshake": (b"\x16\x03\x01", b"\x02"),
    "head": (GET, b"x: y\r\n"),
    "body": (HEAD + LONG, b" "),
    "chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "lines after a request": (GET + b"\r\n", b"\r\n"),
    "a next head": (GET + b"\r\n", b"GET "),
    "body that is refused at its head": (ELSEWHERE + LONG, b" " * 400),
}


def heard(client: socket.socket, dripping: bytes) -> bytes | None:
    """What came, after saying something where nothing does; None: the api has hung up."""
    try:
        return client.recv(4096) or None
    except ConnectionResetError:
        return None
    except TimeoutError:
        with contextlib.suppress(ConnectionError):  # the next look will tell
            client.sendall(dripping)
        return b""


def left(api: Api, begun: bytes, dripping: bytes) -> bytes:
    """What came until the api hung up on a slow client. Raises: AssertionError, when it does not."""
    deadline, came = time.monotonic() + PATIENCE, b""
    with connect(api, begun) as client:
        client.settimeout(SLOW / 10)
        while (piece := heard(client, dripping)) is not None:
            came += piece
            assert time.monotonic() < deadline, f"it is there still, {came!r} came"
    return came


def test_clients_that_are_slow_are_left(cramped: Api) -> None:
    with ThreadPoolExecutor(len(SLOW_CLIENTS)) as pool:
        found = dict(
            zip(SLOW_CLIENTS, pool.map(lambda said: left(cramped, *said), SLOW_CLIENTS.values()), strict=True)
        )

    statuses = {name: came[9:12] for name, came in found.items()}
    assert statuses["head"] == statuses["body"] == statuses["chunks"] == b"408"
    assert statuses["lines after a request"] == statuses["a next head"] == b"200"
    assert statuses["body that is refused at its head"] == b"401"


def slow_body(api: Api) -> bytes:
    """The answer to a body of which some comes within each limit of time, and all of it later."""
    pieces = 8
    with connect(api, HEAD + b"content-length: %d\r\n\r\n" % (pieces * 4096)) as client:
        with contextlib.suppress(ConnectionError):  # the answer says why it hangs up
            for _ in range(pieces):
                client.sendall(b" " * 4096)
                time.sleep(1.2 * SLOW / pieces)  # the pace of a client that is slow, and not too slow
        return client.recv(4096)


def test_a_body_that_goes_on_and_streams_and_websockets_outlive_the_limits_of_requests(
    cramped: Api, peer: Peer
) -> None:
    """A body may take longer as long as some of it comes within each limit of time."""
    with (
        connect(cramped, b"GET /v2/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") as client,
        websocket(cramped, "/v2/events") as connection,
    ):
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        for _ in range(5):  # until nothing stands still for as long as a piece may take
            answer = slow_body(cramped)
            if not answer.startswith(b"HTTP/1.1 408"):
                break
        assert answer.startswith(b"HTTP/1.1 422")

        peer.happen(1)

        # After a stall the first words may be that the broker was silent.
        assert any(b'"door"' in piece for piece in iter(lambda: client.recv(4096), b""))
        assert any('"door"' in message for message in connection)


def test_websockets_give_their_places_back(cramped: Api) -> None:
    for _ in range(Limits.of(DESCRIPTORS).each + 10):
        with websocket(cramped, "/v2/events"):
            pass

    def few_are_open() -> bool:
        found = re.search(r"^streamfleet_http_connections (\S+)$", cramped.http.get("/metrics").text, re.M)
        assert found
        return float(found[1]) < 10

    until(few_are_open)


def test_a_head_of_very_many_fields_is_refused(api: Api) -> None:
    with connect(api, b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a:\r\n" * 12_000) as client:
        answer = client.recv(4096)

    assert answer.startswith(b"HTTP/1.1 431")
    assert api.http.get("/healthz", headers={f"x-{number}": "x" for number in range(80)}).status_code == 200


def everything(client: socket.socket) -> bytes:
    """Whatever comes, until the connection is closed or reset."""
    told = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65_536):
            told += piece
    return told


def test_a_client_that_asks_without_waiting_for_answers_is_left(api: Api) -> None:
    """Thousands of requests fit into what is read at once: a few such clients held the api up for seconds."""
    ask = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with connect(
        api, ask * (MAX_UNANSWERED - 1) + ask.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    ) as client:
        some = everything(client)
    with connect(api, ask * 5000) as client:
        many = everything(client)

    assert some.count(b"HTTP/1.1 200") == MAX_UNANSWERED
    assert many.count(b"HTTP/1.1 200") <= MAX_UNANSWERED
    assert api.http.get("/healthz").status_code == 200


def test_a_body_of_very_many_pieces_is_refused(api: Api) -> None:
    """One of usual pieces may be as long as it likes, and a short one may come a byte at a time."""
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    with connect(api, head + b"1\r\n \r\n" * 20_000) as client:
        many = client.recv(4096)
    with connect(api, head + b"1\r\n \r\n" * 500 + b"0\r\n\r\n") as client:
        few = client.recv(4096)
    with connect(api, head + (b"40\r\n" + b" " * 64 + b"\r\n") * 5000 + b"0\r\n\r\n") as client:
        usual = client.recv(4096)

    assert many.startswith(b"HTTP/1.1 400")
    assert few.startswith(b"HTTP/1.1 422")
    assert usual.startswith(b"HTTP/1.1 422")
    assert "Traceback" not in api.log.read_text()
