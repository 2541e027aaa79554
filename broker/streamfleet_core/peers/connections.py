"""The connections of one bound socket, by their descriptors: whose they are, how many, and their end.

libzmq cannot close one peer of a socket. But its descriptors are those of this process, each message names
the one that it came over, and a connection that is shut down ends as if its network had: libzmq tidies up,
and the peer connects again, if it is let in. An inode number tells a connection from a later one that got
its descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import resource
import socket as sockets
import struct
import sys
import termios
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from streamfleet_core.peers.allow_list import NUMBER

logger = logging.getLogger(__name__)

MAX_SILENT = 1024  # connections in their handshake, whoever made them: a whole fleet comes at once
MUTE_SHARE = 4  # times as many may have said nothing since: pictures are sent while somebody looks
OVERHEAD = 160  # bytes a message, of ZMTP and CURVE, and a little more
SHARE = 16  # and no more than this part of the descriptors that this process may have

Socket = zmq.Socket[bytes]

_A_HANDSHAKE = 4096  # bytes, at most
_TOLD = 10.0  # seconds between two lines about one key
_HELLO = 400  # bytes, of which a client has sent less before the server knows who it is
_LET_IN = 6.0  # seconds after which it is: libzmq ends a handshake after five, by HANDSHAKE_IVL
_HEARTBEATS = 128  # bytes of libzmq's own between two countings, and more
_TCP_INFO = struct.Struct("=128xQ")  # of the kernel's `struct tcp_info`: `tcpi_bytes_received`


@dataclass(slots=True, kw_only=True)
class Connection:
    """One that was accepted."""

    descriptor: int
    inode: int
    accepted: float
    serial: int  # of its record here, and of no other
    key: str | None = None  # None: it has said nothing yet
    number: int = 0  # that it got when it was let in; 0 where nobody is asked
    received: int = 0  # bytes, when they were counted last


class Connections:
    """Those of one socket. The thread that uses the socket uses them. `now` is monotonic seconds.

    Args:
        most: of one key.
    """

    def __init__(self, socket: Socket, most: int) -> None:
        self.monitor = _monitor_of(socket)
        self._socket = socket
        self._most = most
        self._most_silent = min(MAX_SILENT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE)
        self._known: dict[int, Connection] = {}
        self._silent: dict[int, Connection] = {}  # of these, oldest first
        self._fresh: dict[int, Connection] = {}  # of these, those that may be strangers
        self._counts: Counter[str] = Counter()  # by key
        self._serials = itertools.count()
        self._gone: list[Connection] = []  # and nobody has been told yet
        self._told: dict[str, float] = {}  # keys that had one too many, and when that was said
        self._read: Counter[str] = Counter()  # bytes since they were counted last, by key
        self._unread: Counter[str] = Counter()  # bytes that have come, by key
        self._stuck: set[str] = set()  # keys of which much waited at the last count, and nothing was read
        self._stuck_silent: set[int] = set()  # the same of connections whose key nobody knows

    @property
    def some_are_silent(self) -> bool:
        """Are there any of which nobody knows whose they are?"""
        return bool(self._silent)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: str) -> list[Connection]:
        """Those of a key."""
        return [each for each in self._known.values() if each.key == key]

    def take_new(self, now: float) -> None:
        """Take note of those that were accepted. Of too many the oldest are cut, and of strangers first."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
                self._note(event["value"], now)
        while len(self._fresh) > self._most_silent:
            oldest = next(iter(self._fresh.values()))
            if now - oldest.accepted > _LET_IN or _received(oldest) > _HELLO:
                del self._fresh[oldest.descriptor]
            else:
                self.cut(oldest)
        while len(self._silent) > MUTE_SHARE * self._most_silent:
            self.cut(next(iter(self._silent.values())))

    def speaks(self, descriptor: int, key: str, number: int, now: float) -> Connection | None:
        """A message of a key came over this descriptor. None: it is gone, or cut as one too many.

        A message may wait when its connection has ended and another one has its descriptor. The higher
        `number` is the later connection.
        """
        if descriptor not in self._known:
            self.take_new(now)
        known = self._known.get(descriptor)
        if known is not None and known.key is not None and number > known.number:
            self._forget(known)  # what it said was of an older connection
            known = None
        if known is None or known.key not in (None, key):
            known = self._note(descriptor, now)
        if known is None or known.key not in (None, key) or number < known.number:
            return None  # it has ended, and the descriptor is another's by now
        if known.key is None:
            del self._silent[descriptor]
            self._fresh.pop(descriptor, None)
            known.key, known.number = key, number
            self._counts[key] += 1
            if self._counts[key] > self._most:
                if now - self._told.get(key, float("-inf")) > _TOLD:
                    self._told[key] = now
                    logger.warning("%s has more than %d connections: one is cut", key or "here", self._most)
                self.cut(known)
                return None
        return known

    def read(self, key: str, size: int) -> None:
        """A message of a key was read."""
        self._read[key] += size + OVERHEAD

    def count(self, most: int, longest: int | None = None) -> list[str]:
        """The keys of which more bytes have come than were read: of a message that never ends.

        libzmq bounds a frame and not a message, and gives out whole ones only. Connections that do so with
        their first message are cut here, as nobody knows whose they are.

        Args:
            most: bytes of a key that may have come and not been read.
            longest: bytes of the longest message there is. Who has sent twice as much, of which nothing could
                be read between two counts, sends a longer one. None: this is not looked at.
        """
        for each in self._known.values():
            received = _received(each)
            if each.key is not None:
                self._unread[each.key] += received - each.received - _HEARTBEATS
            each.received = received
        large = most if longest is None else 2 * longest
        silent = [each for each in self._silent.values() if each.received > _A_HANDSHAKE]
        stuck_silent = {each.inode for each in silent if each.received > large}
        if sum(each.received for each in silent) <= most:
            silent = [each for each in silent if each.inode in stuck_silent & self._stuck_silent]
        self._stuck_silent = stuck_silent
        for each in silent:
            logger.warning("a connection begins with a message without an end: it is cut")
            self.cut(each)
        self._unread.subtract(self._read)
        self._unread = Counter({key: size for key, size in self._unread.items() if size > 0})
        stuck = {key for key, size in self._unread.items() if size > large and not self._read[key]}
        over = {key for key, size in self._unread.items() if size > most} | (stuck & self._stuck)
        self._stuck = stuck
        self._read.clear()
        return sorted(over)

    def cut(self, connection: Connection) -> None:
        """End it, and forget it."""
        self._forget(connection)
        if _lives(connection):
            with (
                contextlib.suppress(OSError),
                _borrowed(connection.descriptor) as peer,
            ):  # or it has just ended
                peer.shutdown(sockets.SHUT_RDWR)

    def cut_all(self, doomed: Callable[[Connection], bool]) -> int:
        """Cut these; how many."""
        found = [each for each in self._known.values() if doomed(each)]
        for each in found:
            self.cut(each)
        return len(found)

    def sweep(self) -> list[Connection]:
        """Those that have ended, or were cut, since this was called last."""
        for each in [each for each in self._known.values() if not _lives(each)]:
            self._forget(each)
        gone, self._gone = self._gone, []
        return gone

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(zmq.ZMQError):  # its context has ended
            self._socket.disable_monitor()
        self.monitor.close(linger=0)

    def _note(self, descriptor: int, now: float) -> Connection | None:
        inode = _inode(descriptor)
        known = self._known.get(descriptor)
        if known is not None:
            if known.inode == inode:
                return known
            self._forget(known)
        if inode is None:
            return None
        made = Connection(descriptor=descriptor, inode=inode, accepted=now, serial=next(self._serials))
        self._known[descriptor] = self._silent[descriptor] = self._fresh[descriptor] = made
        return made

    def _forget(self, connection: Connection) -> None:
        self._gone.append(connection)
        self._known.pop(connection.descriptor, None)
        self._silent.pop(connection.descriptor, None)
        self._fresh.pop(connection.descriptor, None)
        if connection.key is not None:
            self._counts[connection.key] -= 1
            if not self._counts[connection.key]:
                del self._counts[connection.key]
                self._unread.pop(connection.key, None)


