"""Wrong tokens, counted by the address that they come from. Pure. (S10)

Those of web pages are counted separately, so that a page cannot lock out its visitors.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from streamfleet_api.web.access_policy import Address, network_of

MOST = 10  # wrong tokens from one address within
WINDOW = 60.0  # seconds
MAX_ADDRESSES = 4_096  # that are remembered; the one that failed longest ago is forgotten first


class FailedLogins:
    """The recent wrong tokens. `now` is in monotonic seconds."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.count = 0  # of all, since the start
        self._times: OrderedDict[str, deque[float]] = OrderedDict()  # who failed last at the end

    def wait(self, address: Address | None, now: float, *, by_page: bool = False) -> float:
        """Seconds until a token from this address is looked at; 0.0: now."""
        times = self._times.get(_asker(address, by_page)) if self._times else None
        if times is None or len(times) < self.most:
            return 0.0
        return max(times[0] + WINDOW - now, 0.0)

    def failed(self, address: Address | None, now: float, *, by_page: bool = False) -> bool:
        """Count a wrong token, and return whether it is the one after which its address is blocked."""
        self.count += 1
        asker = _asker(address, by_page)
        times = self._times.setdefault(asker, deque(maxlen=self.most))
        self._times.move_to_end(asker)
        times.append(now)
        if len(self._times) > MAX_ADDRESSES:
            self._times.popitem(last=False)
        return len(times) == self.most and now - times[0] < WINDOW


def _asker(address: Address | None, by_page: bool) -> str:
    network = network_of(address)
    return f"page at {network}" if by_page else network
