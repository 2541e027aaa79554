"""What a source's reference says: its kind of source, who can open it, and what of it may be shown."""

from __future__ import annotations

import enum
import re
from urllib.parse import unquote, urlsplit

from streamfleet_broker.protocol.values import SourceSpec

TEST_PATTERN = "TestPatternStreamProducer"  # the original's name
SCENE = "scene://"  # `scene://conveyor/1`: drawn by the device, the number says which of its kind
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "rtp", "tcp")  # of the URLs that play
EXPECTED = (
    f"a path, a URL of {', '.join(SCHEMES)}, the index of a camera, {SCENE}conveyor/NUMBER or {TEST_PATTERN}"
)

_UNPARSEABLE = "<unparseable source>"
_SCENE = re.compile(SCENE + r"conveyor/([1-9][0-9]{0,5})")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:;,.)]")


class SourceKind(enum.Enum):
    """Where the frames of a reference come from."""

    FILE = "file"
    DEVICE = "device"
    URL = "url"
    PATTERN = "pattern"
    SCENE = "scene"


def kind_of(reference: str | int) -> SourceKind:
    """Told by the text alone, so that a file which is missing is still a file."""
    if isinstance(reference, int) or reference.startswith("/dev/"):
        return SourceKind.DEVICE
    if reference == TEST_PATTERN:
        return SourceKind.PATTERN
    if reference.startswith(SCENE):
        return SourceKind.SCENE
    scheme, separator, _ = reference.partition("://")
    return SourceKind.URL if separator and scheme.lower() != "file" else SourceKind.FILE


def is_playable(reference: str | int) -> bool:
    """Can it ever work, on whatever device? Not when no device knows what it names."""
    match kind_of(reference):
        case SourceKind.SCENE:
            return scene_of(str(reference)) is not None
        case SourceKind.URL:
            return str(reference).partition("://")[0].lower() in SCHEMES
        case _:
            return True


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
    """The path of a file, which may be given as `file://`. Raises: ValueError when that cannot be read."""
    return unquote(urlsplit(reference).path) if "://" in reference else reference


def sanitised(reference: str | int) -> str | int:
    """The reference without user, password, query and fragment: what may stand in reports and logs. (S30)"""
    if kind_of(reference) is not SourceKind.URL:
        return reference
    try:
        parts = urlsplit(str(reference))
        port = f":{parts.port}" if parts.port is not None else ""
        host = parts.hostname or ""
    except ValueError:
        return _UNPARSEABLE
    if ":" in host:
        host = f"[{host}]"
    # Not a scheme, and not for us to take apart: `pipe://`, or a password with a slash in it.
    if not parts.scheme or "@" in parts.path:
        return _UNPARSEABLE
    return f"{parts.scheme}://{host}{port}{parts.path}"


def redacted(text: str) -> str:
    """A text for people, with every address in it sanitised."""
    return _ADDRESS.sub(lambda found: str(sanitised(found.group())), text)
