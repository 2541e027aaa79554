"""Predictions over ZeroMQ, from the relay of a fleet or from a device itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import zmq
import zmq.asyncio
from typing_extensions import Self
from zmq.utils.monitor import parse_monitor_message

from streamfleet.defaults import DEFAULT_DATA_DIR
from streamfleet.errors import BadSetting, NothingReceived, Unreachable
from streamfleet.prediction import Inbox, Prediction, topics_of
from streamfleet.results import SubscriberKeys
from streamfleet_core.protocol.data_plane import MAX_FRAME
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys
from streamfleet_core.runtime.private_file import read_private, write_private

CONNECT_TIMEOUT = 10.0  # seconds
WAITING = 1000  # predictions
_LOCAL = "broker/predictions.ipc"
_TURN_MS = 200  # after which a closed subscription ends at the latest
_CLOSING = 1.0  # seconds for a thread to notice it
_AT_ONCE = 64  # predictions after which other tasks have their turn
_PROBE = 3.0  # seconds for one address
_PAUSE = 0.2  # seconds between two rounds of probes

_KEY_DELAY = 2.0  # seconds until a device knows a key that was made just now
_OUTCOMES = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.HANDSHAKE_FAILED_AUTH


def subscribe(
    *pipelines: str,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> Subscription:
    """Subscribe to predictions: of the fleet on this machine, or with keys of one elsewhere.

    The connection is made, and the keys are checked, before this returns. Later the subscription reconnects
    by itself, and what was lost meanwhile is counted in `Prediction.missing`.

    Args:
        *pipelines: Only of these. Without any: of all that the keys allow.
        keys: A key file, as `streamfleet keys subscriber NAME --to FILE` writes it, or what
            `Client.add_subscriber` returns. None: the fleet on this machine, which needs no keys.
        data_dir: Where the fleet on this machine keeps its files.
        timeout: Seconds without a prediction after which NothingReceived is raised. None: never.
        connect_timeout: Seconds until a connection is made.
        waiting: Predictions that may wait to be read; of those beyond it the newest are lost, and counted.

    Raises:
        Unreachable: No connection within `connect_timeout`, or the keys are not accepted.
        BadSetting: The key file cannot be used.

    Example:
        ```python
        with streamfleet.subscribe("door", timeout=30) as predictions:
            for prediction in predictions:
                if prediction.missing:
                    print("lost", prediction.missing)
                print(prediction.pipeline_id, prediction.frame_id, prediction.detections)
        ```
    """
    target = _Target.of(keys, Path(data_dir).expanduser(), connect_timeout)
    return Subscription(*target.connected(pipelines, waiting), timeout)


async def subscribe_async(
    *pipelines: str,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> AsyncSubscription:
    """Subscribe to predictions, for asyncio: see `subscribe`.

    Example:
        ```python
        async with await streamfleet.subscribe_async("door", timeout=30) as predictions:
            async for prediction in predictions:
                print(prediction.pipeline_id, prediction.frame_id)
        ```
    """
    target = _Target.of(keys, Path(data_dir).expanduser(), connect_timeout)
    connected = await asyncio.to_thread(target.connected, pipelines, waiting)
    return AsyncSubscription(*connected, timeout)


class Subscription:
    """An iterator of predictions, in the order of each pipeline. Close it, or use it in a `with` block.

    One thread iterates; any thread may close it, which ends the iteration within 0.2 s.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], made: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self._receiver = _Receiver(context, made, timeout)
        self._in_use = threading.Lock()  # a socket is not for two threads at a time

    @property
    def unreadable(self) -> int:
        """Messages that were not predictions and were left out."""
        return self._receiver.inbox.unreadable

    def __iter__(self) -> Iterator[Prediction]:
        return self

    def __next__(self) -> Prediction:
        """Raises: StopIteration when it is closed, NothingReceived."""
        began = time.monotonic()
        with self._in_use:
            while not self._receiver.is_closed:
                found = self._receiver.take()
                if found is not None:
                    return found
                self._receiver.socket.poll(self._receiver.turn(began))
        raise StopIteration

    def close(self) -> None:
        """End the subscription. Closing it again does nothing."""
        self._receiver.is_closed = True
        if self._in_use.acquire(timeout=_CLOSING):
            try:
                self._receiver.close()
            finally:
                self._in_use.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class AsyncSubscription:
    """An asynchronous iterator of predictions: see `Subscription`. One task iterates; any may close it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], made: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self._receiver = _Receiver(context, made, timeout)
        self._poll = zmq.asyncio.Poller()
        self._poll.register(made, zmq.POLLIN)
        self._in_use = asyncio.Lock()
        self._at_once = 0  # predictions since the event loop had its turn

    @property
    def unreadable(self) -> int:
        """Messages that were not predictions and were left out."""
        return self._receiver.inbox.unreadable

    def __aiter__(self) -> AsyncIterator[Prediction]:
        return self

    async def __anext__(self) -> Prediction:
        """Raises: StopAsyncIteration when it is closed, NothingReceived."""
        began = time.monotonic()
        async with self._in_use:
            while not self._receiver.is_closed:
                found = self._receiver.take()
                if found is None:
                    await self._poll.poll(self._receiver.turn(began))
                    continue
                self._at_once += 1
                if self._at_once % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                return found
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the subscription. Closing it again does nothing."""
        self._receiver.is_closed = True
        async with self._in_use:  # an iteration ends within a turn
            self._receiver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


