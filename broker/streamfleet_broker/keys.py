"""CURVE keys: the broker's own as files that only their owner may read, all others made and handed over."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import zmq

from streamfleet_broker.errors import BadKey
from streamfleet_broker.protocol.errors import ProtocolError
from streamfleet_broker.protocol.keyfile import read_private, write_private
from streamfleet_broker.supply import KeyPair


def new_key_pair() -> KeyPair:
    """A key pair of its own."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def load_or_make(path: Path) -> KeyPair:
    """The key pair in a file; it is made when there is none.

    Raises: BadKey.
    """
    try:
        return _parse(path, read_private(path))
    except FileNotFoundError:
        pair = new_key_pair()
        write_private(path, json.dumps({"public": pair.public, "secret": pair.secret}).encode())
        return pair
    except ProtocolError as exc:
        raise BadKey(path, str(exc)) from exc


def _parse(path: Path, content: bytes) -> KeyPair:
    try:
        plain = json.loads(content)
        pair = KeyPair(plain["public"], plain["secret"])
        public = zmq.curve_public(pair.secret.encode("ascii")).decode("ascii")
    except (ValueError, KeyError, TypeError, AttributeError, zmq.ZMQError) as exc:
        # The text of the error may hold the secret.
        raise BadKey(path, f"came something else ({type(exc).__name__})") from None
    if public != pair.public:
        raise BadKey(path, "its public half belongs to another secret half")
    return pair


class RandomSupply:
    """What the fleet needs that must not be guessed."""

    def session(self) -> bytes:
        """16 bytes."""
        return secrets.token_bytes(16)

    def ticket(self) -> str:
        """256 bits."""
        return secrets.token_urlsafe(32)

    def key_pair(self) -> KeyPair:
        """A new key pair."""
        return new_key_pair()
