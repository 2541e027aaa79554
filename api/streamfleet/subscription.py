"""Predictions over ZeroMQ, from the relay of a fleet or directly from a device."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload
from urllib.parse import urlsplit

import msgspec
import zmq
import zmq.asyncio
from typing_extensions import Self
from zmq.utils.monitor import parse_monitor_message

from streamfleet.complete.receiver import Receiver
from streamfleet.complete.subscription import AsyncCompleteSubscription, CompleteSubscription
from streamfleet.complete.values import Checkpoint
from streamfleet.defaults import DEFAULT_DATA_DIR
from streamfleet.errors import BadSetting, NothingReceived, Unreachable
from streamfleet.prediction import Inbox, Prediction, topics_of
from streamfleet.results import SubscriberKeys
from streamfleet_core.peers.selection import SelectionRequest
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.protocol.json_text import InvalidJson, decode_json
from streamfleet_core.protocol.limits import MAX_DATA_FRAME
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.client_socket import configure
from streamfleet_core.runtime.curve import CurveKeys
from streamfleet_core.runtime.private_file import read_private, write_private

CONNECT_TIMEOUT = 10.0  # seconds
PATIENCE = 10.0  # seconds
WAITING = 1000  # predictions in the receive queue
_LOCAL = "broker/predictions.ipc"
_POLL_MS = 200  # a closed subscription ends within this time
_CLOSE_TIMEOUT = 1.0  # seconds for the iterating thread to stop
_BATCH = 64  # predictions between two yields to the event loop
_PROBE_TIMEOUT = 3.0  # seconds per endpoint
_PROBE_PAUSE = 0.2  # seconds between two rounds of probes
_KEY_DELAY = 2.0  # seconds until a device accepts a new key
_HANDSHAKE_EVENTS = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.HANDSHAKE_FAILED_AUTH


@overload
def subscribe(
    *pipelines: str,
    since: None = None,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> Subscription: ...


@overload
def subscribe(
    *pipelines: str,
    since: Checkpoint | str | Path,
    start: Literal["now", "oldest"] = "now",
    patience: float = PATIENCE,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> CompleteSubscription: ...


def subscribe(
    *pipelines: str,
    since: Checkpoint | str | Path | None = None,
    start: Literal["now", "oldest"] = "now",
    patience: float = PATIENCE,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> Subscription | CompleteSubscription:
    """Subscribe to predictions of the fleet on this machine, or of another fleet with keys.

    The call returns when the connection is established and the keys are accepted. Afterwards the subscription
    reconnects automatically, and `Prediction.missing` counts what was lost.

    With `since`, nothing is lost without a word: the subscription yields each prediction once and in order,
    from the checkpoint on, and a `Gap` for what no device has any longer. What was missed is fetched from the
    devices, which keep the predictions of the last hour as far as they have room.

    Args:
        *pipelines: Ids of pipelines. Without any: all pipelines that the keys allow. With `since` also
            labels, as `site=hall-1,line=3`: all pipelines that have them, also those that get them later.
        since: Where to continue: a `Checkpoint`, or a file that the subscription itself keeps up to date. A
            file that does not exist is the start.
        start: Where a pipeline begins that the checkpoint does not have: with the next prediction, or with
            the oldest one that its device has kept.
        patience: Seconds of silence after which a device is away, and what only it has is declared gone.
        keys: A key file that `streamfleet keys subscriber NAME --to FILE` wrote, or the result of
            `Client.add_subscriber`. None: the fleet on this machine, which needs no keys.
        data_dir: The data directory of the fleet on this machine.
        timeout: Seconds without a prediction after which NothingReceived is raised. None: wait until one
            arrives.
        connect_timeout: Seconds to wait for the connection.
        waiting: The size of the receive queue, in predictions. If it is full, the newest are dropped and
            counted, or fetched again with `since`.

    Raises:
        Unreachable: No connection within `connect_timeout`, or the keys were not accepted.
        BadSetting: The key file or the checkpoint is invalid.

    Example:
        ```python
        with streamfleet.subscribe("door", timeout=30) as predictions:
            for prediction in predictions:
                if prediction.missing:
                    print("lost", prediction.missing)
                print(prediction.pipeline_id, prediction.frame_id, prediction.detections)

        with streamfleet.subscribe("door", since="door.checkpoint") as predictions:
            for each in predictions:
                if isinstance(each, streamfleet.Gap):
                    print(each)
                else:
                    count(each)
        ```
    """
    checkpoint, file = _checkpoint_of(since)
    chosen = _Chosen.of(pipelines)
    target = _Target.of(keys, Path(data_dir).expanduser(), connect_timeout)
    if checkpoint is None:
        return Subscription(*target.connected(chosen.alone(), waiting), timeout)
    context, sub_socket = target.connected(chosen.topics, waiting)
    receiver = chosen.receiver(sub_socket, checkpoint, oldest=start == "oldest", patience=patience)
    _await_selection(context, sub_socket, receiver, connect_timeout)
    return CompleteSubscription(context, sub_socket, receiver, file=file, timeout=timeout)


@overload
async def subscribe_async(
    *pipelines: str,
    since: None = None,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> AsyncSubscription: ...


@overload
async def subscribe_async(
    *pipelines: str,
    since: Checkpoint | str | Path,
    start: Literal["now", "oldest"] = "now",
    patience: float = PATIENCE,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> AsyncCompleteSubscription: ...


async def subscribe_async(
    *pipelines: str,
    since: Checkpoint | str | Path | None = None,
    start: Literal["now", "oldest"] = "now",
    patience: float = PATIENCE,
    keys: SubscriberKeys | str | Path | None = None,
    data_dir: str | Path = DEFAULT_DATA_DIR,
    timeout: float | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    waiting: int = WAITING,
) -> AsyncSubscription | AsyncCompleteSubscription:
    """Subscribe to predictions with asyncio: see `subscribe`.

    Example:
        ```python
        async with await streamfleet.subscribe_async("door", timeout=30) as predictions:
            async for prediction in predictions:
                print(prediction.pipeline_id, prediction.frame_id)
        ```
    """
    checkpoint, file = await asyncio.to_thread(_checkpoint_of, since)
    chosen = _Chosen.of(pipelines)
    target = _Target.of(keys, Path(data_dir).expanduser(), connect_timeout)
    if checkpoint is None:
        connected = await asyncio.to_thread(target.connected, chosen.alone(), waiting)
        return AsyncSubscription(*connected, timeout)
    context, sub_socket = await asyncio.to_thread(target.connected, chosen.topics, waiting)
    receiver = chosen.receiver(sub_socket, checkpoint, oldest=start == "oldest", patience=patience)
    await asyncio.to_thread(_await_selection, context, sub_socket, receiver, connect_timeout)
    return AsyncCompleteSubscription(context, sub_socket, receiver, file=file, timeout=timeout)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What to subscribe to: pipelines by their ids, and those that have labels."""

    ids: tuple[str, ...]
    selectors: tuple[str, ...]  # as site=hall-1,line=3

    @classmethod
    def of(cls, names: tuple[str, ...]) -> _Chosen:
        """Tell ids from labels. Raises: BadSetting."""
        selectors = tuple(dict.fromkeys(name for name in names if "=" in name))
        for text in selectors:
            request = SelectionRequest(text, "00000000")
            if not text.isascii() or SelectionRequest.parse(request.topic) != request:
                expected = "labels as key=value, with commas between, of at most 100 characters"
                raise BadSetting("pipelines", f"expected {expected}, got {text[:120]!r}")
        return cls(tuple(name for name in names if "=" not in name), selectors)

    @property
    def topics(self) -> tuple[str, ...] | None:
        """The pipelines to subscribe to at once; None: no topic at all."""
        return None if self.selectors and not self.ids else self.ids

    def alone(self) -> tuple[str, ...]:
        """The ids, without labels. Raises: BadSetting."""
        if self.selectors:
            raise BadSetting("pipelines", "expected since=… beside labels: without it, name the pipelines")
        return self.ids

    def receiver(
        self, sub_socket: zmq.Socket[bytes], checkpoint: Checkpoint, *, oldest: bool, patience: float
    ) -> Receiver:
        """Create a receiver of these."""
        return Receiver(
            sub_socket, self.ids, checkpoint, oldest=oldest, patience=patience, selectors=self.selectors
        )


