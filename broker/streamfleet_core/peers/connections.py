"""The connections of one bound socket, by descriptor: their keys, their number, and how to end one.

libzmq cannot close one peer of a socket. But its descriptors are those of this process, each message names
the descriptor that it was received on, and shutting a connection down looks like a lost network: libzmq
cleans up, and the peer reconnects if it is allowed to. The inode number distinguishes a connection from a
later one that reuses its descriptor.
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

MAX_SILENT = 1024  # connections in their handshake, from any peer: a whole fleet may connect at once
MUTE_SHARE = 4  # times as many may have sent nothing since: previews are sent only while a client watches
OVERHEAD = 160  # bytes per message that ZMTP and CURVE add, with some reserve
SHARE = 16  # MAX_SILENT is at most the limit of descriptors divided by this

Socket = zmq.Socket[bytes]

_MAX_HANDSHAKE = 4096  # bytes
_LOG_INTERVAL = 10.0  # seconds between two lines about one key
_HELLO = 400  # bytes: a client sends less than this before the server knows its key
# Seconds, after which a connection was accepted: libzmq ends a handshake after 5 (HANDSHAKE_IVL).
_LET_IN = 6.0
_HEARTBEATS = 128  # bytes that libzmq itself may send between two counts, with some reserve
_TCP_INFO = struct.Struct("=128xQ")  # of the kernel's `struct tcp_info`: `tcpi_bytes_received`


@dataclass(slots=True, kw_only=True)
class Connection:
    """An accepted connection."""

    descriptor: int
    inode: int
    accepted: float
    serial: int  # unique for each record
    key: str | None = None  # None: it has sent nothing yet
    number: int = 0  # from `AllowList`, in order of acceptance; 0 on a socket without ZAP
    received: int = 0  # bytes, at the last count


class Connections:
    """The connections of one socket. Only the thread of the socket may use it. `now` is in monotonic seconds.

    Args:
        most: limit for the connections of one key.
    """

    def __init__(self, socket: Socket, most: int) -> None:
        self.monitor = _monitor_of(socket)
        self._socket = socket
        self._most = most
        self._most_silent = min(MAX_SILENT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE)
        self._known: dict[int, Connection] = {}
        self._silent: dict[int, Connection] = {}  # those whose key is unknown, oldest first
        self._fresh: dict[int, Connection] = {}  # of the silent ones, those that may be in their handshake
        self._counts: Counter[str] = Counter()  # by key
        self._serials = itertools.count()
        self._gone: list[Connection] = []  # ended since the last `sweep`
        self._logged: dict[str, float] = {}  # key → when it was last logged that it had too many
        self._read: Counter[str] = Counter()  # bytes read since the last count, by key
        self._unread: Counter[str] = Counter()  # bytes received and not read, by key
        # Keys with many unread bytes at the last count, of which nothing was read.
        self._stuck: set[str] = set()
        self._stuck_silent: set[int] = set()  # the same for silent connections, by inode

    @property
    def some_are_silent(self) -> bool:
        """Whether the key of some connection is still unknown."""
        return bool(self._silent)

    def is_new(self, descriptor: int) -> bool:
        """Whether the key of the connection with this descriptor is unknown."""
        return descriptor in self._silent or descriptor not in self._known

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: str) -> list[Connection]:
        """The connections of a key."""
        return [each for each in self._known.values() if each.key == key]

    def take_new(self, now: float) -> None:
        """Record newly accepted connections.

        If too many are silent, cut the oldest, unauthenticated ones first.
        """
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
                self._record(event["value"], now)
        while len(self._fresh) > self._most_silent:
            oldest = next(iter(self._fresh.values()))
            if now - oldest.accepted > _LET_IN or _received(oldest) > _HELLO:
                del self._fresh[oldest.descriptor]
            else:
                self.cut(oldest)
        while len(self._silent) > MUTE_SHARE * self._most_silent:
            self.cut(next(iter(self._silent.values())))

    def identify(self, descriptor: int, key: str, number: int, now: float) -> Connection | None:
        """Record that a message with a key was received on a descriptor, and return its connection.

        Returns None if the connection has ended, or is cut because its key has too many. A message may be
        read after its connection has ended and another one has its descriptor: the higher `number` is the
        later one.
        """
        if descriptor not in self._known:
            self.take_new(now)
        known = self._known.get(descriptor)
        if known is not None and known.key is not None and number > known.number:
            self._forget(known)  # the record is of an older connection
            known = None
        if known is None or known.key not in (None, key):
            known = self._record(descriptor, now)
        if known is None or known.key not in (None, key) or number < known.number:
            return None  # it has ended, and its descriptor was reused
        if known.key is None:
            del self._silent[descriptor]
            self._fresh.pop(descriptor, None)
            known.key, known.number = key, number
            self._counts[key] += 1
            if self._counts[key] > self._most:
                if now - self._logged.get(key, float("-inf")) > _LOG_INTERVAL:
                    self._logged[key] = now
                    name = key or "a client without a key"
                    logger.warning("%s has more than %d connections: disconnected one", name, self._most)
                self.cut(known)
                return None
        return known

    def read(self, key: str, size: int) -> None:
        """Record that a message of a key was read."""
        self._read[key] += size + OVERHEAD

    def count(self, most: int, longest: int | None = None) -> list[str]:
        """Return the keys with too many unread bytes: they are sending a message that does not end.

        libzmq limits the size of a frame but not of a message, and delivers only complete messages.
        Connections that do so in their first message are cut here, as their key is unknown.

        Args:
            most: limit for the bytes of a key that were received and not read.
            longest: bytes of the longest valid message. A peer with twice as many unread bytes, of which
                nothing could be read between two counts, is sending a longer one. None: skip this check.
        """
        for each in self._known.values():
            received = _received(each)
            if each.key is not None:
                self._unread[each.key] += received - each.received - _HEARTBEATS
            each.received = received
        large = most if longest is None else 2 * longest
        silent = [each for each in self._silent.values() if each.received > _MAX_HANDSHAKE]
        stuck_silent = {each.inode for each in silent if each.received > large}
        if sum(each.received for each in silent) <= most:
            silent = [each for each in silent if each.inode in stuck_silent & self._stuck_silent]
        self._stuck_silent = stuck_silent
        for each in silent:
            logger.warning("a connection sends a first message without an end: disconnected")
            self.cut(each)
        self._unread.subtract(self._read)
        self._unread = Counter({key: size for key, size in self._unread.items() if size > 0})
        stuck = {key for key, size in self._unread.items() if size > large and not self._read[key]}
        over = {key for key, size in self._unread.items() if size > most} | (stuck & self._stuck)
        self._stuck = stuck
        self._read.clear()
        return sorted(over)

    def cut(self, connection: Connection) -> None:
        """End a connection and forget it."""
        self._forget(connection)
        if _is_open(connection):
            with (
                contextlib.suppress(OSError),
                _borrowed(connection.descriptor) as peer,
            ):  # it may have just ended
                peer.shutdown(sockets.SHUT_RDWR)

    def cut_all(self, matches: Callable[[Connection], bool]) -> int:
        """Cut the matching connections, and return how many there were."""
        found = [each for each in self._known.values() if matches(each)]
        for each in found:
            self.cut(each)
        return len(found)

    def sweep(self) -> list[Connection]:
        """Return the connections that have ended or were cut since the last call."""
        for each in [each for each in self._known.values() if not _is_open(each)]:
            self._forget(each)
        gone, self._gone = self._gone, []
        return gone

    def close(self) -> None:
        """Stop monitoring the socket."""
        with contextlib.suppress(zmq.ZMQError):  # its context has been terminated
            self._socket.disable_monitor()
        self.monitor.close(linger=0)

    def _record(self, descriptor: int, now: float) -> Connection | None:
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
    """Create the monitor socket on which libzmq reports accepted connections.

    Its queue has no limit: while it is full, an I/O thread of libzmq blocks, with all connections of that
    thread.
    """
    monitor: Socket = socket.context.socket(zmq.PAIR)
    monitor.rcvhwm = 0
    endpoint = f"inproc://accepted-{uuid.uuid4()}"
    socket.monitor(endpoint, zmq.EVENT_ACCEPTED)
    monitor.connect(endpoint)
    return monitor


def descriptor_of(frame: zmq.Frame) -> int:
    """The descriptor on which a message was received; -1 if libzmq made the message itself."""
    try:
        return int(frame.get("__fd"))
    except zmq.ZMQError:
        return -1


def number_of(frame: zmq.Frame) -> int:
    """The number that `AllowList` gave the connection of a message; 0 on a socket without ZAP."""
    try:
        return int(frame.get(NUMBER))
    except zmq.ZMQError:
        return 0


def unsent(connection: Connection) -> int:
    """Bytes in the send buffer of the kernel that the peer has not acknowledged."""
    try:
        return int.from_bytes(fcntl.ioctl(connection.descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[sockets.socket]:
    """A socket object for a descriptor that libzmq closes. Raises: OSError."""
    peer = sockets.socket(fileno=descriptor)
    try:
        yield peer
    finally:
        peer.detach()


def _received(connection: Connection) -> int:
    """The bytes received so far, or at the last successful count; 0 over a unix socket."""
    try:
        # Often called: with a family and a type that are given, Python does not ask the kernel for them.
        peer = sockets.SocketType(sockets.AF_INET, sockets.SOCK_STREAM, 0, connection.descriptor)
        try:
            info = peer.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _TCP_INFO.size)
        finally:
            peer.detach()
        return int(_TCP_INFO.unpack(info)[0])
    except (OSError, struct.error):
        return connection.received


def _is_open(connection: Connection) -> bool:
    return _inode(connection.descriptor) == connection.inode


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None
