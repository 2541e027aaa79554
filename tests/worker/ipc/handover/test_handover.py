"""The way from a camera to the publisher, with real sockets: in order, never waited for, nothing left."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfleet_core.protocol.data_plane import HEADER_SIZE, DataHeader, Kind
from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.ipc.handover.packet import (
    MAX_PACKET,
    BadPacket,
    Message,
    pack,
    pack_without_body,
    unpack,
)
from streamfleet_worker.ipc.handover.receiver import Receiver
from streamfleet_worker.ipc.handover.sender import Sender
from tests.fakes.patience import PATIENCE
from tests.fakes.process_harness import wait_for

TOPIC = b"v1/pred/pipeline-1/"


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "intake")


@pytest.fixture
def intake(path: str) -> Iterator[Receiver]:
    with contextlib.closing(Receiver(path)) as intake:
        yield intake


@pytest.fixture
def outlet(path: str) -> Iterator[Sender]:
    with contextlib.closing(Sender(path)) as outlet:
        yield outlet


def send(outlet: Sender, seq: int, *, source: int = 0, body: bytes = b"\x80", fenced: bool = False) -> bool:
    header = DataHeader(kind=Kind.PRED, gen=1, inc=1, seq=seq, source=source)
    return outlet.send(TOPIC, header, body, fenced=fenced)


def flushed(outlet: Sender) -> bool:
    """Let it try once more; whether nothing is kept any longer."""
    outlet.flush()
    return outlet.kept == 0


def seqs(messages: list[Message]) -> list[int]:
    return [DataHeader.unpack(message.header).seq for message in messages]


def fill(outlet: Sender) -> int:
    """Send until the kernel takes no more, and one is kept. How many."""
    count = 0
    while not outlet.kept:
        assert send(outlet, count)
        count += 1
    return count


def message(body: bytes = b"\x80") -> Message:
    return Message(False, TOPIC, DataHeader(kind=Kind.PRED, gen=1, inc=1, seq=0).pack(), body)


def connected(path: str) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(path)
    return link


def descriptors() -> list[str]:
    """What is open in this process."""
    gc.collect()  # what was dropped before does not go meanwhile
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of this listing
            found.append(f"{link.name} {link.readlink()}")
    return sorted(one for one in found if "/proc/" not in one)


# packets


def test_a_message_is_the_same_behind_its_packet() -> None:
    for fenced in (False, True):
        sent = message(b"body")._replace(fenced=fenced)

        assert unpack(b"".join(pack(sent))) == (sent, False)
        assert unpack(b"".join(pack_without_body(sent))) == (sent._replace(body=b""), True)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"H\x00",
        bytes(1000),
        b"X" + b"".join(pack(message()))[1:],
        b"H\x02" + b"".join(pack(message()))[2:],
        b"".join(pack(message()))[: 3 + len(TOPIC) + HEADER_SIZE - 1],
        b"".join(pack_without_body(message())) + b"body",
    ],
)
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(BadPacket, match="expected"):
        unpack(packet)


# from one to the other


def test_messages_come_as_they_were_sent_and_in_order(intake: Receiver, outlet: Sender) -> None:
    for seq in range(20):
        assert send(outlet, seq, body=bytes([seq]), fenced=seq % 2 == 1)

    came = intake.take(256)

    assert seqs(came) == list(range(20))
    assert [(one.fenced, one.topic, one.body) for one in came] == [
        (seq % 2 == 1, TOPIC, bytes([seq])) for seq in range(20)
    ]
    assert intake.take(256) == []


def test_it_wakes_who_polls_when_something_comes(intake: Receiver, outlet: Sender) -> None:
    poll = select.poll()
    poll.register(intake, select.POLLIN)
    assert poll.poll(0) == []

    send(outlet, 1)
    assert poll.poll(PATIENCE * 1000)
    assert seqs(intake.take(256)) == [1]

    assert poll.poll(0) == []


@pytest.mark.parametrize("size", [0, MAX_PACKET - 100, MAX_PACKET, MAX_DATA_BODY])
def test_a_body_of_any_size_that_may_be_comes_whole(intake: Receiver, outlet: Sender, size: int) -> None:
    body = os.urandom(size)
    before = descriptors()

    assert send(outlet, 1, body=body)
    assert send(outlet, 2)
    came = intake.take(256)

    assert [one.body for one in came] == [body, b"\x80"]
    assert len(descriptors()) == len(before) + 2  # the two ends of the link


def test_a_body_that_is_too_large_is_not_sent(intake: Receiver, outlet: Sender) -> None:
    assert not send(outlet, 1, body=bytes(MAX_DATA_BODY + 1))
    assert send(outlet, 2)

    assert outlet.dropped == 1
    assert seqs(intake.take(256)) == [2]


def test_of_a_body_that_is_far_too_large_little_is_read(intake: Receiver, path: str) -> None:
    memory = os.memfd_create("body")
    os.truncate(memory, 1 << 40)

    with connected(path) as link:
        socket.send_fds(link, pack_without_body(message()), [memory])
        os.close(memory)
        (came,) = intake.take(256)

    assert len(came.body) == MAX_DATA_BODY + 1


def test_with_little_room_only_a_few_lie_there(intake: Receiver, path: str) -> None:
    outlet = Sender(path, waiting=4, room=2048)

    sent = [send(outlet, seq, body=bytes(50_000)) for seq in range(100)]

    assert sent == sorted(sent, reverse=True)
    assert 5 <= sum(sent) <= 20
    assert outlet.dropped == 100 - sum(sent)
    outlet.close()


# a publisher that is not there, or slow


def test_what_was_kept_comes_first_when_there_is_a_publisher(path: str, outlet: Sender) -> None:
    assert all(send(outlet, seq) for seq in range(10))

    with contextlib.closing(Receiver(path)) as intake:
        wait_for("the outlet asks again", lambda: flushed(outlet))
        send(outlet, 10)

        assert seqs(intake.take(256)) == list(range(11))


def test_more_than_may_be_kept_is_dropped_and_counted_and_the_oldest_stay(path: str, outlet: Sender) -> None:
    sent = [send(outlet, seq) for seq in range(70)]

    assert sent == [True] * 64 + [False] * 6
    assert outlet.dropped == 6
    with contextlib.closing(Receiver(path)) as intake:
        wait_for("the outlet asks again", lambda: flushed(outlet))
        assert seqs(intake.take(256)) == list(range(64))


def test_what_a_slow_publisher_does_not_take_is_kept_and_comes_in_order(
    intake: Receiver, outlet: Sender
) -> None:
    count = fill(outlet)
    assert count > 50
    came = intake.take(10)

    send(outlet, count)
    outlet.flush()
    while taken := intake.take(10):
        came += taken
        outlet.flush()

    assert seqs(came) == list(range(count + 1))
    assert outlet.dropped == 0


def test_who_may_keep_nothing_drops_at_once(path: str) -> None:
    outlet = Sender(path, waiting=0)

    assert not send(outlet, 1)

    assert (outlet.dropped, outlet.kept) == (1, 0)
    with contextlib.closing(Receiver(path)) as intake:
        wait_for("the outlet asks again", lambda: send(outlet, 2))
        assert seqs(intake.take(256)) == [2]
    outlet.close()


def test_another_publisher_gets_what_the_last_one_cannot_any_more(path: str, outlet: Sender) -> None:
    first = Receiver(path)
    send(outlet, 1)
    assert seqs(first.take(256)) == [1]
    first.close()

    assert all(send(outlet, seq) for seq in range(2, 12))
    with contextlib.closing(Receiver(path)) as second:
        wait_for("the outlet asks again", lambda: flushed(outlet))
        send(outlet, 12)

        assert seqs(second.take(256)) == list(range(2, 13))


def test_a_publisher_that_died_before_it_let_anybody_in_is_noticed(path: str, outlet: Sender) -> None:
    Receiver(path).close()
    first = Receiver(path)
    assert send(outlet, 1)
    first.close()

    with contextlib.closing(Receiver(path)) as second:
        assert send(outlet, 2)
        wait_for("the outlet asks again", lambda: flushed(outlet))

        assert seqs(second.take(256)) == [2]


def test_the_end_waits_a_moment_for_a_publisher_that_is_slow(intake: Receiver, path: str) -> None:
    outlet = Sender(path)
    count = fill(outlet)
    closing = threading.Thread(target=outlet.close, args=(PATIENCE,))
    closing.start()

    came: list[Message] = []

    def came_all() -> bool:
        came.extend(intake.take(256))
        return len(came) == count

    wait_for("all of them", came_all)
    closing.join()

    assert seqs(came) == list(range(count))
    assert outlet.dropped == 0


def test_the_end_waits_for_nobody_without_patience(path: str) -> None:
    outlet = Sender(path)
    send(outlet, 1)

    outlet.close()

    assert outlet.dropped == 1


# several senders


def test_senders_take_turns(intake: Receiver, path: str) -> None:
    with contextlib.ExitStack() as stack:
        outlets = [stack.enter_context(contextlib.closing(Sender(path))) for _ in range(3)]
        for source, outlet in enumerate(outlets):
            send(outlet, 0, source=source)
        assert len(intake.take(256)) == 3
        for seq in range(20):
            send(outlets[0], seq)
        for seq in range(4):
            send(outlets[1], seq, source=1)
            send(outlets[2], seq, source=2)

        taken = [intake.take(2) for _ in range(6)]

    assert [len(few) for few in taken] == [2] * 6
    sources = [DataHeader.unpack(message.header).source for few in taken for message in few]
    assert [sources.count(source) for source in range(3)] == [4, 4, 4]


def test_no_more_is_taken_than_was_asked_for(intake: Receiver, outlet: Sender) -> None:
    for seq in range(10):
        send(outlet, seq)

    assert seqs(intake.take(3)) == [0, 1, 2]
    assert seqs(intake.take(100)) == list(range(3, 10))


def test_what_a_killed_sender_had_sent_is_taken(intake: Receiver, path: str) -> None:
    before = descriptors()
    program = f"""