def _await_selection(
    context: zmq.Context[zmq.Socket[bytes]],
    sub_socket: zmq.Socket[bytes],
    receiver: Receiver,
    timeout: float,
) -> None:
    """Wait until all pipelines with the labels are known. Raises: BadSetting, Unreachable."""
    until = time.monotonic() + timeout
    try:
        while not receiver.has_selected:
            now = time.monotonic()
            if now > until:
                raise Unreachable(
                    f"no answer about labels within {timeout:g} s: the broker is older, or this is the socket"
                    " of a device, which knows no labels"
                )
            wait = receiver.wait_ms(now)
            if wait and sub_socket.poll(wait):
                receiver.read(time.monotonic())
    except BaseException:
        sub_socket.close(linger=0)
        context.term()
        raise


def _checkpoint_of(since: Checkpoint | str | Path | None) -> tuple[Checkpoint | None, Path | None]:
    """The checkpoint, and the file that keeps it. Raises: BadSetting."""
    if since is None or isinstance(since, Checkpoint):
        return since, None
    file = Path(since).expanduser()
    return Checkpoint.load(file), file


def connect(
    *pipelines: str, keys: SubscriberKeys | None, data_dir: Path, waiting: int = WAITING
) -> tuple[zmq.Context[zmq.Socket[bytes]], zmq.Socket[bytes]]:
    """Return a context and a connected SUB socket: for who must see also what `subscribe` drops.

    Raises: BadSetting, Unreachable.
    """
    return _Target.of(keys, data_dir, CONNECT_TIMEOUT).connected(pipelines, waiting)


