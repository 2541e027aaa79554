"""The rows in memory, indexed, and the writes that bring the store up to date. Pure."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from typing_extensions import assert_never

from streamfleet_broker.fleet.records import (
    DeviceRecord,
    FloorRecord,
    HeldRecord,
    KeyRecord,
    ModelRecord,
    PipelineRecord,
    Record,
    RolledOutRecord,
    RolloutRecord,
    SubscriberRecord,
    TokenRecord,
    Write,
)


class RecordIndex:
    """All rows. `undo` reverts what `write` and `remove` changed if the store rejects it."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.devices: dict[str, DeviceRecord] = {}
        self.owners: dict[str, str] = {}  # public key → device: exactly the keys in `devices`
        self.tokens: dict[str, TokenRecord] = {}  # by public key
        self.pipelines: dict[str, PipelineRecord] = {}
        self._by_age: list[tuple[int, str]] = []  # `created` and id of the pipelines, oldest first
        self.placed: defaultdict[str | None, set[str]] = defaultdict(set)  # device → its pipelines
        self.leaving: defaultdict[str, set[str]] = defaultdict(set)  # device → what is taken from it
        self.standby: defaultdict[str, set[str]] = defaultdict(set)  # device → what it has as a standby
        self.keys: dict[str, KeyRecord] = {}
        self.subscribers: dict[str, SubscriberRecord] = {}
        self.models: dict[str, ModelRecord] = {}
        self.held: dict[str, HeldRecord] = {}  # by `<device>/<pipeline>`
        self.rollouts: dict[str, RolloutRecord] = {}
        self.rolled_out: dict[str, RolledOutRecord] = {}  # by `<roll-out>/<pipeline>`
        self.floor = 0
        self._by_kind: dict[str, dict[str, Any]] = {
            "device": self.devices,
            "token": self.tokens,
            "pipeline": self.pipelines,
            "key": self.keys,
            "subscriber": self.subscribers,
            "model": self.models,
            "held": self.held,
            "rollout": self.rollouts,
            "rolled_out": self.rolled_out,
        }
        self._writes: dict[tuple[str, str], Write] = {}  # since `writes` was called last
        self._concerned: set[str] = set()  # devices, since `take_concerned` was called last
        for record in records:
            self._put(*address_of(record), record)

    def write(self, record: Record) -> None:
        """Add a row, or replace the one with its key."""
        kind, key = address_of(record)
        self._record(kind, key, record)
        self._put(kind, key, record)

    def remove(self, record: Record) -> None:
        """Remove a row."""
        kind, key = address_of(record)
        self._record(kind, key, None)
        self._put(kind, key, None)

    def writes(self) -> tuple[Write, ...]:
        """The changes since the last call: one write per row."""
        writes, self._writes = self._writes, {}
        return tuple(writes.values())

    def concern(self, device: str) -> None:
        """Record that a device, or what its pipelines need, may have changed."""
        self._concerned.add(device)

    def take_concerned(self) -> set[str]:
        """The devices that may have changed since the last call, or that are gone."""
        concerned, self._concerned = self._concerned, set()
        return concerned

    def undo(self, writes: Iterable[Write]) -> None:
        """Revert these writes."""
        for write in writes:
            self._put(write.kind, write.key, write.before)

    def of_device(self, device: str | None) -> list[PipelineRecord]:
        """The pipelines of a device, or those without one, oldest first."""
        records = [self.pipelines[pipeline_id] for pipeline_id in self.placed[device]]
        return sorted(records, key=lambda record: record.created)

    def created_after(self, created: int) -> Iterator[PipelineRecord]:
        """The pipelines that are younger than one with this `created`, oldest first."""
        first = bisect.bisect_left(self._by_age, (created + 1, ""))
        return (self.pipelines[pipeline_id] for _, pipeline_id in itertools.islice(self._by_age, first, None))

    def tokens_of(self, device: str) -> list[TokenRecord]:
        """The tokens with which a device may enroll."""
        return [token for token in self.tokens.values() if token.device == device]

    def taken_from(self, device: str) -> list[PipelineRecord]:
        """The pipelines that a device must give up before they may start elsewhere, oldest first."""
        records = [self.pipelines[pipeline_id] for pipeline_id in self.leaving[device]]
        return sorted(records, key=lambda record: record.created)

    def standing_by(self, device: str) -> list[PipelineRecord]:
        """The pipelines of which a device is the standby, oldest first."""
        records = [self.pipelines[pipeline_id] for pipeline_id in self.standby[device]]
        return sorted(records, key=lambda record: record.created)

    def check(self) -> None:
        """Assert what always holds."""
        assert not self._writes
        assert self.owners == {record.public_key: name for name, record in self.devices.items()}
        assert not self.owners.keys() & self.tokens.keys()
        assert len({record.short_id for record in self.devices.values()}) == len(self.devices)
        assert len({record.created for record in self.pipelines.values()}) == len(self.pipelines)
        assert self._by_age == sorted((record.created, key) for key, record in self.pipelines.items())
        assert sum(map(len, self.placed.values())) == len(self.pipelines)
        leaving = sum(record.leaving is not None for record in self.pipelines.values())
        assert sum(map(len, self.leaving.values())) == leaving
        moving = sum(record.standby is not None for record in self.pipelines.values())
        assert sum(map(len, self.standby.values())) == moving
        for device in self.devices.values():
            assert device.drain is None or device.cordoned
        for pipeline_id, record in self.pipelines.items():
            assert pipeline_id in self.placed[record.device]
            assert record.device is None or record.device in self.devices
            assert record.requested in (None, record.device)
            assert 1 <= record.run_generation <= record.generation
            assert record.desired_status != "stop" or record.holder is not None
            assert record.leaving is None or record.leaving != record.device
            assert record.leaving is None or record.leaving in self.devices
            assert record.leaving is None or pipeline_id in self.leaving[record.leaving]
            assert record.device is None or not record.is_poison
            if record.standby is not None:
                assert record.standby.device in self.devices
                assert record.standby.device != record.device
                assert record.device is not None
                assert record.leaving in (None, record.standby.device)
                assert record.standby.run_generation <= record.generation
                assert record.desired_status != "stop"
                assert not record.pinned
                assert pipeline_id in self.standby[record.standby.device]

    def _record(self, kind: str, key: str, after: Record | None) -> None:
        earlier = self._writes.get((kind, key))
        before = self._find(kind, key) if earlier is None else earlier.before
        self._writes[kind, key] = Write(kind, key, before, after)

    def _find(self, kind: str, key: str) -> Record | None:
        if kind == "floor":
            return FloorRecord(self.floor) if self.floor else None
        found: Record | None = self._by_kind[kind].get(key)
        return found

    def _put(self, kind: str, key: str, record: Record | None) -> None:
        before = self._find(kind, key)
        if isinstance(before, DeviceRecord):
            del self.owners[before.public_key]
        if isinstance(record, DeviceRecord):
            self.owners[record.public_key] = key
        if kind == "device":
            self._concerned.add(key)
        if kind == "pipeline":
            self._index(key, before, record)
        if kind == "floor":
            self.floor = record.generation if isinstance(record, FloorRecord) else 0
        elif record is None:
            self._by_kind[kind].pop(key, None)
        else:
            self._by_kind[kind][key] = record

    def _index(self, key: str, before: Record | None, record: Record | None) -> None:
        """Update what is indexed of a pipeline."""
        if isinstance(before, PipelineRecord):
            for ids in self._places(before):
                ids.discard(key)
            if record is None:
                del self._by_age[bisect.bisect_left(self._by_age, (before.created, key))]
        if isinstance(record, PipelineRecord):
            for ids in self._places(record):
                ids.add(key)
            if before is None:
                bisect.insort(self._by_age, (record.created, key))
        for each in (before, record):
            if isinstance(each, PipelineRecord):
                self._concerned.update(name for name in each.devices if name is not None)

    def _places(self, record: PipelineRecord) -> list[set[str]]:
        """The sets that hold the id of a pipeline."""
        places = [self.placed[record.device]]
        if record.leaving is not None:
            places.append(self.leaving[record.leaving])
        if record.standby is not None:
            places.append(self.standby[record.standby.device])
        return places


def held_key(device: str, pipeline_id: str) -> str:
    """The key of the row that says that a device has or had a pipeline."""
    return f"{device}/{pipeline_id}"


def address_of(record: Record) -> tuple[str, str]:  # noqa: C901 - a table
    """The kind and key of a row."""
    match record:
        case DeviceRecord():
            return "device", record.device
        case TokenRecord():
            return "token", record.public_key
        case PipelineRecord():
            return "pipeline", record.pipeline_id
        case KeyRecord():
            return "key", record.key
        case SubscriberRecord():
            return "subscriber", record.name
        case ModelRecord():
            return "model", record.id
        case FloorRecord():
            return "floor", "generation"
        case HeldRecord():
            return "held", held_key(record.device, record.pipeline_id)
        case RolloutRecord():
            return "rollout", record.id
        case RolledOutRecord():
            return "rolled_out", f"{record.rollout}/{record.pipeline_id}"
        case _:
            assert_never(record)