def _monitor_of(socket: Socket) -> Socket:
    """Where libzmq says who was accepted.

    It has no limit: while it is full, libzmq's thread waits, and every connection of that thread with it.
    """
    monitor: Socket = socket.context.socket(zmq.PAIR)
    monitor.rcvhwm = 0
    endpoint = f"inproc://accepted-{uuid.uuid4()}"
    socket.monitor(endpoint, zmq.EVENT_ACCEPTED)
    monitor.connect(endpoint)
    return monitor


def descriptor_of(frame: zmq.Frame) -> int:
    """Of the connection that a message came over; -1 where it came over none, as libzmq's own words do."""
    try:
        return int(frame.get("__fd"))
    except zmq.ZMQError:
        return -1


def number_of(frame: zmq.Frame) -> int:
    """Of the connection that a message came over, as `AllowList` gave it; 0 where nobody was asked."""
    try:
        return int(frame.get(NUMBER))
    except zmq.ZMQError:
        return 0


def unsent(connection: Connection) -> int:
    """Bytes that the kernel has and its peer has not."""
    try:
        return int.from_bytes(fcntl.ioctl(connection.descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[sockets.socket]:
    """A socket that is libzmq's to close. Raises: OSError."""
    peer = sockets.socket(fileno=descriptor)
    try:
        yield peer
    finally:
        peer.detach()


def _received(connection: Connection) -> int:
    """The bytes that the kernel took in, or did when it was asked last; 0 over a unix socket."""
    try:
        with _borrowed(connection.descriptor) as peer:
            info = peer.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _TCP_INFO.size)
        return int(_TCP_INFO.unpack(info)[0])
    except (OSError, struct.error):
        return connection.received


def _lives(connection: Connection) -> bool:
    return _inode(connection.descriptor) == connection.inode


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None