class Subscription:
    """An iterator of predictions, ordered within each pipeline. Close it, or use it in a `with` block.

    One thread may iterate at a time. Any thread may close it, which ends the iteration within 0.2 s.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], sub_socket: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self._receiver = _Receiver(context, sub_socket, timeout)
        self._in_use = threading.Lock()  # a ZeroMQ socket is not thread-safe

    @property
    def unreadable(self) -> int:
        """The number of received messages that were not predictions."""
        return self._receiver.inbox.unreadable

    def __iter__(self) -> Iterator[Prediction]:
        return self

    def __next__(self) -> Prediction:
        """Wait for the next prediction. Raises: StopIteration when it is closed, NothingReceived."""
        started = time.monotonic()
        with self._in_use:
            while not self._receiver.is_closed:
                found = self._receiver.take()
                if found is not None:
                    return found
                self._receiver.socket.poll(self._receiver.poll_ms(started))
        raise StopIteration

    def close(self) -> None:
        """Close the subscription. Closing it again has no effect."""
        self._receiver.is_closed = True
        if self._in_use.acquire(timeout=_CLOSE_TIMEOUT):
            try:
                self._receiver.close()
            finally:
                self._in_use.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class AsyncSubscription:
    """An asynchronous iterator of predictions: see `Subscription`. Any task may close it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], sub_socket: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self._receiver = _Receiver(context, sub_socket, timeout)
        self._poll = zmq.asyncio.Poller()
        self._poll.register(sub_socket, zmq.POLLIN)
        self._in_use = asyncio.Lock()
        self._delivered = 0  # predictions

    @property
    def unreadable(self) -> int:
        """The number of received messages that were not predictions."""
        return self._receiver.inbox.unreadable

    def __aiter__(self) -> AsyncIterator[Prediction]:
        return self

    async def __anext__(self) -> Prediction:
        """Wait for the next prediction. Raises: StopAsyncIteration when it is closed, NothingReceived."""
        started = time.monotonic()
        async with self._in_use:
            while not self._receiver.is_closed:
                found = self._receiver.take()
                if found is None:
                    await self._poll.poll(self._receiver.poll_ms(started))
                    continue
                self._delivered += 1
                if self._delivered % _BATCH == 0:
                    await asyncio.sleep(0)
                return found
        raise StopAsyncIteration

    async def close(self) -> None:
        """Close the subscription. Closing it again has no effect."""
        self._receiver.is_closed = True
        async with self._in_use:  # the iteration ends within one poll
            self._receiver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


class _Receiver:
    """The socket of one subscription, and the order of its messages."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], sub_socket: zmq.Socket[bytes], timeout: float | None
    ) -> None:
        self.socket = sub_socket
        self.inbox = Inbox()
        self.is_closed = False
        self._context = context
        self._timeout = timeout

    def take(self) -> Prediction | None:
        """Return the next prediction in the receive queue, if there is one."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            found = self.inbox.receive(frames, time.monotonic())
            if found is not None:
                return found

    def poll_ms(self, started: float) -> int:
        """Return the milliseconds to poll for the next prediction. Raises: NothingReceived."""
        if self._timeout is None:
            return _POLL_MS
        left = started + self._timeout - time.monotonic()
        if left <= 0:
            raise NothingReceived("predictions", self._timeout)
        return min(_POLL_MS, max(1, round(left * 1000)))

    def close(self) -> None:
        """Close the socket and its context."""
        self.socket.close(linger=0)
        self._context.term()


