"""Which CURVE keys may connect, and how often: the answers to libzmq's question of ZeroMQ RFC 27.

libzmq asks once a connection. Whoever is let in has its key as `User-Id` on every message, so whoever reads
that can ask again whose key it is.
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
NUMBER = (
    "X-Number"  # the property of a message that says over which connection it came: a later one is higher
)
PENALTY = 10.0  # seconds for which a key that broke a rule is kept out


def _property(name: str, value: str) -> bytes:
    """As metadata of ZMTP 3: a length of one byte, the name, a length of four bytes, the value."""
    return bytes([len(name)]) + name.encode("ascii") + len(value).to_bytes(4, "big") + value.encode("ascii")


class AllowList:
    """The keys that each domain lets in, for the handlers of all contexts. Without a list it lets in none."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[str]] = {}
        self._admissions: dict[tuple[str, str], Bucket] = {}  # by domain and key, of those that may come in
        self._kept_out: dict[str, float] = {}  # key → until when, in monotonic seconds
        self._numbers = itertools.count(1)  # of connections that were let in

    def keep_out(self, key: str, seconds: float) -> None:
        """Do not let a key in for so long, wherever it may come in. Any thread may say so."""
        self._kept_out[key] = time.monotonic() + seconds

    def set(self, domain: str, keys: frozenset[str]) -> None:
        """Let exactly these in from now on. Connections that exist are not asked again."""
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
                    if self._comes_too_often(domain, name, time.monotonic()):
                        return [version, request_id, b"300", b"later", b"", b""]  # its libzmq tries again
                    number = _property(NUMBER, str(next(self._numbers)))
                    return [version, request_id, b"200", b"OK", name.encode("ascii"), number]
                logger.warning("%s: refused the unknown key %s", domain, name)
        except (IndexError, ValueError) as exc:
            logger.warning("refused what is no ZAP request: %s", exc)
        return [version, request_id, b"400", b"not allowed", b"", b""]

    def _comes_too_often(self, domain: str, key: str, now: float) -> bool:
        if now < self._kept_out.get(key, now):
            return True
        self._kept_out.pop(key, None)
        return not self._admissions.setdefault((domain, key), Bucket(ADMISSIONS)).take(1, now)
