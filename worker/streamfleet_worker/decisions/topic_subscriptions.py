"""Whose pictures somebody looks at, by the subscriptions of a socket for pictures. Pure.

A subscription is the beginning of a topic, `v1/img/<pipeline id>/`. What is told about it is the beginning of
`<pipeline id>/` that it asks for: `door/` is one pipeline, and the empty text is all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamfleet_core.protocol.data_plane import Kind, pipeline_topic

MAX_SUBSCRIPTIONS = 1024  # at one socket: more are not looked at, so that nobody fills our memory with them

_ALL = pipeline_topic(Kind.IMG, "").removesuffix(b"/")
_LONGEST = 65  # characters of an id and its slash
_BEGINS, _ENDS = 1, 0  # the first byte of what an XPUB receives


class TopicSubscriptions:
    """The subscriptions of one XPUB, which tells of the first and of the last of equal ones."""

    def __init__(self) -> None:
        self._subscriptions: set[bytes] = set()
        self._overflowed = False

    def update(self, message: bytes) -> bool:
        """Something came from the socket. Returns whether it is the first that is one too many."""
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
        """What is looked at."""
        wanted = (_wanted(topic) for topic in self._subscriptions)
        return frozenset(text for text in wanted if text is not None)


def is_watched(pipeline_id: str, watched: Iterable[str]) -> bool:
    """Does somebody look at this pipeline?"""
    return any(f"{pipeline_id}/".startswith(beginning) for beginning in watched)


def _wanted(topic: bytes) -> str | None:
    """What a subscription asks for, None when it is no picture."""
    if _ALL.startswith(topic):
        return ""
    wanted = topic.removeprefix(_ALL)
    if len(wanted) == len(topic) or len(wanted) > _LONGEST or not wanted.isascii():
        return None
    return wanted.decode("ascii")