@dataclass(frozen=True, slots=True)
class _Target:
    """The endpoints of a publisher, and the keys for it."""

    endpoints: tuple[str, ...]
    keys: SubscriberKeys | None
    timeout: float  # seconds to wait for the connection

    @classmethod
    def of(cls, keys: SubscriberKeys | str | Path | None, data_dir: Path, timeout: float) -> _Target:
        """Create a target from the arguments of `subscribe`. Raises: BadSetting, Unreachable."""
        if keys is None:
            path = data_dir / _LOCAL
            if not path.exists():
                raise Unreachable(f"no fleet runs on this machine: expected {path}")
            return cls((f"ipc://{path}",), None, timeout)
        if not isinstance(keys, SubscriberKeys):
            keys = read_keys(Path(keys).expanduser())
        return cls(keys.endpoints, keys, timeout)

    def connected(
        self, pipelines: tuple[str, ...] | None, waiting: int
    ) -> tuple[zmq.Context[zmq.Socket[bytes]], zmq.Socket[bytes]]:
        """Return a context and a connected SUB socket. Raises: BadSetting, Unreachable.

        `pipelines`: none of them: all; None: no topic yet.
        """
        until = time.monotonic() + self.timeout
        endpoint = self._reachable_endpoint(until)
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(zmq.Context())
            sub_socket = stack.enter_context(context.socket(zmq.SUB))
            _prepare(sub_socket, waiting)
            if self.keys is not None:
                _apply(sub_socket, self.keys)
            for topic in () if pipelines is None else topics_of(pipelines):
                sub_socket.subscribe(topic)
            with sub_socket.get_monitor_socket(int(_HANDSHAKE_EVENTS)) as monitor:
                sub_socket.connect(endpoint)
                self._await_handshake(monitor, endpoint, until)
                sub_socket.disable_monitor()
            stack.pop_all()
        return context, sub_socket

    def _reachable_endpoint(self, until: float) -> str:
        """Return the first endpoint at which a server listens. Raises: Unreachable."""
        if self.keys is None:
            return self.endpoints[0]
        while True:
            for endpoint in self.endpoints:
                # Each gets its share of the time: a network that swallows packets hides no other.
                share = (until - time.monotonic()) / len(self.endpoints)
                if _listens(endpoint, min(_PROBE_TIMEOUT, share)):
                    return endpoint
            if time.monotonic() + _PROBE_PAUSE > until:
                known = ", ".join(self.endpoints) or "no endpoint"
                hint = "does the fleet run, and does it listen on the network (up --host)?"
                raise Unreachable(f"no answer from {known}: {hint}")
            time.sleep(_PROBE_PAUSE)

    def _await_handshake(self, monitor: zmq.Socket[bytes], endpoint: str, until: float) -> None:
        """Wait until the CURVE handshake has succeeded. Raises: Unreachable."""
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
    """Read a key file. Raises: BadSetting."""
    try:
        return decode_json(read_private(path), SubscriberKeys)
    except InvalidJson as exc:
        raise BadSetting("keys", f"{path}: expected a file of 'streamfleet keys subscriber': {exc}") from exc
    except OSError as exc:
        raise BadSetting("keys", f"{path}: {exc.strerror}") from exc
    except ProtocolError as exc:  # other users can read the file
        raise BadSetting("keys", str(exc)) from exc


def write_keys(path: Path, keys: SubscriberKeys) -> None:
    """Write a key file that only its owner can read. Raises: OSError."""
    write_private(path, msgspec.json.format(msgspec.json.encode(keys)) + b"\n")


def _prepare(sub_socket: zmq.Socket[bytes], waiting: int) -> None:
    configure(sub_socket, largest=MAX_DATA_FRAME)
    sub_socket.rcvhwm = waiting


def _apply(sub_socket: zmq.Socket[bytes], keys: SubscriberKeys) -> None:
    try:
        CurveKeys(keys.server_key, KeyPair(keys.public_key, keys.secret_key)).apply(sub_socket)
    except (zmq.ZMQError, UnicodeEncodeError) as exc:
        raise BadSetting(
            "keys", f"expected three CURVE keys of 40 characters for {keys.name}, got others"
        ) from exc


def _listens(endpoint: str, timeout: float) -> bool:
    """Return whether a server accepts TCP connections at this endpoint. Raises: BadSetting."""
    try:
        address = urlsplit(endpoint)
        host, port = address.hostname or "", address.port or 0
    except ValueError as exc:
        raise BadSetting("keys", f"expected an endpoint of the form tcp://HOST:PORT, got {endpoint}") from exc
    if address.scheme != "tcp":
        raise BadSetting("keys", f"expected an endpoint of the form tcp://HOST:PORT, got {endpoint}")
    try:
        socket.create_connection((host, port), timeout=max(0.1, timeout)).close()
    except OSError:
        return False
    return True
