"""What a source's reference says: its kind of source, who can open it, and what of it may be shown."""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from streamfleet_core.protocol.limits import MAX_HOST, MAX_PORT, MAX_REASON, MAX_SHOWN, MAX_TEXT
from streamfleet_core.protocol.path_secrets import (
    HIDDEN,
    decoded,
    has_secret_pair,
    hidden_in_path,
    hidden_pairs,
)
from streamfleet_core.protocol.values import SourceSpec

TEST_PATTERN = "TestPatternStreamProducer"  # the original's name
WEBCAM = "webcam"  # the original's name of the camera 0
SCENE = "scene://"  # `scene://conveyor/1`: drawn by the device, the number says which of its kind
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "rtp", "tcp")  # of the URLs that play
EXPECTED = (
    f"a path, a URL of {', '.join(SCHEMES)}, the index of a camera, {SCENE}conveyor/NUMBER or {TEST_PATTERN}"
)
ENCODED = (
    "a URL in which the user and the password are percent-encoded: %23 for #, %3F for ?, %2F for /, "
    "%40 for @, %5B for [, %5D for ], %20 for a space; %40 also for an @ behind the host"
)
WHOLE = f"the whole address: {HIDDEN} stands for a part of it that is not shown"

_UNPARSEABLE = "<unparseable source>"
_WITHOUT_HOST = ("udp", "rtp")  # of the schemes: a port of the device may be meant
_REMEMBERED = 16_384  # references whose shown form is kept: a list of a large fleet asks for each of them
_SCENE = re.compile(SCENE + r"conveyor/([1-9][0-9]{0,5})")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_SCHEME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
_LONGEST_SCHEME = 32  # letters, for a reader of texts
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_ILLEGAL = re.compile(r"""[\s"<>\\^`{|}\x00-\x1f\x7f]""")  # in an authority, RFC 3986
_BETWEEN = re.compile(r"""([\s"<>]+)""")  # what parts a text into words, one of which may be an address
_BEHIND = "'.,:;)]}"  # signs of the text, and not of the address before them


class SourceKind(enum.Enum):
    """Where the frames of a reference come from."""

    FILE = "file"
    DEVICE = "device"
    URL = "url"
    PATTERN = "pattern"
    SCENE = "scene"


def reference_of(given: str | int) -> str | int:
    """A reference as it was meant: a camera's index may come as text, and the first one has a name."""
    if isinstance(given, str) and _INDEX.fullmatch(given):
        return int(given)
    return 0 if given == WEBCAM else given


def kind_of(reference: str | int) -> SourceKind:
    """Told by the text alone, so that a file which is missing is still a file."""
    if isinstance(reference, int) or reference.startswith("/dev/"):
        return SourceKind.DEVICE
    if reference == TEST_PATTERN:
        return SourceKind.PATTERN
    if reference.startswith(SCENE):
        return SourceKind.SCENE
    scheme, separator, _ = reference.partition("://")
    is_path = not separator or scheme.lower() == "file" or "/" in scheme
    return SourceKind.FILE if is_path else SourceKind.URL


def is_playable(reference: str | int) -> bool:
    """Can it ever work, on whatever device? Not when no device knows what it names."""
    return not expected_instead(reference)


def expected_instead(reference: str | int) -> str:
    """What was expected in the place of a reference that no device can ever open; empty: this one is fine."""
    match kind_of(reference):
        case SourceKind.SCENE:
            return "" if scene_of(str(reference)) is not None else EXPECTED
        case SourceKind.URL:
            return _of_url(str(reference))
        case SourceKind.FILE:
            return _of_file(str(reference))
        case _:
            return ""


def misspelt(reference: str | int) -> str:
    """The same for doors that take what no device opens, as the original did: what cannot be meant so."""
    expected = expected_instead(reference) or (WHOLE if is_cut(reference) else "")
    return "" if expected == EXPECTED else expected


def is_cut(reference: str | int) -> bool:
    """Is it what was shown in the place of a reference with secrets, which nobody can open?"""
    return kind_of(reference) is SourceKind.URL and HIDDEN in str(reference)


def scene_of(reference: str) -> int | None:
    """The number in `scene://conveyor/NUMBER`. None: it names no scene."""
    found = _SCENE.fullmatch(reference)
    return None if found is None else int(found[1])


def is_finite(source: SourceSpec) -> bool:
    """Is every frame shown, and is there an end? Only a file is so, unless its mode says otherwise."""
    if source.mode is not None:
        return source.mode == "file"
    return kind_of(source.reference) is SourceKind.FILE


def is_movable(reference: str | int) -> bool:
    """Can another device open this source? A file and a camera index are about what one machine has."""
    return kind_of(reference) in (SourceKind.URL, SourceKind.PATTERN, SourceKind.SCENE)


def path_of(reference: str) -> str:
    """The path of a file. `file:///PATH` and `file:PATH` are percent-encoded (RFC 8089), a path is not.

    A relative one begins with a dot, or FFmpeg takes what stands before a colon for a protocol.
    """
    path = reference
    if reference[:5].lower() == "file:":
        path = reference[5:]
        if path.startswith("//"):
            path = "/" + path[2:].partition("/")[2]
        path = unquote(path)
    return f"./{path}" if ":" in path.partition("/")[0] else path


def sanitised(reference: str | int) -> str | int:
    """The reference without user, password, query and fragment: what may stand in reports and logs. (S30)

    Once more of what it gave is the same.
    """
    return reference if isinstance(reference, int) else _sanitised(reference)


