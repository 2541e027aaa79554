"""What to answer to `WWW-Authenticate`: Basic (RFC 7617) and Digest (RFC 7616), in RTSP as in HTTP. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_SCHEME = r"(?P<scheme>[A-Za-z]+)(?=\s+[\w-]+\s*=|\s*(?:,|$))"
_PARAMETER = r'(?P<name>[\w-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,]*))'
_TOKEN = re.compile(f"{_SCHEME}|{_PARAMETER}")
_HASHES = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}  # the better first


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password, as they are when nothing is percent-encoded."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authorization:
    """The value of an `Authorization` header, and the name of its method for people."""

    method: str  # Basic, MD5, SHA-256
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Challenge:
    scheme: str  # lower case
    parameters: dict[str, str]  # names in lower case


def authorization(
    challenges: Iterable[str], login: Login, *, verb: str, target: str, nonce: str
) -> Authorization | None:
    """The best answer to what the server offers, `nonce` being ours. None: it offers none that is known."""
    offered = [challenge for text in challenges for challenge in _parsed(text)]
    for algorithm in _HASHES:
        for challenge in offered:
            if challenge.scheme == "digest" and _algorithm(challenge) == algorithm:
                value = _digest(challenge.parameters, algorithm, login, verb=verb, target=target, nonce=nonce)
                if value is not None:
                    return Authorization(algorithm, value)
    if any(challenge.scheme == "basic" for challenge in offered):
        pair = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        return Authorization("Basic", f"Basic {pair}")
    return None


def _parsed(text: str) -> list[_Challenge]:
    """The challenges of one header, which may hold several."""
    found: list[_Challenge] = []
    for token in _TOKEN.finditer(text):
        if token["scheme"] is not None:
            found.append(_Challenge(token["scheme"].lower(), {}))
        elif found:
            quoted = token["quoted"]
            value = token["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters[token["name"].lower()] = value
    return found


def _algorithm(challenge: _Challenge) -> str:
    return challenge.parameters.get("algorithm", "MD5").upper().removesuffix("-SESS")


def _digest(
    given: dict[str, str], algorithm: str, login: Login, *, verb: str, target: str, nonce: str
) -> str | None:
    offered = [one.strip().lower() for one in given.get("qop", "").split(",") if one.strip()]
    if offered and "auth" not in offered:
        return None  # `auth-int` alone, which no camera asks for

    def hashed(*parts: str) -> str:
        return _HASHES[algorithm](":".join(parts).encode()).hexdigest()

    realm, theirs = given.get("realm", ""), given.get("nonce", "")
    secret = hashed(login.user, realm, login.password)
    if given.get("algorithm", "").upper().endswith("-SESS"):
        secret = hashed(secret, theirs, nonce)
    # Section 3.4.1 of RFC 7616; without a qop as in section 3.2.2.1 of RFC 2617.
    proof = ("00000001", nonce, "auth") if offered else ()
    fields = {
        "username": login.user,
        "realm": realm,
        "nonce": theirs,
        "uri": target,
        "response": hashed(secret, theirs, *proof, hashed(verb, target)),
    }
    text = ", ".join(f'{name}="{_escaped(value)}"' for name, value in fields.items())
    if "algorithm" in given:
        text += f", algorithm={given['algorithm']}"
    if "opaque" in given:
        text += f', opaque="{_escaped(given["opaque"])}"'
    if offered:
        text += f', qop=auth, nc=00000001, cnonce="{nonce}"'
    return f"Digest {text}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
