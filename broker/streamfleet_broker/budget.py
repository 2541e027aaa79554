"""Rate limits per key, on the control plane and on the data plane. Pure: `now` is in monotonic seconds.

A budget is several times what the busiest device needs: only a faulty or malicious device exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_core.protocol.rates import DEVICE_BYTES, DEVICE_MESSAGES, Bucket, Rate


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one key."""

    messages: Rate
    bytes: Rate
    sessions: Rate  # Hello and Enrol: each may cost a synchronous write


LIMITS = Limits(DEVICE_MESSAGES, DEVICE_BYTES, Rate(20 / 60, 20))  # of the control plane
DATA_BURST = 2.0  # seconds at the full rate, which a relay that stood still receives at once
ADVANCE = 0.02  # seconds at the full rate that a reserve holds


def data_limits(messages: float, size: float) -> Limits:
    """The limits of the data plane: messages and bytes a second."""
    no_sessions = Rate(0, 0)
    return Limits(Rate(messages, DATA_BURST * messages), Rate(size, DATA_BURST * size), no_sessions)


@dataclass(slots=True)
class Reserve:
    """What a busy reader has taken from a budget in advance: it subtracts from it without asking again."""

    messages: float = 0.0
    bytes: float = 0.0


@dataclass(slots=True)
class _Account:
    messages: Bucket
    bytes: Bucket
    sessions: Bucket
    used_at: float = 0.0


class Budgets:
    """The budgets of all recently active keys."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._accounts: dict[str, _Account] = {}

    def admits(self, key: str, size: int, now: float) -> bool:
        """Charge a message of `size` bytes and return True; without enough budget, charge nothing."""
        account = self._account(key, now)
        if not (account.messages.has(1, now) and account.bytes.has(size, now)):
            return False
        return account.messages.take(1, now) and account.bytes.take(size, now)

    def refill(self, key: str, reserve: Reserve, size: int, now: float) -> bool:
        """Charge what a reserve lacks for a message of `size` bytes, with some advance, and return True.

        Without enough budget for the message, charge nothing.
        """
        account = self._account(key, now)
        lacking = max(0.0, 1 - reserve.messages), max(0.0, size - reserve.bytes)
        if not (account.messages.has(lacking[0], now) and account.bytes.has(lacking[1], now)):
            return False
        reserve.messages += _advance(account.messages, lacking[0], reserve.messages, now)
        reserve.bytes += _advance(account.bytes, lacking[1], reserve.bytes, now)
        return True

    def admits_session(self, key: str, now: float) -> bool:
        """Charge the start of a session and return True; without enough budget, charge nothing."""
        return self._account(key, now).sessions.take(1, now)

    def forget(self, until: float) -> None:
        """Drop budgets that were not used since `until`: their buckets are full again."""
        for key in [key for key, account in self._accounts.items() if account.used_at < until]:
            del self._accounts[key]

    def __len__(self) -> int:
        return len(self._accounts)

    def _account(self, key: str, now: float) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            limits = self._limits
            account = _Account(Bucket(limits.messages), Bucket(limits.bytes), Bucket(limits.sessions))
            self._accounts[key] = account
        account.used_at = now
        return account


def _advance(bucket: Bucket, least: float, held: float, now: float) -> float:
    """Take `least`, which is there, or as much as a reserve that holds `held` may have in advance."""
    amount = min(bucket.left, max(least, ADVANCE * bucket.rate.each_second - held))
    bucket.take(amount, now)
    return amount
