"""Who this device is to which broker, and how it becomes that with a join token.

The device makes its own key pair; only the public half leaves, over a connection that the token's one-time
key opens. The pair is on the disk before it is told to anybody, so an answer that gets lost costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from pathlib import Path
from typing import Annotated

import msgspec
import zmq
import zmq.asyncio
from msgspec import Meta
from zmq.utils.monitor import recv_monitor_message

from streamfleet_core.protocol.control_plane import Envelope, decode, encode
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.join_token import JoinToken
from streamfleet_core.protocol.messages import Enrol, Enrolled, Refused
from streamfleet_core.protocol.values import CurveKey, Fingerprint, Id, KeyPair
from streamfleet_core.runtime.curve import CurveKeys, new_key_pair, public_of
from streamfleet_core.runtime.private_file import read_private, write_private
from streamfleet_worker.agent.broker_link import dealer

logger = logging.getLogger(__name__)

ATTEMPT = 3.0  # seconds for one address to let us in and answer
PAUSE = 1.0  # seconds between two rounds over the addresses


class IdentityError(Exception):
    """This device is nobody, or cannot become who the token says."""


class _Pair(msgspec.Struct, frozen=True):
    public_key: CurveKey
    secret_key: CurveKey


class Identity(msgspec.Struct, frozen=True):
    """identity.json."""

    device: Id
    endpoints: Annotated[tuple[str, ...], Meta(min_length=1)]  # of the devices' ROUTER, all the same broker's
    broker_key: CurveKey  # public
    public_key: CurveKey
    secret_key: CurveKey
    api_fingerprint: Fingerprint = ""  # of the api's certificate, as the join token told it

    @property
    def keys(self) -> CurveKeys:
        """For sockets to the broker."""
        return CurveKeys(self.broker_key, KeyPair(self.public_key, self.secret_key))

    def reached_at(self, endpoint: str) -> Identity:
        """The same device, which tries this address first."""
        others = tuple(other for other in self.endpoints if other != endpoint)
        return msgspec.structs.replace(self, endpoints=(endpoint, *others))


def load(path: Path) -> Identity | None:
    """None where there is none. Raises: IdentityError, KeyExposed."""
    try:
        identity = msgspec.json.decode(read_private(path), type=Identity)
        if public_of(identity.secret_key) != identity.public_key:
            raise IdentityError(f"{path} is damaged (its keys are no pair): remove it and join again")
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, zmq.ZMQError) as exc:
        raise IdentityError(f"{path} is damaged ({exc}): remove it and join again") from exc
    return identity


async def join(path: Path, token: JoinToken, *, patience: float = 30.0) -> Identity:
    """Become the device of the token, or find that we are it already.

    Raises: IdentityError when the token is refused, when nobody answers for `patience` seconds, or when this
    directory is another device's.
    """
    known = load(path)
    if known is not None and known.broker_key == token.broker_key:
        if known.device != token.device:
            raise IdentityError(
                f"{path} says that this is device {known.device!r}, and the token is for {token.device!r}:"
                " give each device a --data-dir of its own"
            )
        return known
    pair = _own_pair(path.with_name("enrol.json"))
    context = zmq.asyncio.Context()
    try:
        endpoint = await _enrol_somewhere(context, token, pair, patience)
    finally:
        context.destroy(linger=0)
    identity = Identity(
        token.device,
        token.endpoints,
        token.broker_key,
        pair.public_key,
        pair.secret_key,
        token.api_fingerprint,
    ).reached_at(endpoint)
    write_private(path, msgspec.json.encode(identity))
    path.with_name("enrol.json").unlink()
    logger.info("%s: joined the fleet at %s", token.device, endpoint)
    return identity


def _own_pair(path: Path) -> _Pair:
    """The pair of an enrolment that did not come to its end, or a new one."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(read_private(path), type=_Pair)
    made = new_key_pair()
    pair = _Pair(made.public, made.secret)
    write_private(path, msgspec.json.encode(pair))
    return pair


class _Outcome(enum.Enum):
    ADMITTED = "admitted"
    REFUSED = "refused"
    SILENT = "silent"


async def _enrol_somewhere(
    context: zmq.asyncio.Context, token: JoinToken, pair: _Pair, patience: float
) -> str:
    """The address at which it worked."""
    one_time = CurveKeys(token.broker_key, KeyPair(public_of(token.secret_key), token.secret_key))
    own = CurveKeys(token.broker_key, KeyPair(pair.public_key, pair.secret_key))
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        for endpoint in token.endpoints:
            outcome = await _attempt(context, endpoint, one_time, Enrol(pair.public_key))
            if outcome is _Outcome.REFUSED:
                # Perhaps only the answer got lost the last time, and our own key is known already.
                outcome = await _attempt(context, endpoint, own, None)
            if outcome is _Outcome.ADMITTED:
                return endpoint
            if outcome is _Outcome.REFUSED:
                raise IdentityError(
                    f"the broker at {endpoint} refuses the join token of {token.device!r}: it has been used,"
                    " has expired, or a newer one was made."
                    f" Make another: streamfleet devices add {token.device}"
                )
        if asyncio.get_running_loop().time() + PAUSE >= deadline:
            raise IdentityError(
                f"no broker answers at {', '.join(token.endpoints)}: is it running, can this device reach the"
                " port, and is the token this broker's?"
            )
        await asyncio.sleep(PAUSE)


async def _attempt(
    context: zmq.asyncio.Context, endpoint: str, keys: CurveKeys, enrol: Enrol | None
) -> _Outcome:
    """Connect with these keys and say this, if anything."""
    socket = dealer(context, keys)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        socket.connect(endpoint)
        return await asyncio.wait_for(_converse(socket, monitor, enrol), ATTEMPT)
    except asyncio.TimeoutError:
        return _Outcome.SILENT
    except zmq.ZMQError as exc:
        raise IdentityError(f"the token names {endpoint!r}, which is no address: {exc}") from exc
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
        monitor.close(linger=0)
        socket.close(linger=0)


async def _converse(socket: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket, enrol: Enrol | None) -> _Outcome:
    handshake = await recv_monitor_message(monitor)
    if handshake["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return _Outcome.REFUSED
    if enrol is None:
        return _Outcome.ADMITTED
    await socket.send_multipart(encode(Envelope(enrol)))
    while True:
        try:
            answer = decode(await socket.recv_multipart()).message
        except BadMessage as exc:
            logger.warning("the broker sent a message that cannot be read: %s", exc)
            continue
        if isinstance(answer, Enrolled):
            return _Outcome.ADMITTED
        if isinstance(answer, Refused):
            logger.warning("the broker refused to enrol this device, %s: %s", answer.code, answer.detail)
            return _Outcome.REFUSED
