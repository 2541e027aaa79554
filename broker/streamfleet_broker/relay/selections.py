"""The selections that subscribers follow: pipelines with some labels, as the rules are at present."""

from __future__ import annotations

from dataclasses import dataclass

from streamfleet_broker.relay.subscribe_rules import Grants
from streamfleet_broker.sockets import Socket
from streamfleet_core.peers.selection import SelectionRequest


@dataclass(slots=True)
class Selecting:
    """A selection that a subscriber follows."""

    socket: Socket  # through which the subscriber is told
    key: str  # "": a program on this host
    request: SelectionRequest
    pipelines: set[str]
    told: int = 0


class Selections:
    """The selections of all subscribers, by topic. No two connections have the same one."""

    def __init__(self) -> None:
        self._wanted: dict[bytes, Selecting] = {}

    def find(self, topic: bytes) -> Selecting | None:
        """The selection of a topic."""
        return self._wanted.get(topic)

    def add(self, topic: bytes, wanted: Selecting, most: int, most_of_all: int) -> bool:
        """Add a selection, unless its key has `most` already, or all keys `most_of_all`."""
        if topic in self._wanted or len(self._wanted) >= most_of_all:
            return False
        if sum(each.key == wanted.key for each in self._wanted.values()) >= most:
            return False
        self._wanted[topic] = wanted
        return True

    def remove(self, topic: bytes) -> None:
        """Forget a selection."""
        self._wanted.pop(topic, None)

    def after(self, grants: Grants, before: Grants) -> list[bytes]:
        """Apply other rules, and return the topics of the selections that have changed."""
        relabelled = grants.relabelled(before) if self._wanted else set()
        changed = []
        for topic, wanted in self._wanted.items():
            found = grants.selected(wanted.key, dict(wanted.request.required), relabelled)
            updated = (wanted.pipelines - relabelled) | found
            if updated != wanted.pipelines:
                wanted.pipelines = updated
                changed.append(topic)
        return changed
