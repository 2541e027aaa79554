"""The thread that keeps and replays, as the publishing thread uses it."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from streamfleet_core.peers.replay import Key, Loss, ReplayAnswer, ReplayRequest, Span
from streamfleet_core.protocol.data_plane import DataHeader, Flag, Kind, pipeline_topic
from streamfleet_core.protocol.status import KeepingStat
from streamfleet_core.protocol.values import Keep
from streamfleet_worker.ipc.child_messages import KeepConfig
from streamfleet_worker.publisher.replay.keeper import MAX_REQUESTS, Keeper, Replayed
from streamfleet_worker.publisher.replay.pacing import PART
from tests.fakes.patience import PATIENCE

TOPIC = pipeline_topic(Kind.PRED, "door")


@contextmanager
def keeper(folder: Path, *, memory: int = 10**7, disk: int = 0) -> Iterator[Keeper]:
    config = KeepConfig(folder=str(folder / "sent"), memory_size=memory, disk_size=disk, age=3600.0)
    with closing(Keeper(config, "edge-1")) as made:
        yield made


def publish(kept: Keeper, *seqs: int) -> None:
    for seq in seqs:
        header = DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=seq, source=3)
        kept.keep(TOPIC, header.pack(), b"%d" % seq)


def answer(
    kept: Keeper, start: Key, token: str = "00000001", count: int = 0
) -> tuple[list[Replayed], ReplayAnswer]:
    """The predictions and the statement that a request gets."""
    request = ReplayRequest("door", start, token, count)
    found: list[Replayed] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not found:  # it may have been ignored
            kept.handle(b"\1" + request.topic)
        select.select([kept], [], [], 1.0)
        found += [each for each in kept.take() if each[0] == request.topic]
        if found and DataHeader.unpack(found[-1][1]).flags & Flag.ANSWER:
            assert DataHeader.unpack(found[0][1]).flags & Flag.HOLDERS
            return found[1:-1], ReplayAnswer.decode(found[-1][2])
    raise AssertionError("an answer")


def test_what_was_published_a_moment_ago_is_replayed(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        publish(kept, 4, 5, 6, 8)
        sent, said = answer(kept, (1, 0, 5))

    assert [(DataHeader.unpack(header).seq, body) for _, header, body in sent] == [
        (5, b"5"),
        (6, b"6"),
        (8, b"8"),
    ]
    assert {(DataHeader.unpack(each[1]).kind, DataHeader.unpack(each[1]).source) for each in sent} == {
        (Kind.REPLAY, 3)
    }
    assert (said.device, said.known_from, said.until, said.done) == ("edge-1", (1, 0, 4), (1, 0, 8), True)
    assert said.sent == (Span(1, 0, 5, 6), Span(1, 0, 8, 8))
    assert said.lost == (Loss(Span(1, 0, 7, 7), "unwritten"),)


def test_what_the_fence_stopped_is_counted(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        publish(kept, 0)
        kept.lose(TOPIC, DataHeader(kind=Kind.PRED, gen=1, inc=0, seq=2).pack())
        kept.lose(b"v1/junk", b"junk")
        sent, said = answer(kept, (1, 0, 1))

    assert (len(sent), said.until, said.lost) == (0, (1, 0, 2), (Loss(Span(1, 0, 1, 2), "unwritten"),))


def test_a_request_gets_one_part_and_the_next_one_the_rest(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        publish(kept, *range(PART + 10))
        first, said = answer(kept, (1, 0, 0))
        rest, last = answer(kept, (1, 0, PART), "00000002")

    assert (len(first), said.done, said.until) == (PART, False, (1, 0, PART - 1))
    assert (len(rest), last.done) == (10, True)


def test_a_request_gets_no_more_than_it_asks_for(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        publish(kept, *range(20))
        sent, said = answer(kept, (1, 0, 4), count=2)

    assert [each[2] for each in sent] == [b"4", b"5"]
    assert (said.sent, said.until, said.done) == ((Span(1, 0, 4, 5),), (1, 0, 5), False)


def test_what_is_on_disk_is_replayed_by_the_next_process(tmp_path: Path) -> None:
    with keeper(tmp_path, disk=10**6) as kept:
        publish(kept, *range(20))
    with keeper(tmp_path, disk=10**6) as kept:
        publish(kept, 21)
        sent, said = answer(kept, (1, 0, 0))

    assert [each[2] for each in sent] == [b"%d" % seq for seq in [*range(20), 21]]
    assert said.lost == (Loss(Span(1, 0, 20, 20), "unwritten"),)


def test_without_room_it_says_that_nothing_is_kept(tmp_path: Path) -> None:
    with keeper(tmp_path, memory=0) as kept:
        publish(kept, 0, 1)
        sent, said = answer(kept, (1, 0, 0))

    assert (sent, said.lost) == ([], (Loss(Span(1, 0, 0, 1), "size"),))


@pytest.mark.parametrize("disk", [0, 10**6])
def test_nothing_is_kept_of_a_pipeline_of_which_nothing_may_be(tmp_path: Path, disk: int) -> None:
    with keeper(tmp_path, disk=disk) as kept:
        kept.limit({"door": Keep(age=0)})
        publish(kept, 0, 1)
        sent, said = answer(kept, (1, 0, 0))
        kept.limit({"door": None})
        publish(kept, 2)
        again, _ = answer(kept, (1, 0, 0), "00000002")

    assert (sent, said.lost) == ([], (Loss(Span(1, 0, 0, 1), "age"),))
    assert [each[2] for each in again] == [b"2"]


def test_what_is_no_longer_to_be_on_disk_is_removed(tmp_path: Path) -> None:
    with keeper(tmp_path, disk=10**6) as kept:
        publish(kept, 0)
    assert list((tmp_path / "sent").iterdir())
    with keeper(tmp_path) as kept:
        publish(kept, 1)
        assert answer(kept, (1, 0, 0))[1].known_from == (1, 0, 1)

    assert not list((tmp_path / "sent").iterdir())


def test_it_says_where_it_keeps_them_and_why_not_on_disk(tmp_path: Path) -> None:
    def keeping(kept: Keeper) -> KeepingStat | None:
        publish(kept, 0)
        answer(kept, (1, 0, 0))
        return kept.keeping

    with keeper(tmp_path) as kept:
        assert keeping(kept) == KeepingStat("memory")
    with keeper(tmp_path, disk=10**6) as kept:
        assert keeping(kept) == KeepingStat("disk")
    (tmp_path / "file").write_text("")
    with keeper(tmp_path / "file", disk=10**6) as kept:
        assert keeping(kept) == KeepingStat("memory", "not on disk: Not a directory")


def test_requests_are_bounded_and_may_be_cancelled(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        publish(kept, 0)
        for number in range(3 * MAX_REQUESTS):
            kept.handle(b"\1" + ReplayRequest("nowhere", (1, 0, 0), f"{number:08x}").topic)
        for junk in (b"", b"\1", b"\1v1/replay/", b"\1v1/replay/door@x-y-z/", b"\1\xff", b"\0v1/pred/"):
            kept.handle(junk)
        cancelled = ReplayRequest("door", (1, 0, 0), "ffffffff").topic
        kept.handle(b"\1" + cancelled)
        kept.handle(b"\0" + cancelled)

        assert answer(kept, (1, 0, 0), "00000003")[1].done
