"""Both stores keep what fits, say what they dropped, and read what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfleet_core.peers.replay import Key, Loss, Span
from streamfleet_core.protocol.data_plane import DataHeader, Kind
from streamfleet_core.protocol.values import Keep
from streamfleet_worker.publisher.replay import spool as module
from streamfleet_worker.publisher.replay.spool import Spool
from streamfleet_worker.publisher.replay.store import Entry, MemoryStore, Store

HOUR = 3600.0
MEMORY: Callable[[Path, int], Store] = lambda _, size: MemoryStore(size, HOUR)  # noqa: E731
DISK: Callable[[Path, int], Store] = lambda folder, size: Spool(folder, size, HOUR, 0.0)  # noqa: E731
BOTH = pytest.mark.parametrize("make", [MEMORY, DISK], ids=["memory", "disk"])


def entry(seq: int, *, pipeline: str = "door", gen: int = 1, at: float = 0.0, size: int = 100) -> Entry:
    header = DataHeader(kind=Kind.PRED, gen=gen, inc=0, seq=seq)
    return Entry(pipeline, header.key, header.pack(), bytes([seq % 256]) * size, at)


def keys(store: Store, pipeline: str = "door", start: Key = (0, 0, 0)) -> list[int]:
    """All that can be read, part by part."""
    found: list[int] = []
    while part := store.read(pipeline, start, 7, 10**6):
        assert all(each.body == bytes([each.key[2] % 256]) * len(each.body) for each in part)
        found += [each.key[2] for each in part]
        start = (*part[-1].key[:2], part[-1].key[2] + 1)
    return found


@BOTH
def test_what_is_kept_can_be_read_in_order_by_pipeline(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(tmp_path, 10**6)
    for seq in range(50):
        store.append([entry(seq), entry(seq, pipeline="gate")], 0.0)

    assert keys(store) == keys(store, "gate") == list(range(50))
    assert keys(store, start=(1, 0, 47)) == [47, 48, 49]
    assert keys(store, "nowhere") == []
    assert [each.key[2] for each in store.read("door", (1, 0, 3), 10, 250)] == [3, 4, 5]


@BOTH
def test_the_oldest_go_when_there_is_no_room(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(tmp_path, 20_000)
    for seq in range(500):
        store.append([entry(seq)], 0.0)

    left = keys(store)
    history = store.history("door")
    assert history is not None
    assert left == list(range(left[0], 500))
    assert 20 < len(left) < 200
    assert [*history.lost] == [Loss(Span(1, 0, 0, left[0] - 1), "size")]


@BOTH
def test_the_old_go_in_time(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(tmp_path, 10**6)
    for at in range(0, 8000, 100):
        store.append([entry(at // 100, at=float(at))], float(at))
    history = store.history("door")
    assert history is not None

    left = keys(store)
    assert left[-1] == 79
    assert 7900 - HOUR - HOUR / 4 <= left[0] * 100 <= 7900 - HOUR + 100
    assert [each.cause for each in history.lost] == ["age"]
    store.append([], 8000.0 + 2 * HOUR)
    assert keys(store) == []


def test_what_is_on_disk_outlives_a_killed_process(tmp_path: Path) -> None:
    killed = Spool(tmp_path, 40_000, HOUR, 0.0)
    for seq in range(300):
        killed.append([entry(seq)], 0.0)
    left = keys(killed)
    files = sorted(path.name for path in tmp_path.iterdir())

    store = Spool(tmp_path, 40_000, HOUR, 0.0)

    assert files == sorted(path.name for path in tmp_path.iterdir())
    assert keys(store) == left
    store.append([entry(305)], 0.0)
    history = store.history("door")
    assert history is not None
    assert keys(store)[-2:] == [299, 305]
    assert history.known_from == (1, 0, left[0])
    assert [*history.lost] == [Loss(Span(1, 0, 300, 304), "unwritten")] or history.lost[-1].span.last == 304


def cuts(store: Store) -> tuple[Key, ...]:
    history = store.history("door")
    assert history is not None
    return history.cuts_since((0, 0, 0), (9, 9, 9))


def test_a_run_that_was_cut_off_is_remembered_unless_it_continues(tmp_path: Path) -> None:
    Spool(tmp_path, 10**6, HOUR, 0.0).append([entry(0), entry(1)], 0.0)  # and it is killed
    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    assert cuts(store) == ((1, 0, 1),)
    store.append([entry(3)], 0.0)
    assert cuts(store) == ()
    store.close()

    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    assert cuts(store) == ()
    store = Spool(tmp_path, 10**6, HOUR, 0.0)  # the last one did not close it
    store.append([entry(0, gen=2)], 0.0)
    store.close()
    assert cuts(Spool(tmp_path, 10**6, HOUR, 0.0)) == ((1, 0, 3),)


@pytest.mark.parametrize("junk", [b"", b"\x92", b"\x92\xc3\x81\xa4door\x91\x93\xff\xff\xff"])
def test_a_damaged_file_of_cuts_counts_as_a_death(tmp_path: Path, junk: bytes) -> None:
    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    store.append([entry(0)], 0.0)
    store.close()
    (tmp_path / module.CUTS).write_bytes(junk)

    assert cuts(Spool(tmp_path, 10**6, HOUR, 0.0)) == ((1, 0, 0),)


@BOTH
def test_what_was_made_and_is_not_kept_is_counted_at_the_end_of_a_run_too(
    make: Callable[..., Store], tmp_path: Path
) -> None:
    store = make(tmp_path, 10**6)
    store.append([entry(0)], 0.0)
    store.skip({"door": (1, 0, 4)})
    store.append([entry(5), entry(0, gen=2)], 0.0)

    history = store.history("door")
    assert history is not None
    assert [*history.kept] == [Span(1, 0, 0, 0), Span(1, 0, 5, 5), Span(2, 0, 0, 0)]
    assert [*history.lost] == [Loss(Span(1, 0, 1, 4), "unwritten")]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.binary(max_size=40), st.booleans())
def test_a_damaged_or_truncated_file_costs_no_more_than_its_rest(
    tmp_path_factory: pytest.TempPathFactory, offset: int, junk: bytes, truncated: bool
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    killed = Spool(folder, 10**6, HOUR, 0.0)
    for seq in range(20):
        killed.append([entry(seq)], 0.0)
    (path,) = folder.glob("*.log")
    content = path.read_bytes()
    rest = b"" if truncated else content[offset + len(junk) :]
    path.write_bytes(content[:offset] + junk + rest)

    store = Spool(folder, 10**6, HOUR, 0.0)
    left = keys(store)
    assert left == list(range(len(left)))
    assert len(left) >= min(20, offset // (len(content) // 20)) or content[:offset] + junk + rest == content
    store.append([entry(50)], 0.0)
    assert keys(store) == [*left, 50]


def test_a_full_disk_is_told_once_and_over_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = Spool(tmp_path, 8000, HOUR, 0.0)
    store.append([entry(0, size=1200)], 0.0)  # the segment is complete
    monkeypatch.setattr(module, "SPARE", 2**62)
    for seq in range(1, 5):
        store.append([entry(seq)], 0.0)

    assert "MiB are free" in store.trouble
    monkeypatch.setattr(module, "SPARE", 0)
    store.append([entry(5)], 0.0)

    assert (store.trouble, keys(store)) == ("", [0, 5])
    history = store.history("door")
    assert history is not None
    assert [*history.lost] == [Loss(Span(1, 0, 1, 4), "unwritten")]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file"):
        Spool(tmp_path / "file", 10**6, HOUR, 0.0)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    names = ("notes.log", "1.txt", "²³.log")
    for name in names:
        (tmp_path / name).write_text("mine")
    Spool(tmp_path, 10_000, 1.0, 0.0).append([], 10.0)

    assert [(tmp_path / name).read_text() for name in names] == ["mine"] * 3


def test_a_part_looks_through_a_bounded_piece_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 20_000)
    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    for seq in range(4000):
        one = entry(seq, pipeline="hall") if seq % 100 else entry(seq)
        store.append([one], 0.0)

    assert len(store.read("door", (1, 0, 0), 100, 10**6)) < 20
    assert keys(store) == list(range(0, 4000, 100))
    store.append([entry(4000)], 0.0)
    assert keys(store, start=(1, 0, 3901)) == [4000]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_place_in_a_segment_is_found_without_reading_what_is_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    monkeypatch.setattr(module, "MARK", 1000)
    store = Spool(tmp_path, 10**8, HOUR, 0.0)
    for seq in range(0, 3000, 10):
        some = range(seq, seq + 10)
        store.append([entry(each, pipeline=name) for each in some for name in ("door", "gate")], 0.0)
    if restarted:
        store.close()
        store = Spool(tmp_path, 10**8, HOUR, 0.0)
        assert keys(store) == list(range(3000))  # the first look goes through all of it
    unpacked: list[Entry] = []
    unpack = module._unpack

    def counted(content: bytes) -> Entry:
        unpacked.append(unpack(content))
        return unpacked[-1]

    monkeypatch.setattr(module, "_unpack", counted)

    for start in (2900, 17, 1500, 2999):
        assert [each.key[2] for each in store.read("door", (1, 0, start), 1, 10**6)] == [start]

    assert len(unpacked) < 4 * 12


def test_damage_is_told_once_however_often_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    store.append([entry(seq) for seq in range(10)], 0.0)
    (segment,) = tmp_path.glob("*.log")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 255
    segment.write_bytes(content)

    for _ in range(5):
        assert len(store.read("door", (1, 0, 0), 100, 10**6)) < 10

    assert caplog.text.count("damaged at byte") == 1


# limits of single pipelines -------------------------------------------------------------------------------


@BOTH
def test_a_pipeline_may_be_kept_for_longer_or_shorter_than_others(
    make: Callable[..., Store], tmp_path: Path
) -> None:
    store = make(tmp_path, 10**6)
    store.keep({"long": Keep(age=10 * HOUR), "short": Keep(age=60), "door": None})
    for minute in range(90):
        now = 60.0 * minute
        store.append([entry(minute, pipeline=name, at=now) for name in ("door", "long", "short")], now)
    store.append([], 90 * 60.0)

    assert keys(store, "long") == list(range(90))
    assert 59 <= len(keys(store)) <= 69, "an hour, and a segment"
    assert len(keys(store, "short")) <= 2
    for name in ("door", "short"):
        history = store.history(name)
        assert history is not None
        assert [loss.cause for loss in history.lost] == ["age"]


@BOTH
def test_a_pipeline_may_be_kept_up_to_a_size(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(tmp_path, 10**6)
    store.keep({"door": Keep(size=20_000)})
    for seq in range(1000):
        store.append([entry(seq), entry(seq, pipeline="gate")], 0.0)

    assert 0 < len(keys(store)) * 100 <= 20_000
    assert len(keys(store, "gate")) == 1000
    history = store.history("door")
    assert history is not None
    assert [loss.cause for loss in history.lost] == ["size"]


@BOTH
@pytest.mark.parametrize(("keep", "cause"), [(Keep(age=0), "age"), (Keep(size=0), "size")])
def test_of_a_pipeline_nothing_may_be_kept(
    make: Callable[..., Store], tmp_path: Path, keep: Keep, cause: str
) -> None:
    store = make(tmp_path, 10**6)
    store.append([entry(0)], 0.0)
    store.keep({"door": keep})
    for seq in range(1, 4):
        store.append([entry(seq), entry(seq, pipeline="gate")], 1.0)

    assert (keys(store), keys(store, "gate")) == ([], [1, 2, 3])
    history = store.history("door")
    assert history is not None
    assert history.lost[-1] == Loss(Span(1, 0, history.lost[-1].span.first, 3), cause)  # type: ignore[arg-type]
    assert not any(b"door" in path.read_bytes()[500:] for path in tmp_path.glob("*.log"))


@BOTH
def test_the_limit_of_the_device_holds_for_all_of_them(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(tmp_path, 100_000)
    names = [f"p{number}" for number in range(20)]
    store.keep({name: Keep(age=10 * HOUR, size=10**9) for name in names})
    for seq in range(200):
        store.append([entry(seq, pipeline=name, at=float(seq)) for name in names], float(seq))

    left = sum(len(keys(store, name)) for name in names)
    assert 0 < left * 100 <= 100_000
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= 110_000
    assert all(keys(store, name)[-1:] in ([], [199]) for name in names), "the oldest went"


def test_limits_of_pipelines_outlive_the_process_and_their_move_to_another_device(tmp_path: Path) -> None:
    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    store.keep({"long": Keep(age=10 * HOUR), "door": None})
    for seq in range(10):
        store.append([entry(seq), entry(seq, pipeline="long")], 60.0 * seq)
    store.keep({"door": None})
    store.close()

    for _ in range(2):
        store = Spool(tmp_path, 10**6, HOUR, 600.0)
        store.append([entry(10)], 600.0)
        store.append([], 2 * HOUR)

        assert (keys(store), keys(store, "long")) == ([], list(range(10)))
    store.keep({"long": None})
    store.append([], 2 * HOUR)
    assert keys(store, "long") == []


def test_limits_that_cannot_be_read_are_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "limits").write_bytes(b"junk")

    store = Spool(tmp_path, 10**6, HOUR, 0.0)
    store.append([entry(0)], 0.0)

    assert keys(store) == [0]


@BOTH
def test_a_pipeline_that_gets_limits_is_still_read_in_order(
    make: Callable[..., Store], tmp_path: Path
) -> None:
    store = make(tmp_path, 10**6)
    for seq in range(30):
        store.keep({"door": None if seq // 10 == 1 else Keep(age=2 * HOUR)})
        store.append([entry(seq), entry(seq, pipeline="gate")], float(seq))

    assert keys(store) == list(range(30))
    assert keys(store, start=(1, 0, 15)) == list(range(15, 30))
