"""Hides secrets in URL paths: some cameras expect users, passwords and tokens there.

    /user=admin&password=…&channel=1.sdp   only values that identify a stream are shown
    /token/…/live   /h264/admin/…/ch1      hidden: segments after the name of a secret or a common user name
    /0/admin:…/main   /AbCdEf123456        hidden: pairs with a colon, and segments that look random

No list is complete, so it tends to hide too much. It is idempotent.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

_STRONG = frozenset(
    (
        *("token", "accesstoken", "authtoken", "sessiontoken", "idtoken", "refreshtoken", "apikey"),
        *("apitoken", "accesskey", "secretkey", "streamkey", "authkey", "privatekey", "signkey"),
        *("pass", "passwd", "password", "passphrase", "passcode", "pwd", "psw"),
        *("secret", "clientsecret", "auth", "authorization", "authentication", "jwt", "bearer"),
        *("signature", "credential", "credentials", "hmac", "sas", "tok", "otp"),
        *("secure", "signed", "passkey", "verifycode", "verificationcode"),
    )
)
# Labels of secrets that also occur in ordinary names.
_WEAK = frozenset(
    (
        *("key", "keys", "user", "usr", "username", "usrname", "userid"),
        *("login", "loginname", "loginuse", "loginpas", "account", "uid", "name"),
        *("pw", "pin", "sig", "sign", "hash", "session", "sessionid"),
        *("sid", "ticket", "nonce", "access", "code"),
    )
)
_LABELS = _STRONG | _WEAK
_ENDINGS = ("token", "password", "passwd", "passcode", "secret", "apikey", "accesskey", "streamkey")
_PREFIXES = frozenset({"key", "pin", "pw", "sid", "session", "sig", "ticket", "user", "usr", "login", "uid"})
_ACCOUNTS = frozenset(
    (
        *("admin", "admin1", "administrator", "root", "operator", "guest", "viewer"),
        *("service", "supervisor", "ubnt", "user1", "666666", "888888"),
    )
)
_HARMLESS_KEYS = frozenset(
    (
        *("channel", "channelid", "chn", "ch", "chid", "stream", "streamid"),
        *("streamtype", "subtype", "type", "profile", "resolution", "res", "fps"),
        *("width", "height", "quality", "bitrate", "codec", "camera", "cam"),
        *("cameraid", "track", "trackid", "unicast", "proto", "rate", "size"),
        *("video", "audio"),
    )
)
_NUMBER = re.compile(
    r"[0-9]{1,6}(\.[a-z0-9]{1,4})?|[0-9]{1,5}x[0-9]{1,5}|main|sub|live|h26[45]|mjpe?g|tcp|udp"
)
_USUAL = re.compile(  # names of streams, which are shown even after a secret
    r"(ch|cam|camera|channel|stream|track|video|media|main|sub|live|profile|mjpe?g|h26[45]|hevc|mpeg4|av|hls|dash|"
    r"index|playlist|master|chunklist|manifest|image|snapshot)s?[-_]?[0-9]{0,3}(\.[a-z0-9]{2,5})?|[0-9]{1,2}"
)
_FILE = re.compile(r"[a-z]{1,16}[0-9]{0,3}\.(cgi|m3u8|mpd|sdp|amp|mjpg|mp4|ts|asp|php|html?)")
_SEPARATORS = re.compile(r"([&;,?_])")
_WORDS = re.compile(r"[-_.~]")
_CHUNKS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_HEX = re.compile(r"[0-9A-Fa-f]+")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def hidden_in_path(path: str) -> str:
    """Replace possible secrets in a path by HIDDEN."""
    shown: list[str] = []
    after = 0  # 2: a secret follows; 1: it may continue
    for segment in path.split("/"):
        if not segment:
            shown.append(segment)
            continue
        text = decoded(segment)
        if segment == HIDDEN or _is_secret_after(text, after):
            shown.append(HIDDEN)
            after = 2 if _is_account(text) or _is_label(text) else min(after, 1)
        elif _is_label(text):
            shown.append(segment)
            after = 2
        elif "=" in text:
            shown.append(hidden_pairs(segment))
            after = 1 if shown[-1].endswith(HIDDEN) else 0
        elif _is_account(text) or _is_secret(text):
            shown.append(HIDDEN)
            after = 2 if _is_account(text) else 0
        else:
            shown.append(segment)
            after = 0
    return "/".join(shown)


def hidden_pairs(text: str) -> str:
    """Hide the values of `key=value` pairs, except numbers of harmless keys."""
    if decoded(text) != text:
        return HIDDEN
    pieces = _SEPARATORS.split(text)
    hides = False
    for place in range(0, len(pieces), 2):
        piece = pieces[place]
        key, equals, value = piece.partition("=")
        if not piece or piece == HIDDEN:
            continue
        if not equals:
            if hides or _is_secret(piece):
                pieces[place] = HIDDEN
        elif not (_plain(key) in _HARMLESS_KEYS and _NUMBER.fullmatch(value.lower())):
            hides = True
            pieces[place] = f"{key}={HIDDEN}" if _plain(key) in _LABELS | _HARMLESS_KEYS else HIDDEN
        else:
            hides = False
    return "".join(pieces)


def has_secret_pair(text: str) -> bool:
    """Whether it has a `key=value` pair whose key names a secret."""
    return any(
        _plain(piece.partition("=")[0].rsplit("/", 1)[-1]) in _LABELS
        for piece in _SEPARATORS.split(decoded(text))
        if "=" in piece
    )


def decoded(text: str) -> str:
    """Decode percent-encoding, up to three times."""
    for _ in range(3):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _is_secret_after(text: str, after: int) -> bool:
    """Whether a segment is secret because of the segment before it."""
    word = text.lower()
    if after == 2:
        return _FILE.fullmatch(word) is None
    return after == 1 and _USUAL.fullmatch(word) is None


def _is_label(text: str) -> bool:
    if "=" in text:
        return False
    whole, last = _plain(text), _plain(_WORDS.split(text)[-1])
    return whole in _LABELS or last in _LABELS - {"name", "code"} or whole.endswith(_ENDINGS)


def _is_account(text: str) -> bool:
    return text.lower() in _ACCOUNTS


def _is_secret(text: str) -> bool:
    """Whether a segment is secret in any position."""
    if any(sign in text for sign in ":@?#/"):
        return True
    words = _WORDS.split(text)
    return (
        any(_plain(word) in _STRONG for word in words)
        or _plain(words[0]) in _PREFIXES
        or _plain(text).startswith(("password", "passwd", "token", "secret", "eyj"))
        or _UUID.search(text) is not None
        or any(_is_random(word) for word in words)
    )


def _is_random(word: str) -> bool:
    """Whether a word looks random. Names consist of few and long parts."""
    if len(word) >= 40:
        return True
    if len(word) >= 16 and _HEX.fullmatch(word) and not word.isdigit() and not word.isalpha():
        return True
    chunks = _CHUNKS.findall(word)
    letters = [chunk for chunk in chunks if not chunk.isdigit()]
    if len(word) >= 10 and len(letters) >= 3 and sum(map(len, letters)) <= 2.5 * len(letters):
        return True
    return len(word) >= 24 and len(chunks) >= 4


def _plain(word: str) -> str:
    """Keep letters and digits, in lower case: `Api-Key` becomes `apikey`."""
    return "".join(letter for letter in word.lower() if letter.isalnum())
