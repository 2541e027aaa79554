"""The seam between the broker and what stores its rows, which a URL chooses.

    sqlite:                            a file in the data directory, for one broker (the default)
    postgresql://USER@HOST/DATABASE    PostgreSQL, for several brokers of which one leads

Any store holds rows of a kind, a key and a value that it does not understand. All writes of a commit are
durable when it returns, or none is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from streamfleet_broker.errors import StoreUnusable
from streamfleet_broker.fleet.records import Record, Write
from streamfleet_broker.leadership.lease import Lease

if TYPE_CHECKING:
    from streamfleet_broker.storage.postgresql_store import PostgresqlCandidate

SQLITE = "sqlite:"
POSTGRESQL = ("postgresql://", "postgres://")


class Store(Protocol):
    """The rows of a fleet, for the broker that leads it. One thread at a time may use it, but for `renew`."""

    @property
    def records(self) -> tuple[Record, ...]:
        """All rows, as they were when this broker took the lead."""

    @property
    def cluster(self) -> str:
        """The identity of the store."""

    @property
    def epoch(self) -> int:
        """Larger than that of every broker that led before. The store refuses writes of a lower one."""

    @property
    def lease(self) -> Lease | None:
        """The right to lead; None: no other broker can lead while this process runs."""

    def commit(self, writes: Iterable[Write]) -> None:
        """Make all writes durable, or none of them. Raises: StoreDown, Fenced."""

    def raise_epoch(self, epoch: int) -> None:
        """Store a higher epoch, for now and for later leaders. Raises: StoreDown, Fenced."""

    def renew(self) -> None:
        """Renew the lease. Any thread may call it. Raises: StoreDown, Fenced."""

    def is_due(self, now: float) -> bool:
        """Whether it is time for `tidy`. `now`: monotonic seconds."""

    def tidy(self) -> None:
        """Do what is due when the store is idle. Raises: StoreDown."""

    def close(self) -> None:
        """Give up the lead, and close the store."""


def open_postgresql(url: str) -> PostgresqlCandidate:
    """A broker's way into PostgreSQL. Its driver is loaded only here. Raises: StoreUnusable."""
    try:
        from streamfleet_broker.storage.postgresql_store import PostgresqlCandidate
    except ModuleNotFoundError as exc:
        text = f"needs the package {exc.name}: pip install 'streamfleet[postgres]'"
        raise StoreUnusable(POSTGRESQL[0], text, option="--store") from exc
    return PostgresqlCandidate(url)


def is_postgresql(url: str) -> bool:
    """Whether a URL is one of PostgreSQL."""
    return url.startswith(POSTGRESQL)
