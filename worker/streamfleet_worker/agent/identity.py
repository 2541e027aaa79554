"""The identity of this device, and the enrolment with a join token that creates it.

The device generates its own key pair. Only the public key is sent, over a connection with the token's
one-time key. The pair is on the disk before it is sent, so a lost answer does no harm.
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
from streamfleet_core.protocol.json_text import InvalidJson, decode_json
from streamfleet_core.protocol.messages import Enrol, Enrolled, Refused
from streamfleet_core.protocol.values import CurveKey, Fingerprint, Id, KeyPair
from streamfleet_core.runtime.curve import CurveKeys, new_key_pair, public_of
from streamfleet_core.runtime.private_file import read_private, write_private
from streamfleet_core.runtime.small_file import FileTooLarge
from streamfleet_worker.agent.broker_link import dealer

logger = logging.getLogger(__name__)

ATTEMPT_TIMEOUT = 3.0  # seconds for one address to accept us and answer
REJOIN_TIMEOUT = 5.0  # seconds, if there is a key already: pipelines may wait to start without a broker
PAUSE = 1.0  # seconds between two rounds through the addresses


class IdentityError(Exception):
    """This device has no identity, or cannot enrol with the token."""


class _Pair(msgspec.Struct, frozen=True):
    public_key: CurveKey
    secret_key: CurveKey


class Identity(msgspec.Struct, frozen=True):
    """The content of identity.json."""

    device: Id
    # Of the ROUTER for devices, all of the same broker.
    endpoints: Annotated[tuple[str, ...], Meta(min_length=1)]
    broker_key: CurveKey  # public
    public_key: CurveKey
    secret_key: CurveKey
    api_fingerprint: Fingerprint = ""  # of the API's certificate, from the join token
    joined_with: CurveKey | None = None  # the public key of the token; None: not known

    @property
    def keys(self) -> CurveKeys:
        """The keys for sockets to the broker."""
        return CurveKeys(self.broker_key, KeyPair(self.public_key, self.secret_key))

    def at(self, endpoints: tuple[str, ...]) -> Identity:
        """The same identity with exactly these addresses."""
        return msgspec.structs.replace(self, endpoints=endpoints)

    def reached_at(self, endpoint: str) -> Identity:
        """The same identity with this address first."""
        others = tuple(other for other in self.endpoints if other != endpoint)
        return msgspec.structs.replace(self, endpoints=(endpoint, *others))


def load(path: Path) -> Identity | None:
    """Load the identity; None if there is none. Raises: IdentityError, KeyExposed."""
    try:
        identity = decode_json(read_private(path), Identity)
        if public_of(identity.secret_key) != identity.public_key:
            raise IdentityError(f"{path} is damaged (its keys are not a pair): remove it and join again")
    except FileNotFoundError:
        return None
    except (FileTooLarge, InvalidJson, zmq.ZMQError) as exc:
        raise IdentityError(f"{path} is damaged ({exc}): remove it and join again") from exc
    return identity


async def join(path: Path, token: JoinToken, *, timeout: float = 30.0) -> Identity:
    """Enrol as the device of the token, unless this was done already with this token.

    Another token of the same fleet makes a new key: the old one may be quarantined or removed. If it does
    not, because it was used elsewhere or no broker answers, the old key is tried on.

    Raises: IdentityError if the token is refused, if no broker answers within `timeout` seconds, or if this
    directory belongs to another device.
    """
    known = load(path)
    if known is not None and known.broker_key == token.broker_key:
        if known.device != token.device:
            raise IdentityError(
                f"{path}: expected device {token.device!r} of the token, got {known.device!r}:"
                " use a separate --data-dir for each device"
            )
        given = public_of(token.secret_key)
        if known.joined_with == given:
            return known
        if known.joined_with is None:  # an earlier version joined; another token is recognized from now on
            known = msgspec.structs.replace(known, joined_with=given)
            write_private(path, msgspec.json.encode(known))
            return known
        try:
            return await _join(path, token, min(timeout, REJOIN_TIMEOUT))
        except IdentityError as exc:
            logger.warning("%s: goes on with the key that it has: %s", known.device, exc)
            return known
    return await _join(path, token, timeout)


async def _join(path: Path, token: JoinToken, timeout: float) -> Identity:
    """Enrol with a new key. Raises: IdentityError."""
    pair = _own_pair(path.with_name("enrol.json"))
    context = zmq.asyncio.Context()
    try:
        endpoint = await _enrol(context, token, pair, timeout)
    finally:
        context.destroy(linger=0)
    identity = Identity(
        token.device,
        token.endpoints,
        token.broker_key,
        pair.public_key,
        pair.secret_key,
        token.api_fingerprint,
        public_of(token.secret_key),
    ).reached_at(endpoint)
    write_private(path, msgspec.json.encode(identity))
    path.with_name("enrol.json").unlink()
    logger.info("%s: joined the fleet at %s", token.device, endpoint)
    return identity


def _own_pair(path: Path) -> _Pair:
    """The key pair of an unfinished enrolment, or a new one."""
    with contextlib.suppress(FileNotFoundError, FileTooLarge, InvalidJson):
        return decode_json(read_private(path), _Pair)
    made = new_key_pair()
    pair = _Pair(made.public, made.secret)
    write_private(path, msgspec.json.encode(pair))
    return pair


class _Outcome(enum.Enum):
    ADMITTED = "admitted"
    REFUSED = "refused"
    SILENT = "silent"


async def _enrol(context: zmq.asyncio.Context, token: JoinToken, pair: _Pair, timeout: float) -> str:
    """Try all addresses until one admits us, and return it. Raises: IdentityError."""
    one_time = CurveKeys(token.broker_key, KeyPair(public_of(token.secret_key), token.secret_key))
    own = CurveKeys(token.broker_key, KeyPair(pair.public_key, pair.secret_key))
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        for endpoint in token.endpoints:
            outcome = await _attempt(context, endpoint, one_time, Enrol(pair.public_key))
            if outcome is _Outcome.REFUSED:
                # Perhaps only the last answer was lost, and the broker knows our own key already.
                outcome = await _attempt(context, endpoint, own, None)
            if outcome is _Outcome.ADMITTED:
                return endpoint
            if outcome is _Outcome.REFUSED:
                raise IdentityError(
                    f"the broker at {endpoint} refuses the join token of {token.device!r}: it has been used,"
                    " has expired, or was replaced by a newer one."
                    f" Create another: streamfleet devices add {token.device}"
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
    """Connect with these keys, and send this message, if any."""
    socket = dealer(context, keys)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        socket.connect(endpoint)
        return await asyncio.wait_for(_exchange(socket, monitor, enrol), ATTEMPT_TIMEOUT)
    except asyncio.TimeoutError:
        return _Outcome.SILENT
    except zmq.ZMQError as exc:
        raise IdentityError(f"expected a ZeroMQ address in the token, got {endpoint!r}: {exc}") from exc
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
        monitor.close(linger=0)
        socket.close(linger=0)


async def _exchange(socket: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket, enrol: Enrol | None) -> _Outcome:
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
            logger.warning("the broker sent an invalid message: %s", exc)
            continue
        if isinstance(answer, Enrolled):
            return _Outcome.ADMITTED
        if isinstance(answer, Refused) and answer.code == "not_leader":
            return _Outcome.SILENT  # another broker enrols, and this one may do so later
        if isinstance(answer, Refused):
            logger.warning("the broker refused to enrol this device, %s: %s", answer.code, answer.detail)
            return _Outcome.REFUSED
