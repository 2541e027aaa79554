"""Filters of a subscription, parsed from the query parameters. Pure.

A repeated parameter matches any of its values; different parameters must all match.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streamfleet_core.protocol.limits import MAX_LABELS, MAX_SOURCES
from streamfleet_core.protocol.values import Id, LabelKey, LabelValue, Natural, from_plain

MAX_VALUES = 64  # of one parameter

Parameters = Sequence[tuple[str, str]]
Document = dict[str, Any]


class WrongParameter(Exception):
    """An invalid parameter: its name, what was expected, and what was given."""

    def __init__(self, name: str, expected: str, got: str) -> None:
        super().__init__(f"Input should be {expected}")
        self.name = name
        self.got = got[:80]


@dataclass(frozen=True, slots=True)
class Selector:
    """Required labels, with a value or with any value (None)."""

    needs: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Parse labels as `site=hall-1,line`, each with a value or any value. Raises: WrongParameter."""
        expected = f"labels as key=value or key, at most {MAX_LABELS}, with commas between"
        needs: list[tuple[str, str | None]] = []
        parts = text.split(",", MAX_LABELS)
        if len(parts) > MAX_LABELS:  # more than anything has
            raise WrongParameter("selector", expected, text)
        for part in parts:
            key, equals, value = part.strip().partition("=")
            try:
                needs.append((from_plain(key, LabelKey), from_plain(value, LabelValue) if equals else None))
            except msgspec.ValidationError as exc:
                raise WrongParameter("selector", expected, text) from exc
        return cls(tuple(sorted(needs, key=lambda need: (need[0], need[1] or ""))))

    def meets(self, labels: Mapping[str, str] | None) -> bool:
        """Whether labels match. Unknown labels (None) match only the empty selector."""
        if labels is None:
            return not self.needs
        return all(key in labels and (value is None or labels[key] == value) for key, value in self.needs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFilter:
    """A filter of predictions. An empty set matches any value."""

    pipelines: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    selector: Selector = Selector()
    sources: frozenset[int] = frozenset()
    classes: frozenset[str] = frozenset()
    min_confidence: float = 0.0
    empty: bool = False  # include frames without a matching prediction

    @classmethod
    def parse(cls, parameters: Parameters) -> PredictionFilter:
        """Raises: WrongParameter."""
        query = _Query(parameters)
        chosen = cls(
            pipelines=query.ids("pipeline"),
            devices=query.ids("device"),
            selector=query.selector(),
            sources=frozenset(source_of(text) for text in query.all("source")),
            classes=frozenset(query.all("class")),
            min_confidence=query.fraction("min_confidence"),
            empty=query.flag("empty"),
        )
        query.all("since")  # who fetches what is missing reads it
        query.refuse_others()
        return chosen

    def concerns(self, pipeline_id: str, labels: Mapping[str, str] | None) -> bool:
        """Whether predictions of this pipeline can match."""
        return (not self.pipelines or pipeline_id in self.pipelines) and self.selector.meets(labels)

    def pick(self, document: Document) -> Document | None:
        """The document with its matching predictions only; None if it does not match."""
        about = document.get("inference_metadata")
        about = about if isinstance(about, dict) else {}
        if self.devices and not _is_among(about.get("device"), self.devices):
            return None
        if self.sources and not _is_among(about.get("source_id", 0), self.sources):
            return None
        if not self.classes and not self.min_confidence:
            return document
        found = document.get("predictions")
        found = found if isinstance(found, list) else []
        kept = [one for one in found if isinstance(one, dict) and self._wants(one)]
        if not kept and not self.empty:
            return None
        return document if len(kept) == len(found) else {**document, "predictions": kept}

    def _wants(self, prediction: Document) -> bool:
        confidence = prediction.get("confidence", 0.0)
        if not isinstance(confidence, int | float) or confidence < self.min_confidence:
            return False
        return not self.classes or _is_among(prediction.get("class"), self.classes)


def _is_among(value: Any, chosen: frozenset[Any]) -> bool:
    """Whether a value is chosen. A device may send values of any type, even unhashable ones."""
    return isinstance(value, str | int) and value in chosen


@dataclass(frozen=True, slots=True)
class StatusFilter:
    """A filter of status documents. An empty set matches any value."""

    pipelines: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    selector: Selector = Selector()

    @classmethod
    def parse(cls, parameters: Parameters) -> StatusFilter:
        """Raises: WrongParameter."""
        query = _Query(parameters)
        chosen = cls(query.ids("pipeline"), query.ids("device"), query.selector())
        query.refuse_others()
        return chosen

    def wants_pipeline(self, pipeline_id: str, device: str, labels: Mapping[str, str] | None) -> bool:
        """Whether the status of a pipeline on a device matches."""
        return (
            (not self.pipelines or pipeline_id in self.pipelines)
            and (not self.devices or device in self.devices)
            and self.selector.meets(labels)
        )

    def wants_device(self, device: str) -> bool:
        """Whether the status of a device matches. It does not if the filter selects pipelines."""
        return not self.pipelines and not self.selector.needs and (not self.devices or device in self.devices)


@dataclass(frozen=True, slots=True)
class PreviewFilter:
    """The previews of one source of one pipeline."""

    pipeline_id: str
    source: int = 0

    @classmethod
    def parse(cls, pipeline_id: str, parameters: Parameters) -> PreviewFilter:
        """Raises: WrongParameter."""
        query = _Query(parameters)
        chosen = cls(pipeline_id, source_of(query.one("source", "0")))
        query.refuse_others()
        return chosen


@dataclass(frozen=True, order=True, slots=True)
class Mark:
    """The position of an event: the broker's epoch, and the number within it."""

    epoch: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Mark:
        """Parse `EPOCH-N`, the id of an event. Raises: WrongParameter."""
        epoch, _, n = text.partition("-")
        if not (_is_number(epoch) and _is_number(n)):
            raise WrongParameter("after", "the id of an event, EPOCH-N", text)
        return cls(int(epoch), int(n))

    @property
    def next(self) -> Mark:
        """The next mark in the same epoch."""
        return Mark(self.epoch, self.n + 1)

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"


def read_after(parameters: Parameters, last_event_id: str | None) -> Mark | None:
    """The last event that a subscriber has; None to start with the next one. Raises: WrongParameter.

    `Last-Event-ID` of a browser that reconnects is more recent than the parameter in its address.
    """
    query = _Query(parameters)
    text = query.one("after", "")
    query.refuse_others()
    text = last_event_id or text
    return Mark.parse(text) if text else None


def read_limit(parameters: Parameters, *, default: int, most: int) -> int:
    """The number of entries to list. Raises: WrongParameter."""
    query = _Query(parameters)
    text = query.one("limit", str(default))
    query.refuse_others()
    if not _is_number(text) or not 1 <= int(text) <= most:
        raise WrongParameter("limit", f"a number from 1 to {most}", text)
    return int(text)


def read_source(parameters: Parameters) -> int | None:
    """The index of a source; None for any. Raises: WrongParameter."""
    query = _Query(parameters)
    text = query.one("source", "")
    query.refuse_others()
    return source_of(text) if text else None


def source_of(text: str) -> int:
    """Parse the index of a source. Raises: WrongParameter."""
    if not _is_number(text) or int(text) >= MAX_SOURCES:
        raise WrongParameter("source", f"a number from 0 to {MAX_SOURCES - 1}", text)
    return int(text)


class _Query:
    """The parameters of a request by name. `ticket` is left to the authorisation."""

    def __init__(self, parameters: Parameters) -> None:
        self._values: dict[str, list[str]] = {}
        self._known = {"ticket"}
        for name, value in parameters:
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        self._known.add(name)
        values = self._values.get(name, [])
        if len(values) > MAX_VALUES:
            raise WrongParameter(name, f"at most {MAX_VALUES} values", str(len(values)))
        return values

    def one(self, name: str, default: str) -> str:
        values = self.all(name)
        if len(values) > 1:
            raise WrongParameter(name, "one value", ", ".join(values))
        return values[0] if values else default

    def ids(self, name: str) -> frozenset[str]:
        return frozenset(_id(name, value) for value in self.all(name))

    def selector(self) -> Selector:
        text = self.one("selector", "")
        return Selector.parse(text) if text else Selector()

    def fraction(self, name: str) -> float:
        text = self.one(name, "0")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise WrongParameter(name, "a number from 0 to 1", text)
        return value

    def flag(self, name: str) -> bool:
        text = self.one(name, "false")
        if text not in ("true", "false"):
            raise WrongParameter(name, "true or false", text)
        return text == "true"

    def refuse_others(self) -> None:
        """Refuse unknown parameters, which are probably mistakes."""
        for name, values in self._values.items():
            if name not in self._known:
                known = ", ".join(sorted(self._known - {"ticket"}))
                raise WrongParameter(name, f"one of the parameters {known}", values[0])


def _id(name: str, value: str) -> str:
    try:
        return from_plain(value, Id)
    except msgspec.ValidationError as exc:
        expected = "1 to 64 letters, digits, dots, dashes and underscores"
        raise WrongParameter(name, expected, value) from exc


def _is_number(text: str) -> bool:
    if not text.isascii() or not text.isdigit():
        return False
    try:
        from_plain(int(text), Natural)
    except (ValueError, msgspec.ValidationError):  # more digits than Python reads, or than the wire has
        return False
    return True
