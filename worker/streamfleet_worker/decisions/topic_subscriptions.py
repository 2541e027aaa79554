"""Tracks which pipelines have preview subscribers, from the subscriptions of a preview socket. Pure.

A subscription is a prefix of a topic, `v1/img/<pipeline id>/`. It is reported as the prefix of `<pipeline
id>/` that it matches: `door/` is one pipeline, and the empty text is all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamfleet_core.protocol.data_plane import Kind, pipeline_topic

MAX_SUBSCRIPTIONS = 1024  # per socket; further ones are ignored, so that a peer cannot fill our memory

_ALL = pipeline_topic(Kind.IMG, "").removesuffix(b"/")
_LONGEST = 65  # characters of an id and its slash
_BEGINS, _ENDS = 1, 0  # the first byte of what an XPUB receives


class TopicSubscriptions:
    """The subscriptions of one XPUB, which passes on only the first and the last of equal ones."""

    def __init__(self) -> None:
        self._subscriptions: set[bytes] = set()
        self._overflowed = False

    def update(self, message: bytes) -> bool:
        """Apply a message of the socket. Returns whether it is the first above the limit."""
        if not message:
            return False
        kind, topic = message[0], message[1:]
        if kind == _ENDS:
            self._subscriptions.discard(topic)
        elif kind == _BEGINS and _wanted(topic) is not None:
            if len(self._subscriptions) < MAX_SUBSCRIPTIONS:
                self._subscriptions.add(topic)
            elif not self._overflowed:
                self._overflowed = True
                return True
        return False

    @property
    def watched(self) -> frozenset[str]:
        """The prefixes with a subscriber."""
        wanted = (_wanted(topic) for topic in self._subscriptions)
        return frozenset(text for text in wanted if text is not None)


def is_watched(pipeline_id: str, watched: Iterable[str]) -> bool:
    """Whether this pipeline has a preview subscriber."""
    return any(f"{pipeline_id}/".startswith(beginning) for beginning in watched)


def _wanted(topic: bytes) -> str | None:
    """The prefix that a subscription asks for; None if it is not for previews."""
    if _ALL.startswith(topic):
        return ""
    wanted = topic.removeprefix(_ALL)
    if len(wanted) == len(topic) or len(wanted) > _LONGEST or not wanted.isascii():
        return None
    return wanted.decode("ascii")
