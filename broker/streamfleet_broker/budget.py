"""Rate limits per key on the devices' plane. Pure: `now` is in monotonic seconds.

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


LIMITS = Limits(DEVICE_MESSAGES, DEVICE_BYTES, Rate(20 / 60, 20))


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
