"""What a source's reference says: which kind of source it names, and what of it may be shown."""

from __future__ import annotations

import enum
from urllib.parse import urlsplit

TEST_PATTERN = "TestPatternStreamProducer"  # the original's name


class SourceKind(enum.Enum):
    """Only a file has an end and waits; everything else is live, and the newest frame wins."""

    FILE = "file"
    DEVICE = "device"
    URL = "url"
    PATTERN = "pattern"


def kind_of(reference: str | int) -> SourceKind:
    """Told by the text alone, so that a file which is missing is still a file."""
    if isinstance(reference, int) or reference.startswith("/dev/"):
        return SourceKind.DEVICE
    if reference == TEST_PATTERN:
        return SourceKind.PATTERN
    return SourceKind.URL if "://" in reference else SourceKind.FILE


def sanitised(reference: str | int) -> str | int:
    """The reference without user, password, query and fragment: what may stand in reports and logs."""
    if kind_of(reference) is not SourceKind.URL:
        return reference
    try:
        parts = urlsplit(str(reference))
        port = f":{parts.port}" if parts.port is not None else ""
        host = parts.hostname or ""
    except ValueError:
        return "<unparseable source>"
    if ":" in host:
        host = f"[{host}]"
    # Not a scheme, and not for us to take apart: `pipe://`, or a password with a slash in it.
    if not parts.scheme or "@" in parts.path:
        return "<unparseable source>"
    return f"{parts.scheme}://{host}{port}{parts.path}"
