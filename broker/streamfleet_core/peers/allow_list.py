"""The CURVE keys that may connect, and how often: replies to libzmq's ZAP requests (ZeroMQ RFC 27).

libzmq asks once per connection. Each message of an accepted connection carries its key as `User-Id`, so that
its reader can check the key again.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence

from zmq.utils import z85

from streamfleet_core.protocol.rates import Bucket, Rate

logger = logging.getLogger(__name__)

ADMISSIONS = Rate(20, 512)  # connections of one key to one domain: each costs a handshake
# The message property with the number of the connection that delivered it. Later connections have higher
# ones.
NUMBER = "X-Number"
PENALTY = 10.0  # seconds for which a key that broke a rule is refused


def _property(name: str, value: str) -> bytes:
    """Encode metadata as ZMTP 3 does: length in one byte, name, length in four bytes, value."""
    return bytes([len(name)]) + name.encode("ascii") + len(value).to_bytes(4, "big") + value.encode("ascii")


class AllowList:
    """The allowed keys of each ZAP domain, for the handlers of all contexts.

    A domain without a list allows none.
    """

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[str]] = {}
        self._admissions: dict[tuple[str, str], Bucket] = {}  # by domain and allowed key
        self._kept_out: dict[str, float] = {}  # key → until when, in monotonic seconds
        self._numbers = itertools.count(1)  # of accepted connections

    def keep_out(self, key: str, seconds: float) -> None:
        """Refuse a key in all domains for some seconds. Any thread may call it."""
        self._kept_out[key] = time.monotonic() + seconds

    def set(self, domain: str, keys: frozenset[str]) -> None:
        """Replace the allowed keys of a domain. Existing connections are not checked again."""
        self._keys[domain] = keys
        for known in [each for each in self._admissions if each[0] == domain and each[1] not in keys]:
            del self._admissions[known]

    def answer(self, request: Sequence[bytes]) -> list[bytes]:
        """The reply to a ZAP request: version, id, status, text, User-Id, metadata."""
        version, request_id = b"1.0", request[1] if len(request) > 1 else b""
        try:
            domain, mechanism, key = request[2].decode("ascii"), request[5], request[6]
            if request[0] == version and mechanism == b"CURVE" and len(request) == 7:
                name = z85.encode(key).decode("ascii")
                if name in self._keys.get(domain, ()):
                    if self._is_rate_limited(domain, name, time.monotonic()):
                        # The peer's libzmq tries again.
                        return [version, request_id, b"300", b"later", b"", b""]
                    number = _property(NUMBER, str(next(self._numbers)))
                    return [version, request_id, b"200", b"OK", name.encode("ascii"), number]
                logger.warning("%s: refused the unknown key %s", domain, name)
        except (IndexError, ValueError) as exc:
            logger.warning("refused a malformed ZAP request: %s", exc)
        return [version, request_id, b"400", b"not allowed", b"", b""]

    def _is_rate_limited(self, domain: str, key: str, now: float) -> bool:
        if now < self._kept_out.get(key, now):
            return True
        self._kept_out.pop(key, None)
        return not self._admissions.setdefault((domain, key), Bucket(ADMISSIONS)).take(1, now)
