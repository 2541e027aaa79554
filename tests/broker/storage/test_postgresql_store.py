"""What only PostgreSQL does: connections that break, answers that are lost, databases that cannot be used."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from streamfleet_broker.errors import Fenced, StoreDown, StoreUnusable
from streamfleet_broker.fleet.records import FloorRecord, Record, Write
from streamfleet_broker.leadership.lease import STOP_AFTER
from streamfleet_broker.storage import postgresql
from streamfleet_broker.storage.postgresql_store import (
    SCHEMA_VERSION,
    PostgresqlCandidate,
    PostgresqlStore,
)
from streamfleet_core.runtime.boot_time import boot_time
from tests.fakes.chaos_proxy import ChaosProxy
from tests.fakes.patience import PATIENCE
from tests.fakes.postgresql import USER, Cluster, running_cluster
from tests.fakes.stores import PostgresqlEngine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture
def database(cluster: Cluster) -> str:
    return cluster.new_database()


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[ChaosProxy]:
    """Between the broker and the server."""
    with ChaosProxy(("127.0.0.1", cluster.port)) as found:
        yield found


def floor(number: int) -> list[Write]:
    return [Write("floor", "generation", None, FloorRecord(number))]


def leading(url: str) -> PostgresqlStore:
    candidate = PostgresqlCandidate(url)
    with contextlib.closing(candidate):
        store = candidate.lead(candidate.see(), "a")
    assert store is not None
    return store


def stored(cluster: Cluster, database: str) -> tuple[Record, ...]:
    store = leading(cluster.url(database))
    store.close()
    return store.records


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def keep_renewed(store: PostgresqlStore) -> None:
    """As if renewals went on: what is tested is the write."""
    assert store.lease is not None
    store.lease.sent_at = boot_time() + PATIENCE


def test_a_write_without_an_answer_is_made_once(cluster: Cluster, database: str, proxy: ChaosProxy) -> None:
    store = leading(cluster.url(database, port=proxy.port))
    store.commit(floor(1))
    keep_renewed(store)
    with cluster.connect(database) as observer, ThreadPoolExecutor(1) as pool:
        proxy.weather.down = False
        writing: Future[None] = pool.submit(store.commit, floor(2))
        until(lambda: observer.execute("SELECT version FROM streamfleet_fleet").fetchone() == (2,))
        proxy.heal()

        writing.result(PATIENCE)

        store.commit(floor(3))
        assert observer.execute("SELECT version FROM streamfleet_fleet").fetchone() == (3,)
    store.close()
    assert stored(cluster, database) == (FloorRecord(3),)


def test_a_write_that_is_lost_is_sent_again(cluster: Cluster, database: str, proxy: ChaosProxy) -> None:
    store = leading(cluster.url(database, port=proxy.port))
    store.commit(floor(1))
    keep_renewed(store)
    with ThreadPoolExecutor(1) as pool:
        proxy.weather.up = False
        writing = pool.submit(store.commit, floor(2))
        until(lambda: store._writing._open is None)  # it has given up this connection
        proxy.heal()

        writing.result(PATIENCE)

    store.close()
    assert stored(cluster, database) == (FloorRecord(2),)


def test_who_cannot_know_what_became_of_a_write_leads_no_longer(
    cluster: Cluster, database: str, proxy: ChaosProxy
) -> None:
    store = leading(cluster.url(database, port=proxy.port))
    store.commit(floor(1))
    proxy.weather.down = False

    with pytest.raises(Fenced, match="a write was not answered"):
        store.commit(floor(2))

    assert store.lease is not None
    assert store.lease.lost
    proxy.heal()
    with pytest.raises(Fenced):
        store.commit(floor(3)) if stored(cluster, database) else None
    store.close()


def test_a_write_that_was_not_sent_is_refused_and_nothing_else(
    cluster: Cluster, database: str, proxy: ChaosProxy
) -> None:
    store = leading(cluster.url(database, port=proxy.port))
    proxy.close()  # the first write makes the connection

    with pytest.raises(StoreDown, match="cannot write") as refused:
        store.commit(floor(1))

    assert "127.0.0.1" in str(refused.value)
    assert store.lease is not None
    assert store.lease.holds(boot_time())
    store.close()
    assert stored(cluster, database) == ()


def test_a_connection_that_broke_while_it_was_idle_costs_nothing(
    cluster: Cluster, database: str, proxy: ChaosProxy
) -> None:
    store = leading(cluster.url(database, port=proxy.port))
    store.commit(floor(1))
    keep_renewed(store)
    proxy.reset()

    store.commit(floor(2))

    store.close()
    assert stored(cluster, database) == (FloorRecord(2),)


def test_a_renewal_without_an_answer_does_not_renew(
    cluster: Cluster, database: str, proxy: ChaosProxy
) -> None:
    store = leading(cluster.url(database, port=proxy.port))
    store.renew()
    assert store.lease is not None
    before = store.lease.ends_at
    proxy.weather.down = False

    with pytest.raises(StoreDown):
        store.renew()

    assert store.lease.ends_at == before <= boot_time() + STOP_AFTER
    proxy.heal()
    store.close()


def test_a_write_that_waits_does_not_end_the_lease(cluster: Cluster, database: str) -> None:
    engine = PostgresqlEngine(cluster.url(database))
    store = engine.lead()
    assert store.lease is not None
    before = store.lease.ends_at
    with engine.blocked(), ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.commit, floor(1))
        # What waits for rows has the row of the fleet: it has to be given up before.
        assert isinstance(writing.exception(PATIENCE), StoreDown)
        store.renew()
    assert store.lease.ends_at > before
    store.close()


def test_tables_are_made_by_one_of_several_that_start_at_once(cluster: Cluster, database: str) -> None:
    barrier, opened = threading.Barrier(5), list[PostgresqlCandidate]()

    def start() -> None:
        barrier.wait()
        opened.append(PostgresqlCandidate(cluster.url(database)))

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert [each.see().epoch for each in opened] == [0] * 5
    for each in opened:
        each.close()


def test_the_next_leader_need_not_wait_for_one_that_ended_in_order(cluster: Cluster, database: str) -> None:
    candidate = PostgresqlCandidate(cluster.url(database))
    store = leading(cluster.url(database))
    assert candidate.see().leader == "a"

    store.close()

    assert candidate.see().leader == ""
    candidate.close()


def test_tables_of_another_version_are_refused(cluster: Cluster, database: str) -> None:
    leading(cluster.url(database)).close()
    with cluster.connect(database) as connection:
        connection.execute("UPDATE streamfleet_fleet SET schema = 9")

    with pytest.raises(StoreUnusable, match=f"expected version {SCHEMA_VERSION} of its tables, got 9"):
        PostgresqlCandidate(cluster.url(database))


def test_a_row_of_a_newer_version_is_not_thrown_away(cluster: Cluster, database: str) -> None:
    leading(cluster.url(database)).close()
    with cluster.connect(database) as connection:
        connection.execute(r"INSERT INTO streamfleet_rows VALUES ('drone', 'd', '\x80', 1)")

    with pytest.raises(StoreUnusable, match="drone/d is of a kind that this version does not know"):
        leading(cluster.url(database))


def test_a_database_that_cannot_keep_all_characters_is_refused(cluster: Cluster) -> None:
    database = cluster.new_database("ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")

    with pytest.raises(StoreUnusable, match="expected a database in UTF8, got SQL_ASCII"):
        PostgresqlCandidate(cluster.url(database))


def test_what_is_wrong_with_a_url_is_said_without_its_password(cluster: Cluster) -> None:
    for url, said in (
        (f"postgresql://streamfleet:hunter2@127.0.0.1:{cluster.port}/nothing", "does not exist"),
        ("postgresql://streamfleet:hunter2@127.0.0.1:1/fleet", "onnection refused"),
        ("postgresql://streamfleet:hunter2@h:x:1/fleet", "--store"),
    ):
        with pytest.raises(StoreUnusable, match=said) as refused:
            PostgresqlCandidate(url)
        assert "--store" in str(refused.value)
        assert "hunter2" not in str(refused.value)


def test_a_server_that_forgets_commits_for_speed_is_told_not_to(cluster: Cluster, database: str) -> None:
    with cluster.connect() as other:
        other.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    connection = postgresql.Connection(cluster.url(database))

    assert connection.ask("SHOW synchronous_commit") == [("on",)]

    connection.close()


def test_a_statement_waits_for_its_answer_no_longer_than_its_limit(cluster: Cluster, database: str) -> None:
    connection = postgresql.Connection(cluster.url(database), timeout=0.2)

    with pytest.raises(postgresql.Unanswered, match="no answer in time"):
        connection.ask("SELECT pg_sleep(1)")

    assert connection.ask("SELECT 1") == [(1,)]
    connection.close()


def test_what_the_database_refuses_is_told_apart(cluster: Cluster, database: str) -> None:
    connection = postgresql.Connection(cluster.url(database))

    with pytest.raises(postgresql.Rejected, match="division by zero"):
        connection.ask("SELECT 1/0")
    connection.close()


def test_a_connection_that_the_server_ends_gives_no_answer(cluster: Cluster, database: str) -> None:
    connection = postgresql.Connection(cluster.url(database))
    ((pid,),) = connection.ask("SELECT pg_backend_pid()")
    with cluster.connect() as other:
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        until(lambda: not other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall())

    with pytest.raises(postgresql.Unanswered):
        connection.ask("SELECT 1")

    connection.close()


def test_no_answered_write_is_lost_when_a_standby_becomes_the_primary() -> None:
    with running_cluster() as primary, primary.with_standby() as standby:
        database = primary.new_database()
        ports = f"{primary.port},{standby.port}"
        hosts = f"{primary.folder},{standby.folder}"
        url = f"postgresql://{USER}@/{database}?host={hosts}&port={ports}&target_session_attrs=read-write"
        store = leading(url)
        keep_renewed(store)
        answered = [0]
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                with contextlib.suppress(StoreDown):  # nothing of it is there
                    store.commit(floor(answered[0] + 1))
                    answered[0] += 1

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            until(lambda: answered[0] >= 50)
            primary.process.kill()
            primary.process.wait()
            standby.promote()
            before = answered[0]
            until(lambda: answered[0] >= before + 50)
            stop.set()
            writing.result(PATIENCE)

        with standby.connect(database) as connection:
            assert connection.execute("SELECT version FROM streamfleet_fleet").fetchone() == (answered[0],)
        store.close()
        assert stored(standby, database) == (FloorRecord(answered[0]),)
