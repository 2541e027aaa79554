"""What every store promises to the broker, asked of SQLite and of PostgreSQL alike."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from streamfleet_broker.errors import Fenced, StoreDown
from streamfleet_broker.fleet.records import (
    DeviceRecord,
    FloorRecord,
    KeyRecord,
    ModelRecord,
    PipelineRecord,
    Record,
    SubscriberRecord,
    TokenRecord,
    Write,
)
from streamfleet_broker.storage.store import Store
from streamfleet_core.protocol.values import PipelineSpec, SourceSpec, UdpSink
from tests.fakes.patience import PATIENCE
from tests.fakes.ports_and_folders import ROOT, short_folder
from tests.fakes.postgresql import Cluster, running_cluster
from tests.fakes.stores import Engine, PostgresqlEngine, SqliteEngine

CONTENDERS = 5
ROUNDS = 20

MODEL = ModelRecord("parts/1", "ab" * 32)
SPEC = PipelineSpec(
    model=MODEL.ref,
    sources=(SourceSpec("rtsp://10.0.0.9/door", properties={"fps": 10.0}),),
    sinks=(UdpSink("127.0.0.1", 12000),),
    max_fps=15.0,
    confidence=0.3,
)
GATE = PipelineRecord(
    pipeline_id="gate",
    generation=1,
    run_generation=1,
    desired_status="run",
    spec=SPEC,
    requested=None,
    device=None,
    created=2,
)
ROWS: dict[tuple[str, str], Record] = {
    ("device", "cam-7"): DeviceRecord(
        device="cam-7", public_key="k" * 40, short_id=3, labels={"site": "hall-1"}
    ),
    ("floor", "generation"): FloorRecord(17),
    ("key", "again"): KeyRecord("again", "digest", "gate", 1.5e9),
    ("model", "parts/1"): MODEL,
    ("pipeline", "door"): PipelineRecord(
        pipeline_id="door",
        generation=2**40,
        run_generation=3,
        desired_status="pause",
        spec=SPEC,
        requested="cam-7",
        device="cam-7",
        created=1,
        changed_by=bytes(range(16)),
    ),
    ("pipeline", "gate"): GATE,
    ("pipeline", "wide"): PipelineRecord(
        pipeline_id="wide",
        generation=9,
        run_generation=9,
        desired_status="run",
        spec=replace(SPEC, sources=(SourceSpec("rtsp://10.0.0.9/door"), SourceSpec(0, max_fps=5.0))),
        requested=None,
        device="cam-8",
        created=3,
        selector={"site": "hall-1"},
        labels={"line": "2"},
        version=4,
        created_at=1.5e9,
        leaving="cam-7",
    ),
    ("subscriber", "wall"): SubscriberRecord("wall", "w" * 40),
    ("token", "t" * 40): TokenRecord("t" * 40, "cam-8", 1.5e9),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "postgresql":
        found: Cluster = request.getfixturevalue("cluster")
        yield PostgresqlEngine(found.url(found.new_database()))
    else:
        with short_folder() as folder:
            yield SqliteEngine(folder)


def put(kind: str, key: str, record: Record) -> Write:
    return Write(kind, key, None, record)


def stored(engine: Engine) -> tuple[Record, ...]:
    """All rows, as the next leader reads them."""
    store = engine.lead()
    store.close()
    return store.records


def test_every_row_is_read_as_it_was_written(engine: Engine) -> None:
    store = engine.lead()
    assert store.records == ()
    store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
    store.close()

    assert stored(engine) == tuple(ROWS.values())


def test_a_row_is_replaced_and_removed(engine: Engine) -> None:
    store = engine.lead()
    store.commit(put(kind, key, record) for (kind, key), record in ROWS.items())
    later = replace(GATE, generation=2)
    store.commit([Write("pipeline", "gate", GATE, later), Write("model", MODEL.id, MODEL, None)])
    store.close()

    expected = {**ROWS, ("pipeline", "gate"): later}
    del expected["model", MODEL.id]
    assert stored(engine) == tuple(expected.values())


def test_the_last_of_several_writes_of_a_row_counts(engine: Engine) -> None:
    store = engine.lead()
    store.commit([put("floor", "generation", FloorRecord(number)) for number in (1, 2, 3)])
    store.commit([put("model", MODEL.id, MODEL), Write("model", MODEL.id, MODEL, None)])
    store.close()

    assert stored(engine) == (FloorRecord(3),)


def test_an_empty_commit_changes_nothing(engine: Engine) -> None:
    store = engine.lead()
    store.commit([])
    store.commit([put("model", MODEL.id, MODEL)])
    store.close()

    assert stored(engine) == (MODEL,)


def test_each_leader_has_a_higher_epoch_of_one_cluster(engine: Engine) -> None:
    seen = []
    for _ in range(3):
        store = engine.lead()
        seen.append((store.epoch, store.cluster))
        store.close()

    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert len({cluster for _, cluster in seen}) == 1


def test_an_epoch_that_was_raised_is_below_that_of_the_next_leader(engine: Engine) -> None:
    store = engine.lead()
    store.raise_epoch(8)
    store.renew()
    store.commit([put("model", MODEL.id, MODEL)])
    assert store.epoch == 8
    store.close()

    store = engine.lead()
    assert (store.epoch, store.records) == (9, (MODEL,))
    store.close()


def test_a_commit_is_whole_or_not_at_all(engine: Engine) -> None:
    store = engine.lead()
    broken = Write("pipeline", "\ud800", None, GATE)

    with pytest.raises(UnicodeEncodeError):
        store.commit([put("model", MODEL.id, MODEL), broken])
    store.commit([put("floor", "generation", FloorRecord(1))])
    store.close()

    assert stored(engine) == (FloorRecord(1),)


@pytest.mark.parametrize("text", ["Tür 3", "дверь", "門🚪", "e\u0301", "a\u200bb", "' \" \\ % $1 {} ;--"])
def test_any_character_is_kept(engine: Engine, text: str) -> None:
    row = KeyRecord(text, text, "gate", 1.5e9)
    store = engine.lead()
    store.commit([put("key", text, row)])
    store.close()

    assert stored(engine) == (row,)


def test_rows_of_64_kilobytes_are_kept(engine: Engine) -> None:
    large = replace(SPEC, sources=(SourceSpec("rtsp://" + "x" * 4_000),) * 16)
    rows = [replace(GATE, pipeline_id=f"p{number:02}", spec=large) for number in range(16)]
    store = engine.lead()
    store.commit(put("pipeline", row.pipeline_id, row) for row in rows)
    store.close()

    assert stored(engine) == tuple(rows)


def test_a_store_that_is_blocked_refuses_writes_and_takes_them_again(engine: Engine) -> None:
    store = engine.lead()
    with engine.blocked(), pytest.raises(StoreDown, match="cannot write"):
        store.commit([put("floor", "generation", FloorRecord(1))])

    store.commit([put("model", MODEL.id, MODEL)])
    store.close()

    assert stored(engine) == (MODEL,)


def test_of_five_contenders_one_leads(engine: Engine) -> None:
    engine.lead().close()
    for number in range(ROUNDS):
        barrier, found = threading.Barrier(CONTENDERS), list[Store | None]()

        def contend(barrier: threading.Barrier = barrier, found: list[Store | None] = found) -> None:
            found.append(engine.contend(barrier.wait))

        threads = [threading.Thread(target=contend) for _ in range(CONTENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        [leader] = [each for each in found if each is not None]
        assert len(found) == CONTENDERS
        assert leader.epoch == number + 2
        leader.close()


def test_of_two_brokers_that_want_to_lead_one_writes(engine: Engine) -> None:
    first = engine.lead()
    first.commit([put("floor", "generation", FloorRecord(1))])

    second = engine.contend()

    if second is None:  # the first one keeps the lead until it is closed
        first.commit([put("floor", "generation", FloorRecord(2))])
    else:
        assert second.epoch > first.epoch
        second.commit([put("floor", "generation", FloorRecord(2))])
        attempts: tuple[Callable[[], None], ...] = (
            lambda: first.commit([put("floor", "generation", FloorRecord(3))]),
            lambda: first.commit([Write("floor", "generation", None, None)]),
            lambda: first.raise_epoch(100),
            first.renew,
        )
        for attempt in attempts:
            with pytest.raises(Fenced):
                attempt()
        assert first.lease is not None
        assert first.lease.lost
        second.close()
    first.close()
    assert stored(engine) == (FloorRecord(2),)


def test_a_leader_that_is_closed_late_does_not_end_the_lead_of_the_next(engine: Engine) -> None:
    first = engine.lead()
    second = engine.contend()
    first.close()

    if second is not None:
        second.commit([put("model", MODEL.id, MODEL)])
        second.renew()
        second.close()
        assert stored(engine) == (MODEL,)


def test_a_date_that_jumps_has_no_effect(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = engine.lead()
    for jump in (3600.0, -3600.0, 10 * 365 * 86_400.0, -10 * 365 * 86_400.0):
        moved = time.time() + jump
        monkeypatch.setattr(time, "time", lambda moved=moved: moved)
        store.renew()
        store.commit([put("model", MODEL.id, MODEL)])
        assert store.lease is None or store.lease.holds(time.clock_gettime(time.CLOCK_BOOTTIME))
    store.close()

    assert stored(engine) == (MODEL,)


def test_what_was_committed_survives_a_kill_at_each_step(engine: Engine) -> None:
    kind, place = ("sqlite", str(engine.folder)) if isinstance(engine, SqliteEngine) else ("postgresql", "")
    if isinstance(engine, PostgresqlEngine):
        place = engine.url
    committed, lives, epoch = 0, 0, 0
    command = [sys.executable, "-m", "tests.fakes.killed_writer", kind, place]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        while line := writer.stdout.readline():
            how, *numbers = line.split()
            lives += 1
            committed = max([committed, *map(int, numbers)])
            store = engine.lead()
            store.close()
            floor = max(
                (each.generation for each in store.records if isinstance(each, FloorRecord)), default=0
            )
            names = [each.name for each in store.records if isinstance(each, SubscriberRecord)]

            assert floor >= committed, "a commit that returned"
            assert names == [f"s{number:06}" for number in range(1, floor + 1)], (
                "both rows of a commit, or none"
            )
            assert store.epoch > epoch
            committed, epoch = floor, store.epoch
            writer.stdin.write("\n")
    assert how == "ended"
    assert lives > 10
