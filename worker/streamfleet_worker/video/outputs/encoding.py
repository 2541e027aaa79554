"""Writes the documents of `prediction` as JSON and as msgpack, within a limit.

A document that is too large is written with shorter numbers, then with polygons that have fewer points and
instead of run lengths, then without its least confident predictions. `inference_metadata.truncated` counts
the missing ones; without that object, `truncated` at the top level does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.video.outputs.prediction import Document
from streamfleet_worker.video.outputs.shortening import (
    coarsened,
    has_shapes,
    least_bytes,
    outlined,
    shortened,
    without_shape,
)

MAX_DATAGRAM = 65_507  # bytes, the limit of UDP over IPv4

_SMALLEST = 130  # bytes of the smallest detection
_SMALLEST_CLASS = 45  # bytes of the smallest class of a picture
_SLACK = 8  # bytes
_FEW = 30  # predictions that are encoded rather than looked at
_FEW_POINTS = 12  # of a polygon; with fewer, others are left out rather
_USUAL_POINT = {"x": 9_999, "y": 9_999}  # whose bytes hardly any point exceeds

Encode = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded document."""

    content: bytes
    truncated: int  # predictions that were left out


def to_json(document: Document, limit: int = MAX_DATAGRAM, *, compact: bool = False) -> Encoded:
    """Encode as Python's `json` does, or compact without spaces. At most `limit` bytes."""

    def encode(value: Any) -> bytes:
        content = msgspec.json.encode(value)
        if not content.isascii():  # Python escapes other characters, msgspec does not
            return json.dumps(value, separators=separators).encode()
        return content if compact else msgspec.json.format(content, indent=0)

    separators = (",", ":") if compact else (", ", ": ")
    content = _whole(document, limit, encode)
    if content is not None:
        return Encoded(content, 0)
    return _Reducer(encode, limit, separator=len(separators[0]), shorten=shortened).encoded(document)


def to_msgpack(document: Document, limit: int = MAX_DATA_BODY) -> Encoded:
    """Encode the same object for the data plane. At most `limit` bytes."""
    content = _whole(document, limit, msgspec.msgpack.encode)
    if content is not None:
        return Encoded(content, 0)
    # Its numbers have one length, however many decimals they have.
    return _Reducer(msgspec.msgpack.encode, limit, separator=0, shorten=dict).encoded(document)


def _whole(document: Document, limit: int, encode: Encode) -> bytes | None:
    """Encode all of the document; None if it is too large, which is often known without encoding it."""
    predictions = document["predictions"]
    if len(predictions) > _FEW and (_are_too_many(predictions, limit) or least_bytes(predictions) > limit):
        return None
    content = encode(document)
    return content if len(content) <= limit else None


def _are_too_many(predictions: Sequence[Document], limit: int) -> bool:
    """Whether there are more predictions than ever fit."""
    smallest = _SMALLEST if predictions and "x" in predictions[0] else _SMALLEST_CLASS
    return len(predictions) > limit // smallest


@dataclass(frozen=True, slots=True)
class _Reducer:
    """Writes documents that are too large with at most `limit` bytes."""

    encode: Encode
    limit: int
    separator: int  # bytes between two predictions
    shorten: Callable[[Document], Document]

    def encoded(self, document: Document) -> Encoded:
        predictions = document["predictions"]
        if _are_too_many(predictions, self.limit):
            return self._without_least_confident(document)
        if least_bytes(predictions) <= self.limit:
            short = [self.shorten(prediction) for prediction in predictions]
            content = self.encode({**document, "predictions": short})
            if len(content) <= self.limit:
                return Encoded(content, 0)
        if has_shapes(predictions):
            coarse = self._coarse(document)
            if coarse is not None and len(coarse) <= self.limit:
                return Encoded(coarse, 0)
        return self._without_least_confident(document)

    def _coarse(self, document: Document) -> bytes | None:
        """Encode with as many points of each polygon as there is room for; None if even few are too many."""
        short = [self.shorten(prediction) for prediction in document["predictions"]]
        bare = self.encode({**document, "predictions": [without_shape(each) for each in short]})
        points = (self.limit - len(bare) - _SLACK) // (len(self.encode(_USUAL_POINT)) + self.separator)
        if points < _FEW_POINTS * len(short) // 2:
            return None
        outlines = [outlined(prediction) for prediction in short]
        return self.encode({**document, "predictions": coarsened(outlines, points, _FEW_POINTS)})

    def _without_least_confident(self, document: Document) -> Encoded:
        """Encode the document with shorter predictions and, if needed, without the least confident ones.

        Only predictions that fit are encoded, even if there are thousands.
        """
        predictions = document["predictions"]
        # The bytes of everything except the predictions, with the largest possible count of missing ones.
        room = self.limit - len(self.encode(_without(document, [], len(predictions)))) - _SLACK
        kept: dict[int, Document] = {}
        for index in sorted(range(len(predictions)), key=lambda at: -predictions[at]["confidence"]):
            short = outlined(self.shorten(predictions[index]))
            (prediction,) = coarsened([short], _FEW_POINTS, _FEW_POINTS)
            room -= len(self.encode(prediction)) + self.separator
            if room < 0:
                break
            kept[index] = prediction
        chosen = [kept[index] for index in sorted(kept)]
        truncated = len(predictions) - len(chosen)
        if not truncated:
            return Encoded(self.encode({**document, "predictions": chosen}), 0)
        return Encoded(self.encode(_without(document, chosen, truncated)), truncated)


def _without(document: Document, chosen: list[Document], truncated: int) -> Document:
    rest = {**document, "predictions": chosen}
    if "inference_metadata" not in document:
        return {**rest, "truncated": truncated}
    return {**rest, "inference_metadata": {**document["inference_metadata"], "truncated": truncated}}
