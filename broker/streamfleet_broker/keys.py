"""CURVE keys: the broker's own are stored in private files, all others are generated and handed over."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from streamfleet_broker.errors import BadKey
from streamfleet_core.protocol.errors import ProtocolError
from streamfleet_core.protocol.values import KeyPair
from streamfleet_core.runtime.curve import new_key_pair, parse_key_pair
from streamfleet_core.runtime.private_file import read_private, write_private

KEYS = ("keys/broker.key", "keys/operator.key")  # in the data directory


def load_or_make(path: Path) -> KeyPair:
    """Load the key pair in a file, or create it if there is none.

    Raises: BadKey.
    """
    if path.exists():
        return load(path)
    pair = new_key_pair()
    write_private(path, json.dumps({"public": pair.public, "secret": pair.secret}).encode())
    return pair


def load(path: Path) -> KeyPair:
    """Load the key pair in a file. Raises: BadKey."""
    try:
        return parse_key_pair(read_private(path))
    except FileNotFoundError as exc:
        raise BadKey(path, "there is none") from exc
    except OSError as exc:
        raise BadKey(path, f"but it cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise BadKey(path, str(exc)) from None
    except ProtocolError as exc:
        raise BadKey(path, str(exc)) from exc


class SystemRandomSource:
    """Generates the secrets of the fleet."""

    def session(self) -> bytes:
        """16 bytes."""
        return secrets.token_bytes(16)

    def ticket(self) -> str:
        """256 bits."""
        return secrets.token_urlsafe(32)

    def key_pair(self) -> KeyPair:
        """A new key pair."""
        return new_key_pair()
