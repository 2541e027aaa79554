"""What may be shown of a video source: its credentials, query and fragment stay out of every answer. (S30)"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

UNPARSEABLE = "<unparseable source>"


def redact(reference: str | int) -> str | int:
    """The reference without what may be secret in it."""
    if isinstance(reference, int) or "://" not in reference:
        return reference
    try:
        parts = urlsplit(reference)
    except ValueError:
        return UNPARSEABLE
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
