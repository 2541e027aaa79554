"""Rules for subscribing, derived from the rows and replaced with each durable write. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile

from streamfleet_broker.fleet.capacity.placement import meets
from streamfleet_broker.fleet.records import PipelineRecord, Record, SubscriberRecord, Write
from streamfleet_core.protocol.data_plane import Kind, pipeline_topic
from streamfleet_core.protocol.values import Labels


@dataclass(frozen=True, slots=True)
class Grants:
    """The topics that a key may receive. A key without a row, such as an operator's, receives all."""

    keys: frozenset[str] = frozenset()  # all keys that may subscribe
    subscribers: Mapping[str, SubscriberRecord] = field(default_factory=dict)  # by public key
    labels: Mapping[str, Labels] = field(default_factory=dict)  # of every pipeline

    @classmethod
    def of(cls, records: Iterable[Record]) -> Grants:
        """Derive the rules from all rows of the store. No key may subscribe yet."""
        subscribers = {each.public_key: each for each in records if isinstance(each, SubscriberRecord)}
        labels = {each.pipeline_id: each.labels for each in records if isinstance(each, PipelineRecord)}
        return cls(subscribers=subscribers, labels=labels)

    def allowing(self, keys: frozenset[str]) -> Grants:
        """The same rules, with exactly these keys."""
        return replace(self, keys=keys)

    def after(self, writes: Iterable[Write]) -> Grants:
        """The rules after these writes; the same object if nothing changes."""
        relevant = [write for write in writes if _is_relevant(write)]
        if not relevant:
            return self
        subscribers, labels = dict(self.subscribers), dict(self.labels)
        for write in relevant:
            if isinstance(write.before, SubscriberRecord):
                del subscribers[write.before.public_key]
            if isinstance(write.after, SubscriberRecord):
                subscribers[write.after.public_key] = write.after
            if isinstance(write.before, PipelineRecord):
                del labels[write.before.pipeline_id]
            if isinstance(write.after, PipelineRecord):
                labels[write.after.pipeline_id] = write.after.labels
        return replace(self, subscribers=subscribers, labels=labels)

    def name_of(self, key: str) -> str:
        """The name of a key for log lines. Programs on the broker's host have the empty key."""
        record = self.subscribers.get(key)
        return record.name if record is not None else key or "a program on this host"

    def is_limited(self, key: str) -> bool:
        """Whether a key may receive only some pipelines."""
        record = self.subscribers.get(key)
        return record is not None and record.is_limited

    def prefixes(self, key: str, asked: bytes, kinds: Iterable[Kind]) -> tuple[bytes, ...]:
        """The topics granted to a key that subscribes to a prefix."""
        if key not in self.keys:
            return ()
        return beginning_with(asked, self.topics(key, kinds)) if self.is_limited(key) else (asked,)

    def may_ask(self, key: str, pipeline_id: str) -> bool:
        """Whether a key may ask for a replay of a pipeline: it may receive its predictions."""
        record = self.subscribers.get(key)
        if key not in self.keys:
            return False
        if record is None or not record.is_limited or pipeline_id in record.pipelines:
            return True
        labels = self.labels.get(pipeline_id)
        return bool(record.selector) and labels is not None and meets(labels, record.selector)

    def selected(self, key: str, labels: Labels, among: Iterable[str]) -> set[str]:
        """Which of these pipelines have labels and may be received by a key; "": a program on this host."""
        return {
            name
            for name in among
            if meets(self.labels.get(name, {}), labels) and (not key or self.may_ask(key, name))
        }

    def relabelled(self, before: Grants) -> set[str]:
        """The pipelines that are new, gone or have other labels than before."""
        names = self.labels.keys() | before.labels.keys()
        return {name for name in names if self.labels.get(name) != before.labels.get(name)}

    def topics(self, key: str, kinds: Iterable[Kind]) -> tuple[bytes, ...]:
        """All topics that a limited key may receive, sorted."""
        pipelines = self._pipelines(self.subscribers[key])
        return tuple(sorted(pipeline_topic(kind, pipeline) for pipeline in pipelines for kind in kinds))

    def _pipelines(self, record: SubscriberRecord) -> Iterable[str]:
        """The pipelines of a subscriber, in a fixed order. A named pipeline need not exist yet."""
        if not record.selector:
            return record.pipelines
        selected = [name for name, labels in self.labels.items() if meets(labels, record.selector)]
        return sorted({*record.pipelines, *selected})


def beginning_with(prefix: bytes, topics: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Select those of sorted topics that start with a prefix."""
    first = bisect_left(topics, prefix)
    return tuple(takewhile(lambda topic: topic.startswith(prefix), islice(topics, first, None)))


def _is_relevant(write: Write) -> bool:
    """Whether a write concerns a subscriber, or the labels of a pipeline."""
    before, after = write.before, write.after
    if isinstance(before, PipelineRecord) and isinstance(after, PipelineRecord):
        return before.labels != after.labels
    return isinstance(before or after, SubscriberRecord | PipelineRecord)