class _Receiver:
    """The socket of one subscription, and what it has received."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], made: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self.socket = made
        self.inbox = Inbox()
        self.is_closed = False
        self._context = context
        self._timeout = timeout

    def take(self) -> Prediction | None:
        """The next prediction that is there already."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            found = self.inbox.receive(frames, time.monotonic())
            if found is not None:
                return found

    def turn(self, began: float) -> int:
        """Milliseconds to wait for the next one. Raises: NothingReceived."""
        if self._timeout is None:
            return _TURN_MS
        left = began + self._timeout - time.monotonic()
        if left <= 0:
            raise NothingReceived("predictions", self._timeout)
        return min(_TURN_MS, max(1, round(left * 1000)))

    def close(self) -> None:
        """Close the socket and its thread."""
        self.socket.close(linger=0)
        self._context.term()


@dataclass(frozen=True, slots=True)
class _Target:
    """Whom to connect to."""

    endpoints: tuple[str, ...]
    keys: SubscriberKeys | None
    timeout: float  # seconds until a connection is made

    @classmethod
    def of(cls, keys: SubscriberKeys | str | Path | None, data_dir: Path, timeout: float) -> _Target:
        """Raises: BadSetting, Unreachable."""
        if keys is None:
            path = data_dir / _LOCAL
            if not path.exists():
                raise Unreachable(f"no fleet runs on this machine: expected {path}")
            return cls((f"ipc://{path}",), None, timeout)
        if not isinstance(keys, SubscriberKeys):
            keys = read_keys(Path(keys).expanduser())
        return cls(keys.endpoints, keys, timeout)

    def connected(
        self, pipelines: tuple[str, ...], waiting: int
    ) -> tuple[zmq.Context[zmq.Socket[bytes]], zmq.Socket[bytes]]:
        """A context and a socket that receives predictions. Raises: BadSetting, Unreachable."""
        until = time.monotonic() + self.timeout
        endpoint = self._answering(until)
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(zmq.Context())
            made = stack.enter_context(context.socket(zmq.SUB))
            _prepare(made, waiting)
            if self.keys is not None:
                _apply(made, self.keys)
            for topic in topics_of(pipelines):
                made.subscribe(topic)
            with made.get_monitor_socket(int(_OUTCOMES)) as monitor:
                made.connect(endpoint)
                self._await_handshake(monitor, endpoint, until)
                made.disable_monitor()
            stack.pop_all()
        return context, made

    def _answering(self, until: float) -> str:
        """The first endpoint at which a server listens. Raises: Unreachable."""
        if self.keys is None:
            return self.endpoints[0]
        while True:
            for endpoint in self.endpoints:
                if _listens(endpoint, min(_PROBE, until - time.monotonic())):
                    return endpoint
            if time.monotonic() + _PAUSE > until:
                known = ", ".join(self.endpoints) or "no endpoint"
                hint = "does the fleet run, and does it listen on the network (up --host)?"
                raise Unreachable(f"no answer from {known}: {hint}")
            time.sleep(_PAUSE)

    def _await_handshake(self, monitor: zmq.Socket[bytes], endpoint: str, until: float) -> None:
        """Raises: Unreachable."""
        refused = False
        while (left := until - time.monotonic()) > 0:
            if not monitor.poll(max(1, round(left * 1000))):
                break
            event = parse_monitor_message(monitor.recv_multipart())["event"]
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                return
            if event == zmq.Event.HANDSHAKE_FAILED_AUTH and not refused:
                refused, until = True, min(until, time.monotonic() + _KEY_DELAY)
        if refused and self.keys is not None:
            raise Unreachable(f"{endpoint} does not accept the keys of {self.keys.name}")
        raise Unreachable(f"no answer from {endpoint} within {self.timeout:g} s")


def read_keys(path: Path) -> SubscriberKeys:
    """The keys in a file. Raises: BadSetting."""
    try:
        return msgspec.json.decode(read_private(path), type=SubscriberKeys)
    except msgspec.MsgspecError as exc:
        raise BadSetting("keys", f"{path}: expected a file of 'streamfleet keys subscriber': {exc}") from exc
    except OSError as exc:
        raise BadSetting("keys", f"{path}: {exc.strerror}") from exc
    except ProtocolError as exc:  # others may read it
        raise BadSetting("keys", str(exc)) from exc


def write_keys(path: Path, keys: SubscriberKeys) -> None:
    """Write keys into a file that only its owner can read. Raises: OSError."""
    write_private(path, msgspec.json.format(msgspec.json.encode(keys)) + b"\n")


def _prepare(made: zmq.Socket[bytes], waiting: int) -> None:
    configure(made, largest=MAX_FRAME)
    made.rcvhwm = waiting


def _apply(made: zmq.Socket[bytes], keys: SubscriberKeys) -> None:
    try:
        CurveKeys(keys.server_key, KeyPair(keys.public_key, keys.secret_key)).apply(made)
    except (zmq.ZMQError, UnicodeEncodeError) as exc:
        raise BadSetting(
            "keys", f"expected three CURVE keys of 40 characters in those of {keys.name}"
        ) from exc


def _listens(endpoint: str, timeout: float) -> bool:
    """Whether a server takes connections there, as far as this host can tell. Raises: BadSetting."""
    try:
        address = urlsplit(endpoint)
        host, port = address.hostname or "", address.port or 0
    except ValueError as exc:
        raise BadSetting("keys", f"expected an endpoint as tcp://HOST:PORT, got {endpoint}") from exc
    if address.scheme != "tcp":
        raise BadSetting("keys", f"expected an endpoint as tcp://HOST:PORT, got {endpoint}")
    try:
        socket.create_connection((host, port), timeout=max(0.1, timeout)).close()
    except OSError:
        return False
    return True