def redacted(text: str) -> str:
    """A text for people, with every address in it sanitised. Takes time by its length, which is bounded."""
    if len(text) > MAX_TEXT:  # the last word may be half an address
        text = "".join(_BETWEEN.split(text[:MAX_TEXT])[:-1]) + "…"
    if not any(sign in text for sign in "=@") and "://" not in text:
        return text
    words = _BETWEEN.split(text)
    words[::2] = map(_redacted_word, words[::2])
    return "".join(words)


def shown_value(text: str) -> str:
    """A text that somebody gave, which may be an address as a whole, whatever signs are in it."""
    begin = text.partition(":")[0].lower()
    return str(sanitised(text)) if begin in SCHEMES or "://" in text[:_LONGEST_SCHEME] else redacted(text)


def shown_reason(text: str) -> str:
    """A reason for people where it comes in: redacted, and short enough to travel with many others."""
    return cut_reason(redacted(text))


def cut_reason(text: str) -> str:
    """No longer than a reason may be, and of characters only."""
    if text.isascii() and len(text) <= MAX_REASON:
        return text
    content = text.encode("utf-8", "replace")
    if len(content) <= MAX_REASON:
        return content.decode()
    return content[: MAX_REASON - 3].decode(errors="ignore") + "…"


def brief(given: object, limit: int = MAX_SHOWN) -> str:
    """What was given, for the text of an error: as Python writes it, redacted, and then cut."""
    text = redacted(repr(shown_value(given) if isinstance(given, str) else given))
    return text if len(text) <= limit else f"{text[:limit]}…"


# what is wrong with it ------------------------------------------------------------------------------------


def _of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SCHEMES:
        return EXPECTED
    end = _END_OF_AUTHORITY.search(rest)
    authority, tail = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    if _ILLEGAL.search(authority) or _has_password(scheme.lower(), tail):
        return ENCODED
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        if len(host) > MAX_HOST:
            return f"a host of at most {MAX_HOST} characters"
        host.encode("idna")
    except ValueError:
        return f"a host and a port from 0 to {MAX_PORT} behind {scheme.lower()}://, and {ENCODED}"
    return "" if host or scheme.lower() in _WITHOUT_HOST else f"a host behind {scheme.lower()}://"


def _has_password(scheme: str, tail: str) -> bool:
    """Is there the end of a user and a password behind what a URL's reader takes for the host?

    An @ may stand in the query of a web server (`?mail=…@…`), and nowhere else.
    """
    before, at, behind = tail.rpartition("@")
    path, mark, query = before.partition("?")
    in_query = bool(mark) and scheme.startswith("http") and path.startswith("/") and "=" in query
    return bool(at) and (not in_query or "/" in behind or "@" in path or "#" in before)


def _of_file(reference: str) -> str:
    first, _, rest = reference.partition(":")
    if first.lower() == "file":
        host = rest[2:].partition("/")[0].lower() if rest.startswith("//") else ""
        return "" if host in ("", "localhost") else "file:///PATH, with three slashes"
    if first.lower() in SCHEMES:
        return f"{first.lower()}://HOST/PATH, or ./{first.lower()}:… for a file of this name"
    return f"{EXPECTED}; ./… for a file of this name" if _has_user(reference) else ""


def _has_user(reference: str) -> bool:
    """May it be the address of a camera without its scheme? A path that begins as one is none."""
    user, at, _ = decoded(reference).rpartition("@")
    return bool(at) and ":" in user and not user.startswith(("/", ".", "~"))


# what may be shown ----------------------------------------------------------------------------------------


@lru_cache(maxsize=_REMEMBERED)
def _sanitised(reference: str) -> str:
    match kind_of(reference):
        case SourceKind.URL:
            return _sanitised_url(reference)
        case SourceKind.FILE:
            return _sanitised_file(reference)
        case _:
            return reference


def _sanitised_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
        host = parts.hostname or ""
    except ValueError:
        return _UNPARSEABLE
    # Not a scheme, and not for us to take apart: `pipe://`, or a password with a slash in it.
    if not parts.scheme or _has_password(parts.scheme, url.partition("://")[2].removeprefix(parts.netloc)):
        return _UNPARSEABLE
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{port}{_shown_path(parts.scheme, parts.path)}"


def _shown_path(scheme: str, path: str) -> str:
    shown = hidden_in_path(path)
    application, slash, _key = shown.rstrip("/").rpartition("/")
    if scheme.startswith("rtmp") and application:  # rtmp://HOST/APPLICATION/KEY
        return f"{application}{slash}{HIDDEN}"
    return shown


def _sanitised_file(reference: str) -> str:
    text = decoded(reference)
    if _has_user(reference) or ("@" in text and (text[:5].lower() == "file:" or "://" in text)):
        return _UNPARSEABLE
    return _without_pairs(reference) if has_secret_pair(reference) else reference


def _without_pairs(text: str) -> str:
    return "/".join(hidden_pairs(part) if "=" in decoded(part) else part for part in text.split("/"))


def _redacted_word(word: str) -> str:
    separator = word.find("://")
    if separator >= 0:
        begin = separator
        while begin > max(0, separator - _LONGEST_SCHEME) and word[begin - 1] in _SCHEME_LETTERS:
            begin -= 1
        address = word[begin:].rstrip(_BEHIND)
        return f"{_redacted_word(word[:begin])}{sanitised(address)}{word[begin + len(address) :]}"
    if _has_user(word):
        return HIDDEN
    return _without_pairs(word) if "=" in word and has_secret_pair(word) else word