import os, signal
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_worker.ipc.handover.sender import Sender
outlet = Sender({path!r})
for seq in range(6):
    body = bytes({MAX_DATA_BODY} if seq == 5 else 1)
    outlet.send({TOPIC!r}, DataHeader(kind=Kind.PRED, gen=1, inc=1, seq=seq), body, fenced=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL

    came = intake.take(256)

    assert seqs(came) == list(range(6))
    assert len(came[5].body) == MAX_DATA_BODY
    assert descriptors() == before
    assert intake.disconnected == 0


@pytest.mark.parametrize(
    ("pieces", "along"),
    [
        ([b"garbage"], 0),
        ([b"garbage"], 3),
        ([bytes(MAX_PACKET + 1)], 0),
        (pack(message()), 1),
        (pack_without_body(message()), 0),
        (pack_without_body(message()), 2),
    ],
)
def test_who_sends_something_else_is_cut_off_and_nobody_else_notices(
    intake: Receiver, path: str, outlet: Sender, pieces: list[bytes], along: int
) -> None:
    send(outlet, 1)
    assert seqs(intake.take(256)) == [1]
    before = descriptors()

    with connected(path) as stranger, Path(os.devnull).open("rb") as file:
        socket.send_fds(stranger, pieces, [file.fileno()] * along)
        assert intake.take(256) == []
        assert stranger.recv(1) == b""
    send(outlet, 2)

    assert seqs(intake.take(256)) == [2]
    assert intake.disconnected == 1
    assert descriptors() == before


def test_a_body_that_cannot_be_read_cuts_its_sender_off(intake: Receiver, path: str) -> None:
    before = descriptors()
    with connected(path) as stranger:
        socket.send_fds(stranger, pack_without_body(message()), [stranger.fileno()])
        assert intake.take(256) == []

        assert stranger.recv(1) == b""
    assert intake.disconnected == 1
    assert descriptors() == before


def test_nothing_stays_open_of_those_who_have_gone(path: str) -> None:
    before = descriptors()
    intake = Receiver(path)
    for seq in range(10):
        outlet = Sender(path)
        send(outlet, seq, body=bytes(MAX_DATA_BODY))
        outlet.close()

    assert len(intake.take(256)) == 10
    intake.close()

    assert descriptors() == before


# the path


def test_a_socket_that_was_left_behind_is_replaced_and_is_for_its_user_only(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(path)

    with contextlib.closing(Receiver(path)):
        assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_path_that_is_too_long_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match="at most 107 bytes"):
        Receiver(str(folder / ("x" * 108)))
