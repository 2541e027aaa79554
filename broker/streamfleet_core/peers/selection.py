"""Selections: the relay tells a subscriber which pipelines have some labels, and of each change. Pure.

subscription  v1/select/<labels>@<token>/    as site=hall-1,line=3: all of them are required
messages      at once and after each change: the pipelines that have them and that the key may receive
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import (
    ID_PATTERN,
    LABEL_VALUE_PATTERN,
    MAX_SELECTED,
    MAX_TOPIC,
    whole,
)
from streamfleet_core.protocol.values import Id, Natural

_BEGIN = b"v1/select/"
_LABEL = rf"{ID_PATTERN}={LABEL_VALUE_PATTERN}"
_REQUEST = re.compile(whole(rf"v1/select/({_LABEL}(?:,{_LABEL})*)@([0-9a-f]{{8}})/"))


@dataclass(frozen=True, slots=True)
class SelectionRequest:
    """The request for the pipelines with some labels, and for each change."""

    labels: str  # as site=hall-1,line=3
    token: str  # 8 hexadecimal digits, different for each request

    @property
    def topic(self) -> bytes:
        """The topic to subscribe to. It must have at most `MAX_TOPIC` bytes."""
        return b"%s%s@%s/" % (_BEGIN, self.labels.encode("ascii"), self.token.encode("ascii"))

    @property
    def required(self) -> Mapping[str, str]:
        """The labels by their keys."""
        return dict(label.split("=") for label in self.labels.split(","))

    @classmethod
    def parse(cls, topic: bytes) -> SelectionRequest | None:
        """Decode a topic. None: it is another one."""
        if not topic.startswith(_BEGIN) or len(topic) > MAX_TOPIC:
            return None
        found = _REQUEST.match(topic.decode("ascii", "replace"))
        return None if found is None else cls(found[1], found[2])


class Selection(msgspec.Struct, frozen=True, array_like=True):
    """The pipelines with the labels of a request, sorted."""

    pipelines: Annotated[tuple[Id, ...], Meta(max_length=MAX_SELECTED)]
    more: Natural = 0  # beyond those that fit

    @classmethod
    def of(cls, pipelines: set[str]) -> Selection:
        """The selection of these, as far as they fit."""
        found = sorted(pipelines)
        return cls(tuple(found[:MAX_SELECTED]), max(0, len(found) - MAX_SELECTED))

    def encode(self) -> bytes:
        """Encode as the body of a message."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> Selection:
        """Decode a body. Raises: BadData."""
        try:
            return msgspec.msgpack.decode(body, type=cls)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise BadData("a selection of pipelines", str(exc)) from exc
